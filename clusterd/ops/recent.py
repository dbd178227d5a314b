"""The recent output of each worker, in memory and bounded: a worker that prints much drives out its own lines only."""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple

import msgspec

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of all workers together, about: characters, and what a line costs by itself."""

LARGEST_SHARE: Final = MAX_BYTES // 16
"""Of one worker; less where there are more than 16."""

LINE_COST: Final = 200
"""Bytes that a kept line costs beside its text."""

MAX_ENDED: Final = 64
"""Workers that have ended whose output is still kept."""

MAX_LINES: Final = 5000
"""Lines of one answer."""


class Line(NamedTuple):
    """One line of output. ``slot`` and ``worker`` are ``None`` for a zygote's."""

    number: int
    at: datetime
    pool: str
    slot: int | None
    worker: int | None
    stream: str
    text: str


class Shown(msgspec.Struct, frozen=True):
    """One line of output, as it is told."""

    time: str
    pool: str
    slot: int | None
    worker: int | None
    stream: str
    text: str


def encode(line: Line) -> bytes:
    """The line as a line of JSON."""
    shown = Shown(instant(line.at), *line[2:])
    return msgspec.json.encode(shown) + b"\n"


def instant(at: datetime) -> str:
    """ISO 8601, UTC, milliseconds."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Choice(msgspec.Struct, frozen=True):
    """Whose lines are meant; ``None`` leaves it open."""

    pool: str | None = None
    slot: int | None = None
    worker: int | None = None

    def fits(self, line: Line) -> bool:
        """Whether this one is meant."""
        return (
            (self.pool is None or line.pool == self.pool)
            and (self.slot is None or line.slot == self.slot)
            and (self.worker is None or line.worker == self.worker)
        )


@dataclass(slots=True)
class _Source:
    lines: deque[Line] = field(default_factory=deque)
    size: int = 0

    def trim(self, limit: int) -> None:
        while self.size > limit and len(self.lines) > 1:
            self.size -= len(self.lines.popleft().text) + LINE_COST


class Recent:
    """Takes in lines, gives the last of them."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, int | None], _Source] = {}
        self._ended: deque[tuple[str, int | None]] = deque()
        self._count = 0

    def add(self, pool: str, slot: int | None, worker: int | None, stream: str, text: str) -> Line:
        """A new line."""
        line = Line(self._count, datetime.now(UTC), pool, slot, worker, stream, text)
        self._count += 1
        source = self._sources.get((pool, worker))
        if source is None:
            source = self._sources[pool, worker] = _Source()
            share = self._share()
            for other in self._sources.values():
                other.trim(share)
        source.lines.append(line)
        source.size += len(text) + LINE_COST
        if source.size > LARGEST_SHARE or source.size > self._share():
            source.trim(self._share())
        return line

    def ended(self, pool: str, worker: int) -> None:
        """A worker has ended: its output is kept until :data:`MAX_ENDED` others have."""
        if (pool, worker) in self._sources:
            self._ended.append((pool, worker))
            if len(self._ended) > MAX_ENDED:
                self._sources.pop(self._ended.popleft(), None)

    def last(self, count: int, choice: Choice, since: datetime | None = None) -> list[Line]:
        """The last lines, oldest first.

        Args:
            count: how many at most; never more than :data:`MAX_LINES`.
            since: none that is older.
        """
        newest = heapq.merge(
            *(self._backwards(source, choice, since) for source in self._sources.values()),
            key=lambda line: -line.number,
        )
        lines = list(islice(newest, min(count, MAX_LINES)))
        lines.reverse()
        return lines

    @property
    def size(self) -> int:
        """Bytes, as they are counted here."""
        return sum(source.size for source in self._sources.values())

    def _share(self) -> int:
        return min(LARGEST_SHARE, MAX_BYTES // max(1, len(self._sources)))

    def _backwards(self, source: _Source, choice: Choice, since: datetime | None) -> Iterator[Line]:
        if not source.lines or not choice.fits(source.lines[-1]):
            return  # all lines of a source are of one worker
        for line in reversed(source.lines):
            if since is not None and line.at < since:
                return
            yield line
