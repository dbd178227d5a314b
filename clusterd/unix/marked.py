"""Processes that carry a mark: words in the environment that they were executed with, which all their children inherit.

Who was started by whom is lost when a parent dies, and a session of its own takes a process out of its group; its
environment it keeps, unless somebody took care to give it another.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path
from typing import Final

PATIENCE: Final = 1.0
"""Seconds from SIGTERM to SIGKILL."""

_ROUNDS: Final = 20
"""Looks for those that the killed have started in the meantime."""


def environment(pid: int) -> frozenset[bytes] | None:
    """The words of a process's environment as it was executed; ``None`` if that is not for this process to know, or if
    there is no such process. May wait for that process's memory lock."""
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return None


def end(marks: Collection[bytes], spare: Callable[[int], bool] = lambda pid: False) -> None:
    """End all processes that carry all of these marks: ask them, and after :data:`PATIENCE` make them. Blocks.

    Args:
        marks: words of the environment, ``NAME=value``.
        spare: called with the pid of each; those for which it is true are let be, and this process always.
    """
    if not _tell(signal.SIGTERM, marks, spare):
        return
    before: list[int] = []
    for _ in range(_ROUNDS):
        left = _tell(signal.SIGKILL, marks, spare)
        if left in ([], before):  # none, or only such as may not be signalled
            return
        before = left


def wait(marks: Collection[bytes], seconds: float) -> None:
    """Until all processes that carry all of these marks now have ended, or so long."""
    with closing(_Found(marks, lambda pid: False)) as found:
        found.wait(seconds)


def _tell(number: signal.Signals, marks: Collection[bytes], spare: Callable[[int], bool]) -> list[int]:
    """Send a signal to those that there are now, and wait for their end; returns their pids."""
    with closing(_Found(marks, spare)) as found:
        found.signal(number)
        found.wait(PATIENCE)
        return found.pids


class _Found:
    """Those that there are now, by pidfd."""

    def __init__(self, marks: Collection[bytes], spare: Callable[[int], bool]) -> None:
        self.fds: list[int] = []
        self.pids: list[int] = []
        wanted = frozenset(marks)
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                fd = os.pidfd_open(int(name))  # first: what is read then is of this process, and not of its successor
            except OSError:
                continue
            words = environment(int(name))
            if words is not None and wanted <= words and not spare(int(name)):
                self.fds.append(fd)
                self.pids.append(int(name))
            else:
                os.close(fd)

    def signal(self, number: signal.Signals) -> None:
        for fd in self.fds:
            try:
                signal.pidfd_send_signal(fd, number)
            except OSError:
                continue  # it has ended, or is another user's by now

    def wait(self, seconds: float) -> None:
        """Until all have ended, or so long."""
        poll = select.poll()
        for fd in self.fds:
            poll.register(fd, select.POLLIN)
        left, deadline = len(self.fds), time.monotonic() + seconds
        while left and (rest := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(rest * 1000):
                poll.unregister(fd)
                left -= 1

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
