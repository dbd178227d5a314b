"""If the primary dies, with real processes: workers finish, the zygote buries, a successor takes stock."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher, Service
from tests.real.looking import app, ask, children, pids_of, start, title, watched, zygote

SOURCE = """
import asyncio, itertools, os, sys, time
parent = None
async def answer(path):
    global parent
    parent = parent or os.getppid()
    if path == "/orphaned":        # answers when its primary has died
        while os.getppid() == parent:
            await asyncio.sleep(0.01)
        for number in range(100):
            print("said by an orphan", number)
        print("complained of by an orphan", file=sys.stderr)
    elif path == "/until":         # answers when it may
        while not os.path.exists("end"):
            await asyncio.sleep(0.01)
    elif path == "/flood":
        print("x" * 300_000)
        print("the end of the flood")
    elif path == "/hang":
        print("hanging", flush=True)
        time.sleep(1000)
    elif path == "/hang-in-c":     # in one call into C that keeps the interpreter's lock: no handler, no thread runs
        print("hanging", flush=True)
        sum(itertools.repeat(0, 10**13))
    elif path == "/parent":
        return parent
    return os.getpid()
"""

WHOLE_LINES = {"PYTHONUNBUFFERED": ""}
"""With this variable, which the harness sets, Python writes a line's end apart, and loses the rest of a write that a
signal has interrupted."""

BRIEF = {"shutdown": {"drain_timeout": "700ms", "linger": "100ms"}}


class Request:
    """A request on its way, in a connection of its own."""

    def __init__(self, service: Service, path: str) -> None:
        self.socket = service.connect()
        self.path = path

    def send(self) -> None:
        self.socket.sendall(f"GET {self.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def body(self) -> Any:
        with self.socket, self.socket.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return json.loads(body)


@contextmanager
def requests(service: Service, path: str, count: int) -> Iterator[list[Request]]:
    """Requests that the app works on: each is sent, and the metrics say that they have arrived."""
    sent = [Request(service, path) for _ in range(count)]
    try:
        for request in sent:
            request.send()
        flying = "clusterd_http_requests_in_flight"
        wait_for(lambda: service.metrics().value(flying) >= count, DEADLINE, "the arrival of the requests")
        yield sent
    finally:
        for request in sent:
            request.socket.close()


def successor(launcher: Launcher, first: Service, settings: dict[str, Any] | None = None) -> Service:
    """A second primary in the same run directory."""
    (first.run_dir / "test-notify").unlink()  # the first harness's own
    return start(launcher, app(SOURCE), settings)


def test_workers_finish_what_they_have_and_print_to_the_services_own_output(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE), env=WHOLE_LINES)
    workers = pids_of(service)
    with requests(service, "/orphaned", 4) as sent, watched(*workers.values(), zygote(service)) as processes:
        service.signal(signal.SIGKILL)
        assert {request.body() for request in sent} == set(workers.values())
        for process in processes:
            process.wait_end()
    assert service.wait_exit() == -signal.SIGKILL
    spoken = [record["raw"] for record in service.logged(lambda record: "raw" in record)]
    assert sorted(spoken) == sorted(
        [f"said by an orphan {number}" for number in range(100)] * 4 + ["complained of by an orphan"] * 4
    )


def test_a_worker_that_stands_in_a_print_when_the_primary_dies_goes_on(launcher: Launcher) -> None:
    """The pipe is full and has no reader any more but the worker itself."""
    service = start(launcher, app(SOURCE), workers=1, env=WHOLE_LINES)
    (pid,) = pids_of(service).values()
    with watched(pid) as (process,), service.client() as client:
        client.request("GET", "/")
        client.getresponse().read()
        service.signal(signal.SIGSTOP)
        client.request("GET", "/flood")
        wait_for(lambda: "pipe_write" in Path(f"/proc/{pid}/wchan").read_text(), DEADLINE, "a full pipe")
        service.signal(signal.SIGKILL)
        assert client.getresponse().status == 200
        process.wait_end()
    service.wait_exit()
    spoken = [record["raw"] for record in service.logged(lambda record: "raw" in record)]
    assert [len(line) for line in spoken] == [300_000, len("the end of the flood")]


@pytest.mark.parametrize("path", ["/hang", "/hang-in-c"])
def test_a_worker_that_hangs_is_killed_by_the_undertaker(launcher: Launcher, path: str) -> None:
    service = start(launcher, app(SOURCE), BRIEF)
    hanging = Request(service, path)
    hanging.send()
    service.wait_log(lambda record: "hanging" in json.dumps(record))
    forker = zygote(service)
    with watched(*pids_of(service).values(), forker) as processes, hanging.socket:
        service.signal(signal.SIGKILL)
        wait_for(lambda: " undertaker " in title(forker), DEADLINE, "an undertaker")
        for process in processes:
            process.wait_end(8)
    service.wait_exit()


def test_without_primary_and_zygote_workers_end_by_themselves(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE))
    everybody = [zygote(service), *pids_of(service).values()]
    with requests(service, "/orphaned", 2) as sent, watched(*everybody) as (forker, *workers):
        forker.signal(signal.SIGKILL)
        service.signal(signal.SIGKILL)
        assert len({request.body() for request in sent}) == 2
        for worker in workers:
            worker.wait_end()
    service.wait_exit()


@pytest.mark.parametrize("preload", [True, False])
def test_who_imports_is_deaf_to_its_channel_and_reached_by_the_death_signal(launcher: Launcher, preload: bool) -> None:
    """While a zygote or a worker imports it reads nothing; its parent's death ends it all the same."""
    source = "import threading\nprint('importing', flush=True)\nthreading.Event().wait()"
    service = launcher.start(source, {"pools": {"web": {"preload": preload}}}, workers=1, ready=False)
    service.wait_log(lambda record: "importing" in json.dumps(record))
    with watched(*children(service.pid)) as processes:
        service.signal(signal.SIGKILL)
        for process in processes:
            process.wait_end()
    service.wait_exit()


