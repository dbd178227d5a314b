"""What has happened lately, for those who look in: events, crash reports and output, in memory and bounded."""

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from clusterd.core import facts as f
from clusterd.ops.recent import Choice, Line, Recent, encode, instant
from clusterd.ops.records import record_of
from clusterd.ops.tail import Tail

MAX_EVENTS: Final = 1000
MAX_CRASHES: Final = 20
MAX_BYTES: Final = 1024 * 1024
"""Of the events, and of the crash reports."""


def line_of(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON."""
    try:
        return msgspec.json.encode(record, enc_hook=str) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, from the name of a file that is no UTF-8
        return json.dumps(record, default=str).encode() + b"\n"


class Shelf:
    """The last of encoded records.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._most = most

    def put(self, record: bytes) -> None:
        """One more; old ones make room."""
        self._kept.append(record)
        self._size += len(record)
        while len(self._kept) > self._most or (self._size > MAX_BYTES and len(self._kept) > 1):
            self._size -= len(self._kept.popleft())

    def last(self, count: int) -> list[bytes]:
        """The last ones, oldest first."""
        kept = len(self._kept)
        return [self._kept[index] for index in range(max(0, kept - count), kept)]


class Journal:
    """Observes facts, output and crash reports; those who read get what there is and what comes."""

    def __init__(self) -> None:
        self.recent = Recent()
        self._events = Shelf(MAX_EVENTS)
        self._crashes = Shelf(MAX_CRASHES)
        self._event_tails: set[Tail] = set()
        self._line_tails: dict[Tail, Choice] = {}
        self._numbers = 0
        self._waiting: list[Callable[[f.Fact], None]] = []

    # -- what comes in -------------------------------------------------------------------------------------------

    def fact(self, fact: f.Fact) -> None:
        """Something has become true."""
        self.event(*record_of(fact))
        if isinstance(fact, f.WorkerExited):
            self.recent.ended(fact.pool, fact.worker)
        for tell in list(self._waiting):
            tell(fact)
        if isinstance(fact, f.Stopped):
            for tail in [*self._event_tails, *self._line_tails]:
                tail.end()

    def event(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Something has happened that is no fact of the core's."""
        self._numbers += 1
        record = {"id": self._numbers, "time": instant(datetime.now(UTC)), "level": level, "event": event, **fields}
        data = line_of(record)
        self._events.put(data)
        for tail in self._event_tails:
            tail.offer(data)

    def line(self, pool: str, slot: int | None, worker: int | None, stream: str, text: str) -> None:
        """A line of output."""
        line = self.recent.add(pool, slot, worker, stream, text)
        if self._line_tails:
            data = encode(line)
            for tail, choice in self._line_tails.items():
                if choice.fits(line):
                    tail.offer(data)

    def crash(self, record: Mapping[str, Any]) -> None:
        """A crash report."""
        told = {"time": instant(datetime.now(UTC)), **record}
        self._crashes.put(line_of(told))

    # -- who looks -----------------------------------------------------------------------------------------------

    def watch(self, tell: Callable[[f.Fact], None]) -> Callable[[], None]:
        """Have ``tell`` called with each fact until the function that this returns is called."""
        self._waiting.append(tell)

        def stop() -> None:
            if tell in self._waiting:
                self._waiting.remove(tell)

        return stop

    @property
    def readers(self) -> int:
        """How many follow something."""
        return len(self._event_tails) + len(self._line_tails)

    def events(self, last: int, follow: bool) -> Tail:
        """The last events, and those that come."""
        tail = Tail(iter(self._events.last(last)), follow, self._event_tails.discard)
        if follow:
            self._event_tails.add(tail)
        return tail

    def lines(self, last: int, choice: Choice, since: float | None, follow: bool) -> Tail:
        """The last lines of output, and those that come.

        Args:
            since: seconds back; none that is older.
        """
        earliest = None if since is None else datetime.now(UTC) - timedelta(seconds=since)
        chosen: list[Line] = self.recent.last(last, choice, earliest)
        tail = Tail(map(encode, chosen), follow, self._unfollow)
        if follow:
            self._line_tails[tail] = choice
        return tail

    def _unfollow(self, tail: Tail) -> None:
        self._line_tails.pop(tail, None)

    def crashes(self, last: int) -> Tail:
        """The last crash reports."""
        return Tail(iter(self._crashes.last(last)), False, lambda one: None)
