"""How full a pool is: the share of its ready workers that leave work waiting."""

from collections import Counter
from collections.abc import Iterable

from ..wire.rows import Row
from .child import Child

LATE_NS = 100_000_000
"""Nanoseconds by which a worker's event loop is late when it counts as full."""

BEAT_NS = 1_000_000_000
"""Nanoseconds between two beats of a worker."""


def saturation(children: Iterable[Child], now_ns: int) -> dict[str, float]:
    """Pool to that share; 0 for a pool without ready workers.

    Args:
        now_ns: ``CLOCK_MONOTONIC``, which the workers' beats are on.
    """
    ready: Counter[str] = Counter()
    full: Counter[str] = Counter()
    for child in children:
        ready[child.pool] += child.ready and not child.draining
        full[child.pool] += child.ready and not child.draining and _is_full(child, now_ns)
    return {pool: full[pool] / (ready[pool] or 1) for pool in ready}


def _is_full(child: Child, now_ns: int) -> bool:
    """Mail waits in its box, its last beat was late, or the next one is."""
    if any(box.queued() for box in child.boxes.values()):
        return True
    beat = child.board.words[Row.HEARTBEAT_NS]
    return bool(beat and max(child.board.words[Row.LOOP_LAG_NS], now_ns - beat - BEAT_NS) > LATE_NS)
