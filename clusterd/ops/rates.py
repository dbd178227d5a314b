"""How fast each worker's counters rise: requests and CPU, over the last seconds."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from clusterd.ops.source import Rate, Sample, Source, responses

EVERY: Final = 1.0
"""Seconds between two readings."""

WINDOW: Final = 5
"""Readings over which a rate is taken."""


class Reading(NamedTuple):
    """One worker's counters at one moment. ``at`` in seconds on the monotonic clock."""

    at: float
    requests: int
    cpu_ns: int
    spent_ns: int


def spent(row: Mapping[str, int]) -> int:
    """Nanoseconds that all of a worker's requests have taken so far."""
    return row.get("http_request_duration_sum_ns", 0)


class Rates:
    """Reads the counters once a second.

    Args:
        loop: the primary's loop.
        source: where they are read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Source) -> None:
        self._loop = loop
        self._source = source
        self._readings: dict[int, deque[Reading]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on."""
        self._timer = self._loop.call_later(EVERY, self.start)
        self.read(self._loop.time(), self._source.samples())

    def close(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()

    def read(self, now: float, samples: Mapping[int, Sample]) -> None:
        """One reading of each worker; those that have gone are forgotten."""
        before, self._readings = self._readings, {}
        for worker, sample in samples.items():
            kept = before.get(worker)
            if kept is None:
                kept = deque(maxlen=WINDOW + 1)
            kept.append(Reading(now, responses(sample.row), sample.row.get("cpu_ns", 0), spent(sample.row)))
            self._readings[worker] = kept

    def of(self, worker: int) -> Rate | None:
        """A worker's rates; ``None`` before there are two readings. What is no rise is none: workers may lie."""
        kept = self._readings.get(worker)
        if kept is None or len(kept) < 2 or kept[-1].at <= kept[0].at:
            return None
        first, last = kept[0], kept[-1]
        span = last.at - first.at
        requests = max(0, last.requests - first.requests)
        took = max(0, last.spent_ns - first.spent_ns) / 1e9
        return Rate(
            requests / span, max(0, last.cpu_ns - first.cpu_ns) / 1e9 / span, took / requests if requests else None
        )
