"""What programs use that do not say so themselves: written to their scoreboards, as Python workers write it.

In the zygote of a script pool, which is their user's and may look at them; the primary reads nobody's ``/proc``.
"""

import os
import resource
from typing import Final

from ..unix.scoreboard import Board
from ..wire.rows import WORDS, Row

EVERY: Final = 2.0
"""Seconds between two looks."""

_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE: Final = resource.getpagesize()


class Sampler:
    """Looks at programs.

    A row that has a heartbeat is its worker's own, and left alone.
    """

    def __init__(self) -> None:
        self._boards: dict[int, Board] = {}

    def add(self, pid: int, board_fd: int) -> None:
        """Look at this program from now on. The descriptor stays the caller's."""
        try:
            self._boards[pid] = Board.attach(board_fd, WORDS, writable=True)
        except (OSError, ValueError):
            return

    def remove(self, pid: int) -> None:
        """It has ended."""
        board = self._boards.pop(pid, None)
        if board is not None:
            board.close()

    @property
    def patience(self) -> float | None:
        """Seconds until the next look; ``None`` if there is nobody to look at."""
        return EVERY if self._boards else None

    def look(self) -> None:
        """Write down what each of them uses."""
        for pid, board in self._boards.items():
            if board.words[Row.HEARTBEAT_NS]:
                continue
            try:
                self._write(pid, board.words)
            except (OSError, ValueError, IndexError):
                continue  # it has just ended

    def _write(self, pid: int, words: memoryview) -> None:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        words[Row.CPU_NS] = (int(fields[11]) + int(fields[12])) * _TICK_NS
        words[Row.RESIDENT_BYTES] = int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
        words[Row.OPEN_FDS] = len(os.listdir(f"/proc/{pid}/fd"))
        words[Row.MAX_FDS] = _max_fds(pid)
        rollup = dict(line.split(b":", 1) for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()[1:])
        words[Row.PROPORTIONAL_BYTES] = _kilobytes(rollup[b"Pss"])
        words[Row.UNIQUE_BYTES] = _kilobytes(rollup[b"Private_Clean"]) + _kilobytes(rollup[b"Private_Dirty"])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _max_fds(pid: int) -> int:
    for line in _read(f"/proc/{pid}/limits").splitlines():
        if line.startswith(b"Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else 0
    return 0


def _kilobytes(text: bytes) -> int:
    return int(text.split()[0]) * 1024
