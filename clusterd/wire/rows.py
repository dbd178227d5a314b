"""The scoreboard's layout: which 64-bit word of a worker's row means what.

One writer (the worker), one reader (the primary). Every word stands alone: no reader may need two of them to agree,
and the primary believes none of them for control, but for the hint of ``TAKEN_NS``, whose lies are bounded.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VERSION = 2


class Row(IntEnum):
    """Index of a word in the row. Counters only rise during a worker's life; gauges say so."""

    VERSION = 0
    HEARTBEAT_NS = 1  # gauge: CLOCK_MONOTONIC at the event loop's last turn of its one-second beat
    LOOP_LAG_NS = 2  # gauge: how late the last beat was
    CONNECTIONS_TAKEN = 3  # counter: connections taken out of mailboxes
    CONNECTIONS_OPEN = 4  # gauge
    CONNECTIONS_UNREAD = 5  # gauge: taken, not one byte read yet (two at most)
    REQUESTS_IN_FLIGHT = 6  # gauge
    REQUESTS_1XX = 7  # counters: responses started, by class of their status
    REQUESTS_2XX = 8
    REQUESTS_3XX = 9
    REQUESTS_4XX = 10
    REQUESTS_5XX = 11
    OPEN_FDS = 12  # gauge
    RESIDENT_BYTES = 13  # gauge
    PROPORTIONAL_BYTES = 14  # gauge: PSS, measured by the worker of itself
    CPU_NS = 15  # counter: user + system time
    MAX_FDS = 16  # gauge
    UNIQUE_BYTES = 17  # gauge: USS


TAKEN_NS: Final = 80
"""First of the words, one a mailbox, in which a worker says which mail it has taken last: the time of accept that the
letter carries, which nobody can know who has not read it. A hint where the kernel would be asked, no more: a lie is
bounded by what a mailbox holds."""

TAKEN_MAILBOXES: Final = 16
"""How many such words there are; one more after them is of all further mailboxes, and says nothing."""

WORDS = 128
"""Words of the row, with room to grow without a new version; one page holds 512."""

ACCEPTED: Final = 112
"""First of the words that count what a worker has accepted by itself (``scheduling = "none"``), one a listener."""

ACCEPTED_LISTENERS: Final = 16
"""How many such words there are."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Words that count observations: one a bucket, each counting its own bucket alone, then their sum in nanoseconds.

    Attributes:
        at: the first word's index.
        bounds: the buckets' upper bounds in seconds; the last bucket has none.
    """

    at: int
    bounds: tuple[float, ...]

    @property
    def buckets(self) -> range:
        """The indexes of the buckets' words."""
        return range(self.at, self.at + len(self.bounds) + 1)

    @property
    def sum_ns(self) -> int:
        """The index of the sum's word."""
        return self.at + len(self.bounds) + 1

    def observer(self, words: memoryview) -> Callable[[int], None]:
        """A function that counts one observation, in nanoseconds, into ``words``; for a path that has no time."""
        bounds = [round(bound * 1e9) for bound in self.bounds]
        at, total, place, shortest = self.at, self.sum_ns, bisect_left, bounds[0]

        def observe(value_ns: int) -> None:
            words[at if value_ns <= shortest else at + place(bounds, value_ns)] += 1
            if value_ns > 0:
                words[total] = (words[total] + value_ns) & 0xFFFF_FFFF_FFFF_FFFF

        return observe


HANDOVER: Final = Histogram(
    32, (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
)
"""From the accept in the primary until the worker has taken the connection."""

REQUEST: Final = Histogram(48, (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0))
"""From a request's complete head until the end of its response."""

LOOP_LAG: Final = Histogram(64, (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0))
"""How late each beat of the event loop was."""

HISTOGRAMS: Final = {"handover_duration": HANDOVER, "http_request_duration": REQUEST, "event_loop_lag": LOOP_LAG}
