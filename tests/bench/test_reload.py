"""Reloads under load: what is lost, side by side with the peers; bad code, slow code, and code that burns CPU."""

import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench import arena

APP = """
import asyncio, os, time
VERSION = {version!r}
{at_import}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {at_startup}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        return await send({{"type": "lifespan.shutdown.complete"}})
    body = VERSION.encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""
BURN = "end = time.monotonic() + 8\nwhile time.monotonic() < end: sum(range(1000))"


class Client(threading.Thread):
    """Asks again and again; on one connection for as long as it may keep it, or on a new one each time."""

    def __init__(self, port: int, over: threading.Event, keep: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.over, self.keep = port, over, keep
        self.answered = 0
        self.lost: list[str] = []
        self.took: list[tuple[float, float]] = []

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self.over.is_set():
            begun = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
                connection.request("GET", "/", headers={} if self.keep else {"connection": "close"})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.lost.append(str(response.status))
                self.answered += 1
                if response.getheader("connection", "").lower() == "close" or not self.keep:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                if connection is not None:
                    connection.close()
                connection = None
            self.took.append((begun, time.monotonic() - begun))
            time.sleep(0.002)
        if connection is not None:
            connection.close()


@contextmanager
def load(port: int, new: int = 4, kept: int = 4) -> Iterator[list[Client]]:
    over = threading.Event()
    clients = [Client(port, over, keep) for keep in [False] * new + [True] * kept]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        over.set()
        for client in clients:
            client.join(30)


def source(version: str, at_import: str = "", at_startup: str = "pass") -> str:
    return APP.format(version=version, at_import=at_import, at_startup=at_startup)


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="clusterd-bench-"))
    write(made, source("one"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write(place: Path, text: str) -> None:
    new = place / "app.new"
    new.write_text(text)
    stamp = time.time_ns()
    os.utime(new, ns=(stamp, stamp))
    new.replace(place / "app.py")
    shutil.rmtree(place / "__pycache__", ignore_errors=True)


def ended(server: arena.Server, count: int, deadline: float = 90.0) -> list[tuple[float, dict[str, object]]]:
    """Waits for so many verdicts in the log; each with the time at which it was seen."""
    seen: list[tuple[float, dict[str, object]]] = []
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        records = [json.loads(line) for line in server.output.read_text().splitlines() if '"reload_ended"' in line]
        seen += [(time.monotonic(), record) for record in records[len(seen) :]]
        if len(seen) >= count:
            return seen
        time.sleep(0.01)
    raise RuntimeError(f"no verdict: {server.output.read_text()[-2000:]}")


@contextmanager
def ours(place: Path, *settings: str) -> Iterator[arena.Server]:
    with arena.clusterd("app:app", settings=("log.format=json", *settings), cwd=place) as server:
        yield server


def three_reloads(server: arena.Server, place: Path, again: Callable[[int], None]) -> tuple[int, int]:
    """Requests lost on new connections, and on kept ones."""
    with load(server.port) as clients:
        time.sleep(1)
        for number in range(3):
            write(place, source(f"version {number}"))
            again(number)
        time.sleep(1)
    return tuple(sum(len(client.lost) for client in clients if client.keep is keep) for keep in (False, True))  # type: ignore[return-value]


def of_ours() -> tuple[int, int]:
    with folder() as place, ours(place, "pools.web.reload.canary=1s") as server:

        def again(number: int) -> None:
            server.process.send_signal(signal.SIGHUP)
            verdict = ended(server, number + 1)[-1][1]
            assert verdict["verdict"] == "promoted", verdict

        return three_reloads(server, place, again)


def of_peer(argv: list[str]) -> tuple[int, int]:
    with folder() as place:
        port = arena.free_port()
        line = [part.replace("PORT", str(port)) for part in argv]
        with arena.served([sys.executable, "-m", *line], port, cwd=place) as server:

            def again(number: int) -> None:
                server.process.send_signal(signal.SIGHUP)
                time.sleep(4)

            return three_reloads(server, place, again)


PEERS = {
    "gunicorn": ["gunicorn", "-w", "4", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:PORT", "app:app"],
    "uvicorn": ["uvicorn", "--workers", "4", "--port", "PORT", "--log-level", "error", "app:app"],
    "granian": ["granian", "--interface", "asgi", "--workers", "4", "--port", "PORT", "app:app"],
}


def of_pm2() -> tuple[int, int]:
    """PM2's cluster mode of Node, which reloads a worker at a time."""
    pm2 = arena.npm_program("pm2")
    with folder() as place:
        port = arena.free_port()
        env = {"PM2_HOME": str(place / "pm2"), "PORT": str(port)}
        argv = [f"{pm2}-runtime", "start", str(arena.APPS / "graceful.js"), "-i", "4"]
        with arena.served(argv, port, env=env, cwd=place) as server:

            def again(number: int) -> None:
                subprocess.run([pm2, "reload", "all"], env=os.environ | env, check=True, capture_output=True)

            return three_reloads(server, place, again)


