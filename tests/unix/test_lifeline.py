"""The dead man's switch with real processes: one that never gives the interpreter back is ended all the same."""

import os
import signal
import subprocess
import time

import pytest

from clusterd.unix import lifeline
from tests.unix.children import python

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 30.0

HOLDER = """
import ctypes, itertools, os, signal, sys, time
from clusterd.unix import lifeline
fd, number, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
switch = lifeline.Switch(fd, number)
if how == "turns":                      # it is told by others, and takes the alarm over
    print("armed", flush=True)
    sys.stdin.read(1)
    time.sleep(0.3)                     # an alarm in whole seconds: of one that was just set nothing is over yet
    since = switch.disarm()
    print(since, signal.alarm(0), flush=True)
elif how == "own alarm":                # the switch was never set off: whose alarm it is
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.alarm(1000)
    print(switch.disarm(), signal.alarm(0), flush=True)
elif how == "busy":
    print("armed", flush=True)
    sum(itertools.repeat(0, 10**13))    # one call into C: no handler of Python's runs
elif how == "waits":
    print("armed", flush=True)
    while True:
        ctypes.PyDLL(None).sleep(1000)  # a wait that keeps the interpreter's lock; any signal ends it
elif how == "forks":
    if os.fork() == 0:
        os.read(int(sys.argv[4]), 1)    # held open by it too; the signal is not its
        os._exit(0)
    print("armed", flush=True)
    sum(itertools.repeat(0, 10**13))
"""


def holder(line: lifeline.Lifeline, number: int, how: str, *more: int) -> "subprocess.Popen[bytes]":
    fd = line.lend()
    try:
        return python(
            HOLDER, str(fd), str(number), how, *map(str, more), pass_fds=(fd, *more),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
    finally:
        os.close(fd)


@pytest.mark.parametrize("how", ["busy", "waits"])
def test_who_keeps_the_interpreter_is_ended_so_many_seconds_after_the_death(how: str) -> None:
    line = lifeline.Lifeline()
    with holder(line, 1, how) as process:
        assert process.stdout
        assert process.stdout.readline() == b"armed\n"
        began = time.monotonic()
        line.close()
        assert process.wait(DEADLINE) == -signal.SIGALRM
        assert time.monotonic() - began > 0.9


@pytest.mark.slow
def test_as_long_as_somebody_holds_it_nobody_is_ended() -> None:
    line = lifeline.Lifeline()
    other = os.dup(line.fileno())
    with holder(line, 1, "busy") as process:
        assert process.stdout
        process.stdout.readline()
        line.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        os.close(other)
        assert process.wait(DEADLINE) == -signal.SIGALRM


def test_who_turns_takes_the_alarm_over_and_learns_since_when() -> None:
    line = lifeline.Lifeline()
    with holder(line, 30, "turns") as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        line.close()
        process.stdin.write(b"x")
        process.stdin.flush()
        since, left = process.stdout.readline().split()
        assert 0 <= float(since) < DEADLINE
        assert int(left) == 0
        assert process.wait(DEADLINE) == 0


def test_an_applications_own_alarm_is_left_alone_where_the_switch_was_not_set_off() -> None:
    line = lifeline.Lifeline()
    with holder(line, 30, "own alarm") as process:
        assert process.stdout
        since, left = process.stdout.readline().split()
        assert float(since) == 0
        assert 900 < int(left) <= 1000
    line.close()


def test_a_forked_child_neither_is_meant_nor_keeps_anybody_alive() -> None:
    line = lifeline.Lifeline()
    reading, writing = os.pipe()
    with holder(line, 1, "forks", reading) as process:
        assert process.stdout
        process.stdout.readline()
        line.close()
        assert process.wait(DEADLINE) == -signal.SIGALRM
        os.close(reading)
        assert os.write(writing, b"x") == 1, "the child lives: it has the only reading end"
        assert process.stdout.read() == b"", "and ends by itself"
    os.close(writing)


def test_an_end_may_be_taken_up_by_its_number() -> None:
    line = lifeline.Lifeline()
    again = lifeline.Lifeline(os.dup(line.fileno()))
    line.close()
    line.close()
    reading = again.lend()
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    again.close()
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_the_number_is_the_next_that_is_free() -> None:
    usual = range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
    assert lifeline.number_for(0.5, ()) == 16
    assert lifeline.number_for(16.0, ()) == 16
    assert lifeline.number_for(16.1, ()) == signal.SIGPWR == 30
    assert lifeline.number_for(30.5, ()) == usual[0]
    assert lifeline.number_for(usual[3], {usual[3]}) == usual[4]
    assert lifeline.number_for(1000.0, ()) == signal.SIGRTMAX
    assert lifeline.number_for(1000.0, {signal.SIGRTMAX}) == signal.SIGRTMAX - 1
