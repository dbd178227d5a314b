"""The worker's once-a-second word on itself: its event loop turns, and what the process uses."""

import asyncio
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns, process_time_ns
from typing import Final

from ..unix.scoreboard import Board
from ..wire.rows import LOOP_LAG, Row

EVERY: Final = 1.0
"""Seconds between two beats."""

WEIGH_EVERY: Final = 10.0
"""Seconds between two looks at the proportional memory, at least; the first is as long after the start."""

WEIGH_SHARE: Final = 1000
"""… and at least so many times what the last look took: the kernel walks all page tables for it, 4 ms a gigabyte."""

GROWN: Final = 20
GROWN_SHARE: Final = 100
"""Sooner, after so many times what the last look took, when the memory has changed by this part: whoever guards it
needs to know who it is that grows."""

_SMAPS_LINE: Final = re.compile(rb"^(Pss|Private_Clean|Private_Dirty): +(\d+) kB", re.MULTILINE)
_PAGE: Final = resource.getpagesize()


class Beat:
    """Writes the worker's heartbeat, lag, descriptors, memory and CPU time to its row.

    Args:
        loop: whose turning is the heartbeat.
        board: the row, writable.
        also: called with each beat.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, board: Board, also: Callable[[], None] = lambda: None) -> None:
        self._also = also
        self._loop = loop
        self._words = board.words
        self._observe_lag = LOOP_LAG.observer(board.words)
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._weigh_ns = 0
        self._soonest_ns = 0
        self._weighed = 0  # what was resident then
        self._statm = -1

    def start(self) -> None:
        """The first beat is now."""
        try:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._statm = -1
        self._due_ns = monotonic_ns()
        self._weigh_ns = self._due_ns + int(WEIGH_EVERY * 1e9)
        self._soonest_ns = self._due_ns + int(EVERY * 1e9) // 2  # not at the first beat: a start has no time for it
        self._beat()

    def stop(self) -> None:
        """No more beats. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._statm >= 0:
            os.close(self._statm)
            self._statm = -1

    def _beat(self) -> None:
        now = monotonic_ns()
        words = self._words
        words[Row.HEARTBEAT_NS] = now
        words[Row.LOOP_LAG_NS] = lag = max(
            0, now - self._due_ns
        )  # early (uvloop's clock stands still in a turn) is none
        words[Row.CPU_NS] = process_time_ns()
        words[Row.OPEN_FDS] = _open_fds()
        words[Row.MAX_FDS] = resource.getrlimit(resource.RLIMIT_NOFILE)[0] & 0xFFFF_FFFF_FFFF_FFFF  # -1 is no limit
        resident = self._weighed
        if self._statm >= 0:
            words[Row.RESIDENT_BYTES] = resident = int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE
        grown = abs(resident - self._weighed) * GROWN > resident
        if now >= self._weigh_ns or (grown and now >= self._soonest_ns):
            words[Row.PROPORTIONAL_BYTES], words[Row.UNIQUE_BYTES] = _weigh()
            cost = monotonic_ns() - now
            self._weigh_ns = now + max(int(WEIGH_EVERY * 1e9), cost * WEIGH_SHARE)
            self._soonest_ns = now + cost * GROWN_SHARE
            self._weighed = resident
        if self._timer is not None:  # the first beat is nobody's, and never late
            self._observe_lag(lag)
        self._also()
        self._due_ns = monotonic_ns() + int(EVERY * 1e9)
        self._timer = self._loop.call_later(EVERY, self._beat)


def _open_fds() -> int:
    """From Linux 6.2 on the size of ``/proc/self/fd`` is their number (proc(5)); before, they are counted."""
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0


def _weigh() -> tuple[int, int]:
    """Proportional and unique memory in bytes (PSS, USS); zeroes where the kernel does not tell."""
    try:
        text = Path("/proc/self/smaps_rollup").read_bytes()
    except OSError:
        return 0, 0
    sizes = {name: int(size) * 1024 for name, size in _SMAPS_LINE.findall(text)}
    return sizes.get(b"Pss", 0), sizes.get(b"Private_Clean", 0) + sizes.get(b"Private_Dirty", 0)
