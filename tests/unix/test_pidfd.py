"""Pidfds of real children."""

import os
import select
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.unix import pidfd
from clusterd.unix.pidfd import ExitStatus
from tests.unix.children import in_child

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def forked(code: int | None = None) -> tuple[int, int]:
    """A child that exits with ``code``, or else sleeps until it is killed; its pid and pidfd."""
    pid = os.fork()
    if pid == 0:
        if code is not None:
            os._exit(code)
        while True:
            signal.pause()
    return pid, pidfd.open_pidfd(pid)


def ended(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(30_000), "the process has not ended within 30 s"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255))
def test_an_exit_code_arrives_whole(code: int) -> None:
    _, fd = forked(code)
    ended(fd)
    assert pidfd.wait(fd) == ExitStatus(code=code, signal=None)
    os.close(fd)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT, signal.SIGRTMIN + 3])
def test_a_death_by_signal_names_the_signal(number: int) -> None:
    _, fd = forked()
    assert pidfd.send_signal(fd, number)
    ended(fd)
    assert pidfd.wait(fd) == ExitStatus(code=None, signal=number)
    os.close(fd)


def test_a_status_is_said_in_words() -> None:
    assert str(ExitStatus(code=3, signal=None)) == "exit code 3"
    assert str(ExitStatus(code=None, signal=9)) == "signal 9 (SIGKILL)"
    assert str(ExitStatus(code=None, signal=signal.SIGRTMIN + 3)) == f"signal {signal.SIGRTMIN + 3}"


def test_a_running_child_has_no_status_and_a_looked_at_one_can_still_be_reaped_once() -> None:
    pid, fd = forked()
    assert pidfd.wait(fd) is None
    assert not pidfd.peek(fd)
    pidfd.send_signal(fd, signal.SIGKILL)
    ended(fd)
    assert pidfd.peek(fd)
    assert pidfd.peek(fd)
    assert pidfd.send_signal(fd, 0), "a zombie still takes signals"
    assert pidfd.wait(fd) == ExitStatus(code=None, signal=signal.SIGKILL)
    with pytest.raises(ChildProcessError):
        pidfd.wait(fd)
    with pytest.raises(ChildProcessError):
        pidfd.peek(fd)
    assert not pidfd.send_signal(fd, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        pidfd.open_pidfd(pid)
    os.close(fd)


def test_a_process_that_is_no_child_cannot_be_reaped() -> None:
    fd = pidfd.open_pidfd(os.getppid())
    with pytest.raises(ChildProcessError):
        pidfd.wait(fd)
    os.close(fd)


def test_a_pidfd_is_close_on_exec() -> None:
    fd = pidfd.open_pidfd(os.getpid())
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_the_group_of_a_zombie_leader_is_ended_with_what_it_left_behind() -> None:
    # The grandchild holds the pipe's writing end: its end is the pipe's.
    code = "import os, subprocess; subprocess.Popen(['sleep', '60']); os._exit(7)"
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0)
    fd = pidfd.open_pidfd(leader.pid)
    ended(fd)
    poll = select.poll()
    assert leader.stdout is not None
    poll.register(leader.stdout, select.POLLIN)
    assert poll.poll(0) == [], "the grandchild lives"
    pidfd.kill_group(leader.pid)
    assert poll.poll(5000), "the grandchild was not ended"
    assert pidfd.wait(fd) == ExitStatus(code=7, signal=None)
    pidfd.kill_group(leader.pid)  # gone: no error
    os.close(fd)
    leader.stdout.close()
    leader.returncode = 7


@pytest.mark.parametrize("number", [-1, 0, 1])
def test_a_number_that_would_hit_strangers_is_no_group(number: int) -> None:
    with pytest.raises(ValueError, match="not the process group of a child"):
        pidfd.kill_group(number)


def test_the_callers_own_group_is_never_ended() -> None:
    with pytest.raises(ValueError, match="not the process group of a child"):
        pidfd.kill_group(os.getpgrp())


def test_no_descriptor_and_no_zombie_is_left_after_many_children() -> None:
    for _ in range(20):
        pid, fd = forked(1)
        ended(fd)
        pidfd.wait(fd)
        os.close(fd)
        assert not os.path.exists(f"/proc/{pid}")


def test_the_group_that_a_process_leads_ends_without_it() -> None:
    def leader() -> bool:
        os.setpgid(0, 0)
        inside = [subprocess.Popen(["sleep", "300"]) for _ in range(3)]
        outside = subprocess.Popen(["sleep", "300"], process_group=0)
        pidfd.kill_own_group()
        ends = [process.wait(30) for process in inside]
        outside.kill()
        return ends == [-signal.SIGKILL] * 3 and outside.wait(30) == -signal.SIGKILL

    assert in_child(leader)
