"""Processes that are known by their environment, real ones."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from clusterd.unix import marked

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 30.0
SLEEPS = "echo; exec sleep 300"
DEAF = "trap '' TERM; echo; sleep 300 & wait; sleep 300"


class Cast:
    def __init__(self) -> None:
        self.name = f"MARK_{uuid.uuid4().hex}"
        self.all: list[subprocess.Popen[bytes]] = []

    def mark(self, value: str = "") -> bytes:
        return f"{self.name}={value}".encode()

    def start(self, code: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            ["sh", "-c", code], env={**os.environ, **env}, start_new_session=True, stdout=subprocess.PIPE
        )
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        self.all.append(process)
        return process


@pytest.fixture
def cast() -> Iterator[Cast]:
    one = Cast()
    yield one
    for process in one.all:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(DEADLINE)
        assert process.stdout
        process.stdout.close()


def test_who_carries_all_marks_is_asked_to_end_and_nobody_else(cast: Cast) -> None:
    both = cast.start(SLEEPS, {cast.name: "1", "OTHER": "2"})
    one = cast.start(SLEEPS, {cast.name: "1"})
    similar = cast.start(SLEEPS, {cast.name: "11", "OTHER": "2"})
    began = time.monotonic()
    marked.end([cast.mark("1"), b"OTHER=2"])
    assert both.wait(DEADLINE) == -signal.SIGTERM
    assert time.monotonic() - began < DEADLINE
    assert one.poll() is None
    assert similar.poll() is None


def test_who_does_not_listen_is_made_to_end_with_all_that_it_goes_on_to_start(cast: Cast) -> None:
    deaf = cast.start(DEAF, {cast.name: ""})
    assert deaf.stdout
    marked.end([cast.mark()])
    assert deaf.wait(DEADLINE) == -signal.SIGKILL
    assert deaf.stdout.read() == b"", "its children held this open"


def test_who_is_spared_is_let_be(cast: Cast) -> None:
    spared = cast.start(SLEEPS, {cast.name: ""})
    marked.end([cast.mark()], spare=lambda pid: pid == spared.pid)
    assert spared.poll() is None
    assert cast.mark() in (marked.environment(spared.pid) or ())


def test_the_end_of_all_is_waited_for_and_not_for_ever(cast: Cast) -> None:
    process = cast.start(SLEEPS, {cast.name: ""})
    marked.wait([cast.mark()], 0.05)
    assert process.poll() is None
    process.terminate()
    marked.wait([cast.mark()], DEADLINE)
    assert process.wait(DEADLINE) == -signal.SIGTERM
    marked.end([cast.mark()])


def test_of_a_process_that_is_gone_there_is_nothing_to_know() -> None:
    process = subprocess.Popen(["true"])
    process.wait(DEADLINE)
    assert marked.environment(process.pid) is None
