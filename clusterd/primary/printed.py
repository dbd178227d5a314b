"""What one zygote prints; as a worker's, its lines are told, tagged with the pool alone."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from . import output
from .handed import OutputState


class Printed:
    """The readers of one zygote's output: of the process that it is, and of one that it was before.

    Args:
        loop: the primary's.
        capture: whether output is captured; else it goes where the primary's own goes.
        crash_lines: how many of its last lines are kept.
        sink: called with stream and line.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, capture: bool, crash_lines: int, sink: Callable[[str, str], None]
    ) -> None:
        self._loop = loop
        self._capture = capture
        self._sink = sink
        self._kept: deque[str] = deque(maxlen=crash_lines or 1)
        self._readers: list[output.Output] = []

    def open(self) -> tuple[int, int]:
        """Descriptors for a process's standard output and error, which the caller closes.

        Raises:
            OSError: EMFILE or ENFILE; nothing is left open.
        """
        if not self._capture:
            return os.dup(1), os.dup(2)
        readers, writing = [], []
        with ExitStack() as if_it_fails:
            for stream in ("stdout", "stderr"):
                reading, spare, write = output.pipe()
                os.close(spare)
                if_it_fails.callback(os.close, write)
                readers.append(self._read(reading, stream))
                if_it_fails.callback(readers[-1].close)
                writing.append(write)
            if_it_fails.pop_all()
        self._readers += readers
        return writing[0], writing[1]

    def _read(self, fd: int, stream: str, untold: bytes = b"") -> output.Output:
        return output.Output(self._loop, fd, stream, self._sink, self._kept, untold=untold)

    def words(self) -> list[str]:
        """Its last lines; it has ended."""
        for reader in self._readers:
            reader.finish()
        return list(self._kept) if self._readers else []

    def describe(self) -> tuple[tuple[OutputState, ...], tuple[str, ...]]:
        """Its pipes and last lines, for a successor of this process."""
        states = [OutputState(one.fileno(), one.stream, one.untold()) for one in self._readers if one.fileno() >= 0]
        return tuple(states), tuple(self._kept)

    def take_up(self, left: Sequence[OutputState], last_lines: Sequence[str]) -> None:
        """Go on reading."""
        self._kept.extend(last_lines)
        self._readers += [self._read(one.fd, one.stream, one.partial) for one in left]
