"""The teaching programs of deploy/examples, as a reader would run them."""

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.programs import DEADLINE, ROOT, environment
from tests.procfs import processes_marked, wait_for

EXAMPLES = ROOT / "deploy" / "examples"


class Running:
    """An example that runs, and what it prints."""

    def __init__(self, name: str, directory: Path) -> None:
        self.directory = directory
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), "0"],
            env=environment(directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def until(self, fits: Callable[[str], bool], count: int = 1) -> str:
        """The ``count``-th line that fits."""

        def found() -> str | None:
            lines = [line for line in self.lines if fits(line)]
            return lines[count - 1] if len(lines) >= count else None

        with self._changed:
            assert self._changed.wait_for(found, DEADLINE), self.lines
            line = found()
        assert line is not None
        return line

    @property
    def port(self) -> int:
        return int(self.until(lambda line: "on port " in line).rsplit(" ", 1)[1])

    def get(self, path: str = "/", timeout: float = DEADLINE) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        wait_for(lambda: not processes_marked(self.directory), DEADLINE, "the end of its workers")
        self._reader.join(DEADLINE)
        return code


@pytest.fixture
def running(run_dir: Path) -> Iterator[Callable[[str], Running]]:
    started: list[Running] = []

    def start(name: str) -> Running:
        started.append(Running(name, run_dir))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        for pid in processes_marked(run_dir):
            os.kill(pid, signal.SIGKILL)
        one._reader.join(DEADLINE)
        assert one.process.stdout is not None
        one.process.stdout.close()


def test_a_worker_per_core(running: Callable[[str], Running]) -> None:
    example = running("worker_per_core.py")
    cores = len(os.sched_getaffinity(0))
    example.until(lambda line: "listens" in line, cores)
    heard: set[str] = set()

    def everybody() -> bool:
        heard.update(example.get()[1] for _ in range(cores))
        return len(heard) == cores

    wait_for(everybody, DEADLINE, "an answer of each")
    with pytest.raises((http.client.HTTPException, OSError)):
        example.get("/kill")
    example.until(lambda line: "died (1); starting another" in line)
    example.until(lambda line: "listens" in line, cores + 1)
    assert example.get()[0] == 200
    assert example.end() == -signal.SIGTERM


def test_primary_and_workers_exchange_messages(running: Callable[[str], Running]) -> None:
    example = running("messages.py")
    assert example.process.wait(DEADLINE) == 0
    assert example.until(lambda line: line.startswith("all have answered")) == "all have answered: 235"
    for number, total in ((1, 45), (2, 190)):
        assert f"worker {number} says the sum is {total}" in example.lines
        assert any(line.startswith(f"worker {number} says hello from process ") for line in example.lines)


def test_the_primary_counts_requests(running: Callable[[str], Running]) -> None:
    example = running("request_counter.py")
    example.until(lambda line: "listens" in line, 2)
    for _ in range(4):
        example.get()
    example.until(lambda line: line.startswith("requests: 4, the last by worker "))
    assert example.end() == -signal.SIGTERM


def test_a_rolling_restart_loses_nothing(running: Callable[[str], Running]) -> None:
    example = running("rolling_restart.py")
    example.until(lambda line: "listens" in line, 2)
    pids, over = set(), threading.Event()
    failures: list[object] = []

    def ask() -> None:
        while not over.is_set():
            try:
                status, body = example.get()
                pids.add(body)
                assert status == 200
            except Exception as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    example.process.send_signal(signal.SIGHUP)
    example.until(lambda line: line == "all workers are replaced")
    over.set()
    asking.join(DEADLINE)
    assert failures == []
    assert len([line for line in example.lines if "is replaced by" in line]) == 2
    assert len(pids) >= 3
    assert example.end() == 0


def test_a_production_cluster_ends_gracefully(running: Callable[[str], Running]) -> None:
    example = running("production.py")
    example.until(lambda line: "is ready (2 of 2)" in line)
    connection = http.client.HTTPConnection("127.0.0.1", example.port, timeout=DEADLINE)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello\n"
    example.process.send_signal(signal.SIGTERM)
    example.until(lambda line: line == "shutting down")
    # The worker that has this connection drains: sooner or later it says so.
    bodies = []
    while not bodies or bodies[-1] != b"draining\n":
        connection.request("GET", "/")
        bodies.append(connection.getresponse().read())
    connection.close()
    assert example.process.wait(DEADLINE) == 0
    example.until(lambda line: line == "the last worker is gone")


def test_a_production_cluster_gives_up_on_crash_after_crash(running: Callable[[str], Running]) -> None:
    example = running("production.py")
    example.until(lambda line: "is ready (2 of 2)" in line)
    for crash in range(1, 6):
        with pytest.raises((http.client.HTTPException, OSError)):
            example.get("/crash")
        example.until(lambda line: "crashed" in line, crash)
        if crash < 5:
            example.until(lambda line: "is ready" in line, 2 + crash)
    assert example.process.wait(DEADLINE) == 1
    example.until(lambda line: "giving up" in line)


def test_who_does_not_beat_is_replaced(running: Callable[[str], Running]) -> None:
    example = running("health_check.py")
    example.until(lambda line: "listens" in line, 2)
    with pytest.raises((http.client.HTTPException, OSError)):
        example.get("/hang")
    example.until(lambda line: "is silent, and killed" in line)
    example.until(lambda line: "listens" in line, 3)
    assert example.get()[1] == "ok\n"
    assert example.end() == -signal.SIGTERM