def test_reloads_lose_nothing() -> None:
    """3 reloads under load, new connections and kept ones: 0 and 0 lost."""
    figures = []
    new, kept = of_ours()
    figures.append(arena.Figure("lost on new connections, clusterd", "0", [float(new)], lambda v: v == 0))
    figures.append(arena.Figure("lost on kept connections, clusterd", "0", [float(kept)], lambda v: v == 0))
    peers = {name: partial(of_peer, argv) for name, argv in PEERS.items()} | {"PM2": of_pm2}
    for name, measure in peers.items():
        new, kept = measure()
        figures.append(arena.Figure(f"lost on new connections, {name}", "shown", [float(new)], lambda v: True))
        figures.append(arena.Figure(f"lost on kept connections, {name}", "shown", [float(kept)], lambda v: True))
    arena.report("reload", figures)


def test_bad_code_is_found_out() -> None:
    """Import, lifespan, 2 s after ready: the service is unharmed, the verdict within 1 s of the failure."""
    dies = source("bad", at_startup="asyncio.get_running_loop().call_later(2, os._exit, 1)")
    cases = {
        "fails at import": (source("bad", at_import="raise RuntimeError"), 0.0),
        "fails in lifespan": (source("bad", at_startup="raise SystemExit(1)"), 0.0),
        "dies 2 s after ready": (dies, 2.0),
    }
    figures = []
    with folder() as place, ours(place) as server:
        for number, (name, (text, after)) in enumerate(cases.items()):
            with load(server.port) as clients:
                time.sleep(0.5)
                write(place, text)
                begun = time.monotonic()
                server.process.send_signal(signal.SIGHUP)
                at, verdict = ended(server, number + 1)[-1]
                time.sleep(0.5)
            assert verdict["verdict"] == "rolled_back", verdict
            lost = float(sum(len(client.lost) for client in clients))
            most = 2 if after else 0  # a worker that ends by itself takes what it had taken with it
            figures.append(arena.Figure(f"{name}: lost", f"at most {most}", [lost], lambda v, most=most: v <= most))  # type: ignore[misc]
            took = at - begun - after
            figures.append(
                arena.Figure(f"{name}: verdict after", "within 1 s of the failure", [took], lambda v: v < 1, " s")
            )
    arena.report("reload_bad", figures)


def p99(clients: list[Client], begin: float, end: float) -> float:
    took = [span for client in clients for begun, span in client.took if begin <= begun < end]
    return statistics.quantiles(took, n=100)[98]


def test_slow_imports_are_not_felt() -> None:
    """p99 while new code sleeps for 8 s at import: within 1.5 of before; while it burns: within 1.2 of a stranger."""
    sleeps, burns = [], []
    for _ in range(arena.ROUNDS):
        with folder() as place, ours(place, "pools.web.reload.canary=1s") as server:
            with load(server.port) as clients:
                begun = time.monotonic()
                time.sleep(8)
                write(place, source("slow", at_import="time.sleep(8)"))
                asked = time.monotonic()
                server.process.send_signal(signal.SIGHUP)
                time.sleep(8)
                before, during = p99(clients, begun + 0.5, asked), p99(clients, asked, asked + 8)
                ended(server, 1)
            sleeps.append(during / before)
            with load(server.port) as clients:
                time.sleep(0.5)
                stranger = arena.psutil.Popen([sys.executable, "-c", f"import time\n{BURN}"])
                begun = time.monotonic()
                stranger.wait(20)
                alone = p99(clients, begun, begun + 8)
                time.sleep(1)
                write(place, source("burns", at_import=BURN))
                asked = time.monotonic()
                server.process.send_signal(signal.SIGHUP)
                time.sleep(8)
                burns.append(p99(clients, asked, asked + 8) / alone)
                ended(server, 2)
    arena.report(
        "reload_slow",
        [
            arena.Figure("p99 while the import sleeps, over before", "at most 1.5", sleeps, lambda v: v <= 1.5),
            arena.Figure("p99 while the import burns, over a stranger's", "at most 1.2", burns, lambda v: v <= 1.2),
        ],
    )


def test_a_crash_loop_is_tamed() -> None:
    """A worker that dies 0.3 s after ready, every time, for 8 s: at most 5 starts a slot."""
    text = source("dies", at_startup="asyncio.get_running_loop().call_later(0.3, os._exit, 1)")
    with folder() as place:
        write(place, text)
        port, monitoring = arena.free_port(), arena.free_port()
        run_dir = place / "run"
        sets = [f"monitoring.address=127.0.0.1:{monitoring}", f"clusterd.run_dir={run_dir}", "log.level=debug"]
        flags = [part for one in [*sets, "log.format=json"] for part in ("--set", one)]
        argv = [sys.executable, "-m", "clusterd", "run", "app:app", "-w", "4", "-b", f"127.0.0.1:{port}", *flags]
        output = place / "log"
        with output.open("wb") as sink:
            process = arena.psutil.Popen(argv, cwd=place, stdout=sink, stderr=sink)
            time.sleep(8)
            process.kill()
            process.wait(10)
        starts = [json.loads(line)["slot"] for line in output.read_text().splitlines() if '"worker_starting"' in line]
    most = float(max(starts.count(slot) for slot in range(4)))
    arena.report("crash_loop", [arena.Figure("starts of a slot in 8 s", "at most 5", [most], lambda v: v <= 5)])
