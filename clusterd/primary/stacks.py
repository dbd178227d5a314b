"""Asking a worker for its stacks, without waiting for it: the file is looked at until it is complete, or time is up."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from ..unix import pidfd as pidfds
from ..unix import scoreboard
from ..wire import stacks

PATIENCE: Final = 1.0
"""Seconds for a worker to show what it can; one that holds the interpreter needs none for the part that matters."""

LOOK_EVERY: Final = 0.01
"""Seconds between two looks at the file."""

Done = Callable[[str], None]


def create() -> int:
    """The file, for the worker to be born with: sealed, close-on-exec.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM.
    """
    return scoreboard.create(stacks.SIZE // scoreboard.WORD, "stacks")


class Stacks:
    """What one worker shows.

    Args:
        loop: the primary's loop.
        fd: the file, owned from here on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._waiting: list[Done] = []
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    def fileno(self) -> int:
        """The file; -1 once it is closed."""
        return self._fd

    @property
    def quiet(self) -> bool:
        """Nobody waits for an answer."""
        return not self._waiting

    def ask(self, pidfd: int, done: Done) -> None:
        """Have ``done`` called, once and never at once, with the worker's stacks or a sentence why there are none.

        Args:
            pidfd: the worker's.
        """
        self._waiting.append(done)
        if self._timer is not None:
            return  # somebody has asked already: the answer is the same
        state = os.pread(self._fd, 8, stacks.STATE)
        armed = state != bytes(8)
        if armed:
            used = len(self._text())
            os.pwrite(self._fd, bytes(used), 0)
            os.pwrite(self._fd, stacks.ASKED, stacks.STATE)
            os.lseek(self._fd, 0, os.SEEK_SET)
            try:
                armed = pidfds.send_signal(pidfd, stacks.SIGNAL)
            except PermissionError:
                armed = False
        self._until = self._loop.time() + (PATIENCE if armed else 0.0)
        self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def close(self) -> None:
        """The worker is gone: whoever waits gets what there is. Harmless when repeated."""
        if self._fd >= 0:
            if self._timer is not None:
                self._timer.cancel()
            self._answer("the worker ended meanwhile")
            os.close(self._fd)
            self._fd = -1

    def _look(self) -> None:
        if os.pread(self._fd, 8, stacks.STATE) == stacks.ENDED:
            self._answer("")
        elif self._loop.time() >= self._until:
            self._answer("the worker's main thread did not come back to Python in time: no tasks are shown")
        else:
            self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def _answer(self, lacking: str) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        text = self._text().decode("utf-8", "backslashreplace").strip("\n")
        if not text:
            text = "the worker shows no stacks: it has only just begun, is stopped, or runs no Python"
        elif lacking:
            text = f"{text}\n\n{lacking}"
        for done in waiting:
            done(text)

    def _text(self) -> bytes:
        return os.pread(self._fd, stacks.STATE, 0).partition(b"\0")[0]
