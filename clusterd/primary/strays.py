"""Processes that nobody announced: grandchildren that the primary adopts, and what is left of a dead predecessor.

The primary is a child subreaper. What a dead worker leaves behind in sessions of its own becomes the primary's child;
it is ended, for nobody else will. A status that somebody waits for is never taken: children are looked at with
WNOWAIT, one by one, and not at all while a fork is on its way.
"""

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from ..unix import cgroup, marked, pidfd, process
from ..wire.zygote import ORIGIN
from .plans import RUN_DIR_VARIABLE

LAST_LOOK: Final = 2.0
"""Seconds that what was adopted gets at most to die of SIGKILL when the primary ends, and what it leaves in turn."""

LOOK_EVERY: Final = 0.002


class Orphans:
    """The adopted children.

    Args:
        known: the pids of workers and zygotes.
        spawning: whether a fork is on its way.
        tell: called with a sentence for each that is ended.
    """

    def __init__(
        self, known: Callable[[], Collection[int]], spawning: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self._known = known
        self._spawning = spawning
        self._tell = tell
        self._asked: set[int] = set()
        # What was there before the primary, which an entry script started before its `exec`, is no worker's.
        self._let_be = set(process.children())

    def look(self, *, now: bool = False) -> None:
        """Reap those that ended; ask the others to end, and when they are seen again make them.

        As pid 1 the living are let be: who runs a command in a container has its children adopted by pid 1. So are
        those that were children of this process before it was a primary.

        Args:
            now: the primary ends: SIGKILL at once, also to those that it adopts by that. Waits for their end, but not
                for ever.
        """
        if self._spawning():
            return
        deadline = time.monotonic() + LAST_LOOK
        while self._look(now) and now and time.monotonic() < deadline:
            select.select([], [], [], LOOK_EVERY)

    def _look(self, now: bool) -> bool:
        """Whether there may be more to see to by now."""
        known = set(self._known())
        seen: set[int] = set()
        reaped = 0
        try:
            children = process.children()
        except OSError:
            return False  # out of descriptors: there is a next time
        self._let_be.intersection_update(children)
        for pid in children:
            if pid in known:
                continue
            try:
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
                if ended:
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
                    reaped += 1  # its own children are ours since
                    continue
                if os.getpid() == 1 or pid in self._let_be:
                    continue
                seen.add(pid)
                if now or pid in self._asked:
                    _signal(pid, signal.SIGKILL)
                else:
                    self._tell(f"ending process {pid} ({_command(pid)}), which a dead worker left behind")
                    _signal(pid, signal.SIGTERM)
            except OSError:
                continue  # gone since, another user's, or we are out of descriptors
        self._asked = seen
        return bool(seen or reaped)


def _signal(pid: int, number: signal.Signals) -> None:
    """To a child of ours, which cannot have been reaped by anybody else."""
    fd = pidfd.open_pidfd(pid)
    try:
        pidfd.send_signal(fd, number)
    finally:
        os.close(fd)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()  # unlike cmdline it waits for no lock of the process
    except OSError:
        return "?"


class Leftovers:
    """Workers of an earlier primary of this service, and what they have started: shown, counted in no pool, killed if
    they outstay the workers' drain.

    Args:
        loop: the primary's loop.
        run_dir: what marks this service's processes.
        allowed: seconds from now until those that are left are killed; ``None`` is never.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, run_dir: str, allowed: float | None) -> None:
        self.pids: dict[int, int] = {}  # pid -> pidfd
        self._loop = loop
        # A child is none of an earlier primary's: those have no parent any more, or one outside of here.
        own = {os.getpid(), *process.children()}
        for pid in cgroup.processes():
            if pid not in own:
                self._watch(pid, run_dir)
        self._timer = loop.call_later(allowed, self._kill) if self.pids and allowed is not None else None

    def close(self) -> None:
        """Watch them no more."""
        if self._timer is not None:
            self._timer.cancel()
        for fd in self.pids.values():
            self._loop.remove_reader(fd)
            os.close(fd)
        self.pids.clear()

    def _watch(self, pid: int, run_dir: str) -> None:
        try:
            fd = pidfd.open_pidfd(pid)  # first: what is read of it then is of this process, and not of its successor
        except OSError:
            return  # it has ended since
        if not _is_left(pid, run_dir):
            os.close(fd)
            return
        self.pids[pid] = fd
        self._loop.add_reader(fd, self._ended, pid)

    def _ended(self, pid: int) -> None:
        fd = self.pids.pop(pid)
        self._loop.remove_reader(fd)
        os.close(fd)

    def _kill(self) -> None:
        for fd in self.pids.values():
            try:
                pidfd.send_signal(fd, signal.SIGKILL)
            except PermissionError:
                continue


def _is_left(pid: int, run_dir: str) -> bool:
    """Once, at the start, before anybody is served: these reads may wait for the process's memory lock.

    What a zygote has started in one way or another carries its primary's mark (:data:`clusterd.wire.zygote.ORIGIN`);
    the zygote is an undertaker by now, and ends by itself. Workers of another user cannot be read by a root primary
    without CAP_SYS_PTRACE. Where systemd says that this is the main process of a unit (systemd.exec(5),
    SYSTEMD_EXEC_PID), nobody else can be in its control group.
    """
    words = marked.environment(pid)
    if words is None:
        return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    return f"{RUN_DIR_VARIABLE}={run_dir}".encode() in words and _is_anothers(words) and not _buries(pid)


def _is_anothers(words: Collection[bytes]) -> bool:
    start = f"{ORIGIN}=".encode()
    own = f"{ORIGIN}={os.getpid()}.{process.start_time()}/".encode()
    return any(word.startswith(start) and not word.startswith(own) for word in words)


def _buries(pid: int) -> bool:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # it has ended
    return title.startswith(b"clusterd: ") and (b" undertaker " in title or b" zygote " in title)
