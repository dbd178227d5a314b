"""What workers counted, kept over their deaths: untrusted rows in, counters that never fall out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

COUNTERS = {
    "requests_1xx": 1e6,
    "requests_2xx": 1e6,
    "requests_3xx": 1e6,
    "requests_4xx": 1e6,
    "requests_5xx": 1e6,
    "cpu_ns": 1024e9,
}
"""Counters of a row, and how much each may rise a second before it is garbage: a million responses, 1,024 cores."""

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
    """

    pool: str
    slot: int
    since: float
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    handed: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    heartbeat_ns: int = 0

    def read(self, row: Mapping[str, int], now: float) -> None:
        """Take over from a row what is believable. What is not leaves the value as it was.

        A rise is measured against the time since the last reading and at least a second, so that a burst is no garbage
        and a worker that wrote nonsense once is believed again when its counters make sense.
        """
        elapsed = max(now - self.since, 1.0)
        for name, rate in COUNTERS.items():
            value = row.get(name, 0)
            if 0 <= value - self.counts[name] <= rate * elapsed:
                self.counts[name] = value
        self.since = now
        heartbeat = row.get("heartbeat_ns", 0)
        self.heartbeat_ns = heartbeat if 0 < heartbeat <= now * 1e9 else 0
        self.gauges = {}
        if self.heartbeat_ns:  # before the first beat a row of zeros says nothing
            for name, (least, most) in GAUGES.items():
                if least <= (value := row.get(name, 0)) <= most:
                    self.gauges[name] = value

    def hand(self, listener: str, count: int) -> None:
        """Note the connections it was handed; the primary's own count, and still not allowed to fall."""
        self.handed[listener] = max(count, self.handed.get(listener, 0))


class Tally:
    """Sums over all workers a slot ever had: a base of the dead, and the living on top."""

    def __init__(self) -> None:
        self.living: dict[int, Life] = {}
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._handed: Counter[tuple[str, int, str]] = Counter()

    def begin(self, worker: int, pool: str, slot: int, now: float) -> None:
        """A worker is about to exist."""
        self.living.setdefault(worker, Life(pool, slot, now))

    def end(self, worker: int) -> None:
        """A worker has ended: what it counted becomes part of its slot's base. Unknown workers change nothing."""
        life = self.living.pop(worker, None)
        if life is None:
            return
        for name, value in life.counts.items():
            self._counts[life.pool, life.slot, name] += value
        for listener, value in life.handed.items():
            self._handed[life.pool, life.slot, listener] += value

    def read(self, rows: Mapping[int, Mapping[str, int]], handed: Mapping[tuple[int, str], int], now: float) -> None:
        """Bring the living up to date."""
        for worker, row in rows.items():
            if life := self.living.get(worker):
                life.read(row, now)
        for (worker, listener), count in handed.items():
            if life := self.living.get(worker):
                life.hand(listener, count)

    def counts(self) -> Counter[tuple[str, int, str]]:
        """(Pool, slot, counter's name) to its sum."""
        total = self._counts.copy()
        for life in self.living.values():
            for name, value in life.counts.items():
                total[life.pool, life.slot, name] += value
        return total

    def handed(self) -> Counter[tuple[str, int, str]]:
        """(Pool, slot, listener) to the connections handed over."""
        total = self._handed.copy()
        for life in self.living.values():
            for listener, value in life.handed.items():
                total[life.pool, life.slot, listener] += value
        return total

    def gauges(self) -> Iterator[tuple[str, int, str, int]]:
        """(Pool, slot, gauge's name, sum over the slot's workers); only where a worker has written one."""
        total: Counter[tuple[str, int, str]] = Counter()
        for life in self.living.values():
            for name, value in life.gauges.items():
                total[life.pool, life.slot, name] += value
        for (pool, slot, name), value in total.items():
            yield pool, slot, name, value

    def heartbeat_ages(self, now: float) -> dict[tuple[str, int], float]:
        """(Pool, slot) to seconds since the last beat, of the slot's worker that is latest with it."""
        ages: dict[tuple[str, int], float] = {}
        for life in self.living.values():
            if life.heartbeat_ns:
                place = (life.pool, life.slot)
                ages[place] = max(ages.get(place, 0.0), now - life.heartbeat_ns / 1e9)
        return ages
