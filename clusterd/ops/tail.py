"""What one client reads of a stream: what there was, then what comes; bounded, and what it was too slow for is told."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

MAX_QUEUED: Final = 256 * 1024
"""Bytes that wait for one client; what comes on top is left out and counted."""

PIECE: Final = 32 * 1024
"""Bytes given at once, about: a turn of the loop makes no more."""


class Tail:
    """A :class:`~clusterd.ops.exchange.Feed` of lines.

    Args:
        before: the lines that there are already, made as they are taken.
        follow: whether it goes on then.
        on_close: called once, when nobody reads any more.
    """

    def __init__(self, before: Iterator[bytes], follow: bool, on_close: Callable[["Tail"], None]) -> None:
        self._before: Iterator[bytes] | None = before
        self._follow = follow
        self._on_close: Callable[[Tail], None] | None = on_close
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._left_out = 0
        self._wake: Callable[[], None] = lambda: None

    def attach(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def offer(self, line: bytes) -> None:
        """A new line, its end included."""
        if not self._follow:
            return
        if self._left_out or self._queued + len(line) > MAX_QUEUED:
            self._left_out += 1
        else:
            self._queue.append(line)
            self._queued += len(line)
            if len(self._queue) == 1:
                self._wake()

    def take(self) -> bytes | None:
        piece: list[bytes] = []
        size = 0
        while size < PIECE and (line := self._next()) is not None:
            piece.append(line)
            size += len(line)
        if piece:
            return b"".join(piece)
        return None if self._follow else b""

    def end(self) -> None:
        """Nothing comes any more; what waits is still given."""
        self._follow = False
        self._wake()

    def close(self) -> None:
        then, self._on_close = self._on_close, None
        if then is not None:
            then(self)
        self._before = None
        self._queue.clear()

    def _next(self) -> bytes | None:
        if self._before is not None:
            line = next(self._before, None)
            if line is not None:
                return line
            self._before = None
        if self._queue:
            line = self._queue.popleft()
            self._queued -= len(line)
            return line
        if self._left_out:
            lost, self._left_out = self._left_out, 0
            return msgspec.json.encode({"event": "left_out", "count": lost}) + b"\n"
        return None
