"""What the benches share: servers side by side, load, CPU and memory as the kernel counts them, and the written result.

Both sides of a comparison run in the same minute, in alternating rounds; the median of the ratios is the figure, and
minimum and maximum are shown with it. Nothing here asserts a target: a bench says whether it was met.
"""

import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "results"
APPS = Path(__file__).parent / "apps"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS_PER_ROUND", "4"))
WORKERS = 4


def free_port() -> int:
    """A port that nobody has now: the peers cannot be asked for port 0 and tell what they got."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A running server: its main process and where it answers."""

    process: psutil.Popen
    port: int
    monitoring: int = 0
    output: Path = Path(os.devnull)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def tree(self) -> list[psutil.Process]:
        """The main process and all that descends from it."""
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def primary_cpu(self) -> float:
        """Seconds of processor time of the main process alone."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def pss(self) -> int:
        """Bytes of memory of the whole tree, shared pages counted once (proc(5), smaps_rollup)."""
        total = 0
        for process in self.tree():
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += 1024 * int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
        return total


@contextmanager
def served(
    argv: Sequence[str], port: int, *, monitoring: int = 0, env: dict[str, str] | None = None, cwd: Path = APPS
) -> Iterator[Server]:
    """Start a server, wait until it answers, end it.

    Its code is compiled as that of an installed package is: a checkout may be told to keep no compiled code, and then
    compiling costs the start, and the memory of its scraps, of one side only.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    output = Path(f"/tmp/clusterd-bench-{os.getpid()}-{port}.log")
    with output.open("wb") as sink:
        process = psutil.Popen(
            argv, cwd=cwd, env={**inherited, **(env or {})}, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
        )
    server = Server(process, port, monitoring, output)
    try:
        wait_until_served(server)
        yield server
    finally:
        family = server.tree() if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else []
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except psutil.TimeoutExpired:
                pass
        for left in family:
            if left.is_running():
                left.kill()
        process.wait(10)
        output.unlink(missing_ok=True)


def wait_until_served(server: Server, deadline: float = 30.0) -> None:
    """Until a request is answered."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.process.args} ended: {server.output.read_text()[-3000:]}")
        try:
            if b"HTTP/1.1 200" in request(server.port, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{server.process.args} does not answer")


def request(port: int, path: str = "/", timeout: float = 10.0) -> bytes:
    """One request on a connection of its own; the whole response."""
    with socket.create_connection(("127.0.0.1", port), timeout) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


@contextmanager
def clusterd(
    app: str, *, workers: int = WORKERS, settings: Sequence[str] = (), cwd: Path = APPS, patience: float = 30.0
) -> Iterator[Server]:
    """``clusterd run APP``, quiet, with monitoring; ``patience``: seconds until all workers are to be ready."""
    port, monitoring = free_port(), free_port()
    run_dir = Path(f"/tmp/clusterd-bench-{os.getpid()}-{port}")
    sets = [
        f"monitoring.address=127.0.0.1:{monitoring}",
        f"clusterd.run_dir={run_dir}",
        *settings,
    ]
    flags = [part for one in sets for part in ("--set", one)]
    argv = [sys.executable, "-m", "clusterd", "run", app, "-w", str(workers), "-b", f"127.0.0.1:{port}", *flags]
    try:
        with served(argv, port, monitoring=monitoring, cwd=cwd) as server:
            wait_ready(server, workers, patience)
            yield server
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def wait_ready(server: Server, workers: int, deadline: float = 30.0) -> None:
    """Until all workers are, not only the first."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        page = request(server.monitoring, "/readyz?verbose").decode()
        if f"{workers} of {workers} ready" in page:
            return
        time.sleep(0.05)
    raise RuntimeError(f"not all workers became ready: {page}")


@contextmanager
def uvicorn(app: str, *, workers: int = WORKERS) -> Iterator[Server]:
    """``uvicorn --workers N``, quiet."""
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", app, "--workers", str(workers), "--port", str(port)]
    argv += ["--log-level", "error", "--no-access-log"]
    with served(argv, port) as server:
        yield server


@contextmanager
def node_cluster(*, workers: int = WORKERS) -> Iterator[Server]:
    """Node's own cluster with the same answer."""
    port = free_port()
    with served(["node", str(APPS / "cluster.js"), str(port), str(workers)], port) as server:
        yield server


def npm_program(package: str) -> str:
    """The program of a package of npm's, installed beside the Python packages the first time that it is asked for."""
    place = Path(sys.prefix) / "npm"
    program = place / "node_modules/.bin" / package
    if not program.exists():
        place.mkdir(exist_ok=True)
        flags = ["--prefix", str(place), "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(["npm", "install", *flags, package], check=True, stdout=subprocess.DEVNULL)
    return str(program)


@dataclass
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    errors: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(server: Server, *, connections: int, seconds: float = SECONDS, new_connections: bool) -> Load:
    """Load by wrk, keep-alive or a new connection a request."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s"]
    if new_connections:
        argv += ["-H", "Connection: close"]
    text = subprocess.run([*argv, server.url], capture_output=True, text=True, check=True).stdout
    total, span = re.search(r"(\d+) requests in ([\d.]+)s", text).groups()  # type: ignore[union-attr]
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    count = sum(map(int, errors.groups())) if errors else 0
    return Load(int(total), float(span), count + (int(bad[1]) if bad else 0))


@dataclass
class Figure:
    """One row of a result: what was measured, what was aimed at, every round's value."""

    what: str
    target: str
    values: list[float]
    met: Callable[[float], bool]
    unit: str = ""
    details: dict[str, object] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> dict[str, object]:
        return {
            "what": self.what,
            "target": self.target,
            "median": round(self.median, 4),
            "min": round(min(self.values), 4),
            "max": round(max(self.values), 4),
            "rounds": len(self.values),
            "unit": self.unit,
            "met": self.met(self.median),
            **({"details": self.details} if self.details else {}),
        }


def report(name: str, figures: Sequence[Figure], choose: str = "") -> None:
    """Print the rows and keep them in ``results/NAME.json``.

    Args:
        choose: the word by which pytest finds the bench, where it is not ``name``.
    """
    rows = [figure.row() for figure in figures]
    for row in rows:
        sys.stdout.write(
            f"\n{'met   ' if row['met'] else 'MISSED'} {row['what']}: median {row['median']}{row['unit']}"
            f" (min {row['min']}, max {row['max']}, {row['rounds']} rounds), target {row['target']}\n"
        )
    RESULTS.mkdir(exist_ok=True)
    document = {
        "bench": name,
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} processors, Linux {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "command": f"make bench ARGS='-k {choose or name}'",
        "figures": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
