"""Child processes by pidfd: signals that cannot hit a stranger, and exits that are reaped by whoever asked.

A pidfd polls readable when its process has ended (pidfd_open(2)); it needs Linux 5.3, waiting on it 5.4.
"""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended; exactly one of the two is not ``None``.

    Attributes:
        code: what it gave to exit(2), 0 to 255.
        signal: the number of the signal that ended it.
    """

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            return f"signal {self.signal} ({signal.Signals(self.signal).name})"
        except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no name of its own
            return f"signal {self.signal}"


def open_pidfd(pid: int) -> int:
    """A pidfd of ``pid``, close-on-exec. Once that process may have been reaped, its pid may be another's: be early.

    Raises:
        ProcessLookupError: there is no such process.
        OSError: EMFILE, ENFILE, ENOMEM; ENOSYS before Linux 5.3.
    """
    return os.pidfd_open(pid)


def send_signal(pidfd: int, sig: int) -> bool:
    """Send a signal; 0 only asks whether it could be sent. A process that has ended and is not reaped still takes it.

    Returns:
        False if the process is gone.

    Raises:
        PermissionError: this process may not signal that one (another user, and no CAP_KILL: SIGKILL fails too).
    """
    try:
        signal.pidfd_send_signal(pidfd, sig)
    except ProcessLookupError:
        return False
    return True


def wait(pidfd: int) -> ExitStatus | None:
    """Reap the child if it has ended, without blocking; ``None`` while it runs.

    Raises:
        ChildProcessError: it is no child of this process (any more), or SIGCHLD is ignored here, or it was reaped
            already.
    """
    return _status(os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG))


def peek(pidfd: int) -> bool:
    """Whether the child has ended; it stays a zombie, so its pid and its process group's number stay its own.

    Raises:
        ChildProcessError: as ``wait``.
    """
    return os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_group(pid: int) -> None:
    """SIGKILL the process group led by ``pid``, a child that has ended and is not reaped yet (see ``peek``).

    Once the leader is reaped its number may name a stranger's group. Members that made a session of their own are not
    hit. A group that is gone, or that never came to be, is not an error; one that may not be signalled neither.

    Raises:
        ValueError: the number is not a process's (0 and 1 would mean this process's own group, or everybody), or it is
            the caller's own group.
    """
    if pid <= 1 or pid == os.getpgrp():
        raise ValueError(f"{pid} is not the process group of a child")
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_own_group() -> None:
    """SIGKILL all of the process group that this process leads, but itself; nobody if it leads none."""
    me = os.getpid()
    before: set[int] = set()
    while True:  # what they forked in the meantime is in the next round
        found = set()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                if pid == me or os.getpgid(pid) != me:
                    continue
                fd = os.pidfd_open(pid)
            except OSError:
                continue  # it has ended
            try:
                if os.getpgid(pid) == me:
                    found.add(pid)
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(fd)
        if found <= before:
            return
        before = found


def _status(result: os.waitid_result | None) -> ExitStatus | None:
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status, signal=None)
    return ExitStatus(code=None, signal=result.si_status)


def is_child(fd: int, pid: int) -> bool:
    """Whether ``fd`` is a pidfd of our child ``pid``. Who is believed here is signalled with our rights, and reaped."""
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        peek(fd)
    except OSError:
        return False
    return re.search(rf"^Pid:\t{pid}$", info, re.MULTILINE) is not None