def test_a_new_primary_shows_what_an_old_one_left_and_counts_it_in_no_pool(launcher: Launcher) -> None:
    first = start(launcher, app(SOURCE))
    with requests(first, "/until", 1) as (request,):
        old = pids_of(first)
        with watched(*old.values()) as processes:
            first.signal(signal.SIGKILL)
            first.wait_exit()
            assert (first.run_dir / "control.sock").is_socket()  # stale, and in nobody's way
            second = successor(launcher, first)
            (left,) = second.status()["leftovers"]
            assert left in old.values()
            assert second.wait_log("leftovers")["pids"] == [left]
            assert left not in pids_of(second).values()
            assert len(second.workers()) == 2
            assert ask(second) in pids_of(second).values()
            (launcher.folder / "end").touch()
            assert request.body() == left
            for process in processes:
                process.wait_end()
        wait_for(lambda: second.status()["leftovers"] == [], DEADLINE, "the end of what was left")
        assert second.stop() == 0


@pytest.mark.parametrize("path", ["/hang", "/hang-in-c"])
def test_what_outstays_its_drain_is_killed_by_the_new_primary(launcher: Launcher, path: str) -> None:
    first = start(launcher, app(SOURCE), BRIEF, workers=1)
    hanging = Request(first, path)
    hanging.send()
    first.wait_log(lambda record: "hanging" in json.dumps(record))
    with watched(zygote(first), *pids_of(first).values()) as (forker, worker), hanging.socket:
        forker.signal(signal.SIGKILL)
        first.signal(signal.SIGKILL)
        second = successor(launcher, first, BRIEF)
        assert second.wait_log("leftovers")["pids"] == [worker.pid]  # the status may be asked for when it is gone
        worker.wait_end(20)
        assert second.stop() == 0


def test_a_living_primary_in_the_same_run_directory_is_named(launcher: Launcher) -> None:
    first = start(launcher, app(SOURCE), workers=1)
    command = [sys.executable, "-m", "clusterd", "run", "--config", os.fspath(launcher.configuration())]
    second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert second.returncode == 1
    assert str(first.pid) in second.stderr
    assert first.status()["service"]["pid"] == first.pid


# -- a primary that was away -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_primary_that_was_stopped_and_wakes_late_blames_nobody(launcher: Launcher) -> None:
    """While it is away its worker needs longer than start_timeout: it gets the time back that nobody looked."""
    source = app("import os\nasync def answer(path):\n    return os.getpid()").replace(
        'phase = (await receive())["type"]',
        'phase = (await receive())["type"]\n            if phase.endswith("up"):\n'
        '                import asyncio; await asyncio.sleep(5); open("slept", "w")',
    )
    settings = {"pools": {"web": {"start_timeout": "3s"}}, "log": {"level": "debug"}}
    service = launcher.start(source, settings, workers=1, ready=False)
    service.wait_log("worker_online")
    service.signal(signal.SIGSTOP)
    wait_for((launcher.folder / "slept").exists, DEADLINE, "a start that took longer than it may")
    service.signal(signal.SIGCONT)
    service.wait_ready()
    assert not service.logged("worker_killed")
    assert not service.logged("worker_exited")


# -- the first moments, and the terminal -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_signal_in_the_first_moments_is_kept_or_takes_its_default_action(launcher: Launcher) -> None:
    """Sent as early as possible, and then ever later in the start. Before Python runs nobody can keep a signal."""
    (launcher.folder / "app.py").write_text(app(SOURCE))
    path = launcher.configuration(workers=1)
    codes = []
    for number in range(8):
        service = launcher.run("--config", os.fspath(path))
        if number >= 4:  # the first ones at once
            marks = ["blocked", "listening", "monitoring", "zygote_ready"]
            mark = marks[number % 4]
            if mark == "blocked":
                wait_for(lambda pid=service.pid: blocks_term(pid), DEADLINE, "a blocked SIGTERM")
            else:
                service.wait_log(mark)
        service.signal(signal.SIGTERM)
        codes.append(service.wait_exit(10))
        (launcher.run_dir / "test-notify").unlink()
    assert set(codes) <= {0, -signal.SIGTERM}
    assert codes[4:] == [0] * 4


def blocks_term(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk:", "SigCgt:"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


def test_ctrl_c_at_a_terminal_reaches_the_primary_alone(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE))
    groups = {os.getpgid(pid) for pid in [*pids_of(service).values(), zygote(service)]}
    assert len(groups) == 3
    assert os.getpgid(service.pid) not in groups  # the terminal's signals go to a group
    with requests(service, "/until", 1) as (request,):
        os.killpg(os.getpgid(service.pid), signal.SIGINT)
        service.wait_log("worker_draining")
        (launcher.folder / "end").touch()
        assert request.body(), "its worker lived to answer it"
    assert service.wait_exit() == 0
