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

LINES_A_TURN: Final = 50
"""Lines told in one turn of the loop, about 1 ms; no more is read while some wait. Told all at once, the empty lines of
one read were seen to hold up the loop for a second."""

SHARE: Final = 0.2
"""Of the primary's time that telling lines may take, over all processes: about 10,000 lines a second."""

BURST: Final = 0.5
"""Seconds of telling that may be saved up by being quiet."""

SKIP_EVERY: Final = 0.004
"""Seconds between two reads of a pipe whose lines are left out: 16 MB a second. Who prints more than that waits."""

LONGEST_REST: Final = 0.5
"""Seconds at most for which the lines of a flood are left out before some are told: each telling takes a processor for
a millisecond, and 200 of them a second were felt by every fiftieth request of the other workers."""

MAX_LINE: Final = 8 * 1024
"""A longer line is told in pieces of this many bytes."""

LAST_WORDS: Final = 256 * 1024
"""Bytes read at most after a process has ended: a pipe holds 64 KiB, a grandchild may print on for ever."""

LAST_LINES: Final = 1000
"""Lines told at most after that; the last ones, and that there were more."""


class Budget:
    """How much of the loop's time may still go into telling lines; shared by all outputs.

    What is over is left out and counted, at 16 MB a second: so that who prints without end is neither told in full,
    which would take the loop from the others, nor blocked at the speed of the log, which would take it from its work.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = BURST
        self._since = clock()

    def spend(self, seconds: float) -> None:
        """Time that went into telling."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._since) * SHARE) - seconds
        self._since = now

    @property
    def overdrawn(self) -> bool:
        """Lines are to be left out now."""
        self.spend(0.0)
        return self._left <= 0.0


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
        budget: of the loop's time.
        kept: where the last lines are kept; shared by the streams of one process, so that they stay in order.
        untold: what an earlier reader has read and not told.

    Attributes:
        kept: as given.
        stream: as given.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        stream: str,
        sink: LineSink,
        kept: deque[str],
        budget: Budget | None = None,
        untold: bytes = b"",
    ) -> None:
        self._budget = budget or Budget(loop.time)
        self._left_out = 0
        self._skipped = b""  # the last of what was left out: some read's whole lines
        self._rest = 0.0  # seconds that the flood is left out for
        self._rest_until = 0.0
        self._loop = loop
        self._fd = fd
        self.stream = stream
        self._sink = sink
        self.kept = kept
        *lines, self._partial = untold.split(b"\n")
        self._lines: deque[bytes] = deque(lines)  # read and not told yet
        self._more: asyncio.Handle | None = None
        self._watching = False
        self._watch(True)

    def fileno(self) -> int:
        """The reading end; -1 once it is closed."""
        return self._fd

    def untold(self) -> bytes:
        """What has been read and not told: whole lines, and the beginning of one."""
        return b"\n".join([*self._lines, self._partial])

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
        self._watch(False)
        if self._more is not None:
            self._more.cancel()
        os.close(self._fd)
        self._fd = -1
        if self._partial:
            self._lines.append(self._partial)
            self._partial = b""
        if self._skipped:
            last = self._skipped.split(b"\n")[-(self.kept.maxlen or 1) :]
            self._lines.extendleft(reversed(last))
            self._left_out -= len(last)
        self._tell_gap()
        if len(self._lines) > LAST_LINES:
            left_out = len(self._lines) - LAST_LINES
            self._tell(f"… {left_out} lines left out …".encode())
            for _ in range(left_out):
                self._lines.popleft()
        while self._lines:
            self._tell(self._lines.popleft())

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watching:
            self._loop.add_reader(self._fd, self._readable)
        elif self._watching and not wanted:
            self._loop.remove_reader(self._fd)
        self._watching = wanted

    def _readable(self) -> None:
        got = self._read()
        if got == 0:
            self.close()
            return
        if got is None or got < READ_SIZE:
            self._rest = 0.0  # it stops for breath
        self._tell_some()

    def _tell_some(self) -> None:
        self._more = None
        if self._lines and self._budget.overdrawn:
            self._skip()
            return
        began = self._loop.time()
        for _ in range(min(LINES_A_TURN, len(self._lines))):
            self._tell(self._lines.popleft())
        self._budget.spend(self._loop.time() - began)
        if self._lines and self._rest:  # it has not stopped for breath
            self._skip()
            return
        self._watch(not self._lines)
        if self._lines:
            self._more = self._loop.call_soon(self._tell_some)

    def _skip(self) -> None:
        """Leave out what was read, and for longer each time while nothing else comes than flood."""
        self._left_out += len(self._lines)
        self._skipped = b"\n".join(self._lines)
        self._lines.clear()
        self._rest = min(max(SKIP_EVERY, 2 * self._rest), LONGEST_REST)
        self._rest_until = self._loop.time() + self._rest
        self._watch(False)
        self._more = self._loop.call_later(SKIP_EVERY, self._look_again)

    def _look_again(self) -> None:
        self._more = None
        data = self._take()
        if data == b"":
            self.close()
            return
        breath = data is None or len(data) < READ_SIZE
        if self._budget.overdrawn or (self._loop.time() < self._rest_until and not breath):
            if data is not None:
                self._pass_over(data)
            self._more = self._loop.call_later(SKIP_EVERY, self._look_again)
            return
        if breath:
            self._rest = 0.0
        if data is not None:
            self._split(data)
        self._tell_gap()
        self._tell_some()

    def _pass_over(self, data: bytes) -> None:
        """Leave out what was read, without so much as looking for its lines: that is a tenth of the time."""
        whole, newline, partial = data.rpartition(b"\n")
        if newline:
            self._left_out += whole.count(b"\n") + 1
            self._skipped, self._partial = whole, partial[-MAX_LINE:]
        else:
            self._partial = (self._partial + data)[-MAX_LINE:]

    def _tell_gap(self) -> None:
        """Say where lines are missing, and how many."""
        count, self._left_out = self._left_out, 0
        self._skipped = b""
        if count:
            self._tell(f"… {count} lines left out …".encode())

    def _read(self) -> int | None:
        """Bytes read; 0 at the end, ``None`` if there is nothing now."""
        data = self._take()
        if data is None:
            return None
        self._split(data)
        return len(data)

    def _take(self) -> bytes | None:
        """What is in the pipe; nothing at the end, ``None`` if there is nothing now."""
        try:
            return os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _split(self, data: bytes) -> None:
        *lines, partial = (self._partial + data).split(b"\n")
        self._lines.extend(lines)
        while len(partial) > MAX_LINE:
            self._lines.append(partial[:MAX_LINE])
            partial = partial[MAX_LINE:]
        self._partial = partial

    def _tell(self, line: bytes) -> None:
        for start in range(0, len(line) or 1, MAX_LINE):
            text = line[start : start + MAX_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            self.kept.append(text)
            self._sink(self.stream, text)
