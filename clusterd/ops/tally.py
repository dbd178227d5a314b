"""What workers counted, kept over their deaths: untrusted rows in, counters that never fall out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COUNTERS = {
    "requests_1xx": 1e6,
    "requests_2xx": 1e6,
    "requests_3xx": 1e6,
    "requests_4xx": 1e6,
    "requests_5xx": 1e6,
    "cpu_ns": 1024e9,
}
"""Counters of a row, and how much each may rise a second before it is garbage: a million responses, 1,024 cores."""

OBSERVATIONS = 1e6
"""How much a bucket of a histogram may rise a second, and …"""

OBSERVED_NS = 1e9 * 2**20
"""… its sum: a million things that take time at once."""

MOST_HANDED = 1e6
"""Connections that a worker may get in a second before their count is garbage."""

GAUGES = {
    "connections_open": (0, 2**24),
    "requests_in_flight": (0, 2**24),
    "open_fds": (1, 2**31),
    "max_fds": (1, 2**31),
    "resident_bytes": (1, 2**50),
    "proportional_bytes": (1, 2**50),
    "unique_bytes": (1, 2**50),
}
"""Gauges of a row, with the least and the most each can be: less is not measured yet, more is garbage."""


@dataclass(slots=True)
class Life:
    """One worker as far as it has been believed.

    Attributes:
        since: when its row was last read, on the monotonic clock.
        counts: its counters then.
        elapsed: seconds between the last two readings, at least one.
    """

    pool: str
    slot: int
    since: float
    counts: dict[str, int] = field(default_factory=dict)
    handed: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    heartbeat_ns: int = 0
    elapsed: float = 1.0


class Tally:
    """Sums over all workers a slot ever had.

    What a worker's counter rose by is added when it is read, so that its end changes nothing, and a sum costs nothing
    to ask for.

    Args:
        histograms: by name, the words of a row that count observations: the buckets', then the sum's.
    """

    def __init__(self, histograms: Mapping[str, Sequence[str]] | None = None) -> None:
        self.living: dict[int, Life] = {}
        self.counts: dict[tuple[str, int], Counter[str]] = {}
        self.handed: Counter[tuple[str, int, str]] = Counter()
        self._observed: dict[str, Counter[str]] = {}
        self._histograms = dict(histograms or {})
        self._rates = dict(COUNTERS)
        self._of_pools: frozenset[str] = frozenset(word for words in self._histograms.values() for word in words)
        for words in self._histograms.values():
            self._rates |= dict.fromkeys(words, OBSERVATIONS) | {words[-1]: OBSERVED_NS}

    def books(self) -> dict[str, object]:
        """What has been counted so far."""
        return {"living": self.living, "counts": self.counts, "handed": self.handed, "observed": self._observed}

    def go_on(self, books: Mapping[str, Any]) -> None:
        """Go on from another's books."""
        self.living.update(books.get("living", {}))
        self.counts.update(books.get("counts", {}))
        self.handed.update(books.get("handed", {}))
        self._observed.update(books.get("observed", {}))

    def begin(self, worker: int, pool: str, slot: int, now: float) -> None:
        """A worker is about to exist."""
        self.living.setdefault(worker, Life(pool, slot, now))
        self.counts.setdefault((pool, slot), Counter())

    def move(self, worker: int, slot: int) -> None:
        """A spare has got a place: what it counts from now on is that place's."""
        if (life := self.living.get(worker)) is not None:
            life.slot = slot
            self.counts.setdefault((life.pool, slot), Counter())

    def end(self, worker: int) -> None:
        """A worker has ended. Unknown workers change nothing."""
        self.living.pop(worker, None)

    def read(self, worker: int, row: Mapping[str, int], now: float) -> None:
        """Take over from a living worker's row what is believable. What is not leaves the value as it was.

        A rise is measured against the time since the last reading and at least a second, so that a burst is no garbage
        and a worker that wrote nonsense once is believed again when its counters make sense.
        """
        life = self.living.get(worker)
        if life is None:
            return
        counts, seen, elapsed = self.counts[life.pool, life.slot], life.counts, max(now - life.since, 1.0)
        life.elapsed = elapsed
        observed = self._observed.setdefault(life.pool, Counter())
        for name, rate in self._rates.items():
            value = row.get(name, 0)
            before = seen.get(name, 0)
            if value != before and 0 < value - before <= rate * elapsed:
                (observed if name in self._of_pools else counts)[name] += value - before
                seen[name] = value
        life.since = now
        heartbeat = row.get("heartbeat_ns", 0)
        life.heartbeat_ns = heartbeat if 0 < heartbeat <= now * 1e9 else 0
        life.gauges = {}
        if life.heartbeat_ns:  # before the first beat a row of zeros says nothing
            for name, (least, most) in GAUGES.items():
                if least <= (value := row.get(name, 0)) <= most:
                    life.gauges[name] = value

    def hand(self, handed: Mapping[tuple[int, str], int]) -> None:
        """Note the connections that living workers got. Of shared listeners these are their own counts: believed like
        all others."""
        for (worker, listener), count in handed.items():
            if life := self.living.get(worker):
                before = life.handed.get(listener, 0)
                if 0 < count - before <= MOST_HANDED * life.elapsed:
                    self.handed[life.pool, life.slot, listener] += count - before
                    life.handed[listener] = count

    def observed(self, name: str, pool: str) -> tuple[list[int], int]:
        """The buckets of a pool's histogram, each counting its own alone, and its sum in nanoseconds."""
        *buckets, total = self._histograms[name]
        seen = self._observed.get(pool, Counter())
        return [seen[word] for word in buckets], seen[total]

    def gauge(self, name: str) -> Iterator[tuple[str, int, int]]:
        """(Pool, slot, sum over the slot's workers); only where a worker has written one."""
        total: dict[tuple[str, int], int] = {}
        for life in self.living.values():
            if name in life.gauges:
                place = (life.pool, life.slot)
                total[place] = total.get(place, 0) + life.gauges[name]
        for (pool, slot), value in total.items():
            yield pool, slot, value

    def heartbeat_ages(self, now: float) -> dict[tuple[str, int], float]:
        """(Pool, slot) to seconds since the last beat, of the slot's worker that is latest with it."""
        ages: dict[tuple[str, int], float] = {}
        for life in self.living.values():
            if life.heartbeat_ns:
                place = (life.pool, life.slot)
                ages[place] = max(ages.get(place, 0.0), now - life.heartbeat_ns / 1e9)
        return ages
