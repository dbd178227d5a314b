"""What workers and zygotes print: read line by line, bounded, the last lines kept for crash reports.

The reader's end and the one that a worker keeps of its own pipe are two file descriptions: a flag that the worker
sets on its own must not make the primary block.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final

READ_SIZE: Final = 64 * 1024
"""Bytes read of one pipe in one turn of the loop: who prints more waits in its own write, and nobody else does."""

LINES_A_TURN: Final = 200
"""Lines told in one turn of the loop, about 4 ms; no more is read while some wait. Told all at once, the empty lines of
one read were seen to hold up the loop for a second."""

MAX_LINE: Final = 8 * 1024
"""A longer line is told in pieces of this many bytes."""

LAST_WORDS: Final = 256 * 1024
"""Bytes read at most after a process has ended: a pipe holds 64 KiB, a grandchild may print on for ever."""

LAST_LINES: Final = 1000
"""Lines told at most after that; the last ones, and that there were more."""

LineSink = Callable[[str, str], None]


def pipe() -> tuple[int, int, int]:
    """``(ours, theirs, writing)``: two independent reading ends, ours non-blocking, and the writing end."""
    ours, writing = os.pipe2(os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/self/fd/{ours}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        os.close(ours)
        os.close(writing)
        raise
    os.set_blocking(ours, False)
    return ours, theirs, writing


class Output:
    """The reader of one pipe.

    Args:
        loop: the primary's loop.
        fd: the reading end, owned from here on; non-blocking.
        stream: ``stdout`` or ``stderr``.
        sink: called with the stream and each line, without its end.
        kept: where the last lines are kept; shared by the streams of one process, so that they stay in order.

    Attributes:
        kept: as given.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, stream: str, sink: LineSink, kept: deque[str]) -> None:
        self._loop = loop
        self._fd = fd
        self._stream = stream
        self._sink = sink
        self.kept = kept
        self._partial = b""
        self._lines: deque[bytes] = deque()  # read and not told yet
        self._more: asyncio.Handle | None = None
        loop.add_reader(fd, self._readable)

    def finish(self) -> None:
        """The process has ended: tell what it printed last, and close."""
        if self._fd < 0:
            return
        left = LAST_WORDS
        while left > 0 and (got := self._read()):
            left -= got
        self.close()

    def close(self) -> None:
        """Close; a line without an end is told as it is. Harmless when repeated."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        if self._more is not None:
            self._more.cancel()
        os.close(self._fd)
        self._fd = -1
        if self._partial:
            self._lines.append(self._partial)
            self._partial = b""
        if len(self._lines) > LAST_LINES:
            left_out = len(self._lines) - LAST_LINES
            self._tell(f"… {left_out} lines left out …".encode())
            for _ in range(left_out):
                self._lines.popleft()
        while self._lines:
            self._tell(self._lines.popleft())

    def _readable(self) -> None:
        if self._read() == 0:
            self.close()
        else:
            self._tell_some()

    def _tell_some(self) -> None:
        for _ in range(min(LINES_A_TURN, len(self._lines))):
            self._tell(self._lines.popleft())
        if self._lines:
            if self._more is None:
                self._loop.remove_reader(self._fd)
            self._more = self._loop.call_soon(self._tell_some)
        elif self._more is not None:
            self._more = None
            self._loop.add_reader(self._fd, self._readable)

    def _read(self) -> int | None:
        """Bytes read; 0 at the end, ``None`` if there is nothing now."""
        try:
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        *lines, partial = (self._partial + data).split(b"\n")
        self._lines.extend(lines)
        while len(partial) > MAX_LINE:
            self._lines.append(partial[:MAX_LINE])
            partial = partial[MAX_LINE:]
        self._partial = partial
        return len(data)

    def _tell(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, MAX_LINE):
            text = line[start : start + MAX_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            self.kept.append(text)
            self._sink(self._stream, text)
