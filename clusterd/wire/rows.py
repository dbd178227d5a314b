"""The scoreboard's layout: which 64-bit word of a worker's row means what.

One writer (the worker), one reader (the primary). Every word stands alone: no reader may need two of them to agree,
and the primary believes none of them for control.
"""

from enum import IntEnum

VERSION = 1


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
    HANDOVER_COUNT = 16  # counters of hand-over latency: accept in the primary to take in the worker
    HANDOVER_SUM_NS = 17
    MAX_FDS = 18  # gauge
    UNIQUE_BYTES = 19  # gauge: USS


WORDS = 64  # room to grow without a new version; one page holds 512
