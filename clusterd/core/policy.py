"""The numbers that the rules go by. Every default stands in the configuration, none here. 0 is off."""

from dataclasses import dataclass
from enum import StrEnum
from zlib import crc32


class OnGiveUp(StrEnum):
    """What happens when every slot of a pool has given up."""

    PROBE = "probe"
    STOP = "stop"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When the successor of a worker that ended unasked is started. Seconds.

    Attributes:
        rapid_exit: an end before ready, or sooner than this after it, counts towards ``give_up_after``.
        initial_delay: the first delay of a row; it doubles from end to end.
        max_delay: what it doubles up to; also the pause between two probes.
        give_up_after: rapid ends in a row after which a slot gives up; 0 is never.
        on_give_up: what follows when all slots of the pool have given up.
        healthy_after: ready this long, and the row starts again at zero; 0 is as soon as ready.
    """

    rapid_exit: float
    initial_delay: float
    max_delay: float
    give_up_after: int
    on_give_up: OnGiveUp
    healthy_after: float


@dataclass(frozen=True, slots=True)
class RecyclePolicy:
    """When a worker that works is replaced; 0 is never.

    Attributes:
        max_requests: after so many responses …
        jitter: … and up to this share of them more, a different one for each worker.
        max_age: ready for so many seconds, less up to a tenth, so that workers of one age do not go together.
        max_memory: its proportional memory exceeds so many bytes.
    """

    max_requests: int
    jitter: float
    max_age: float
    max_memory: int


@dataclass(frozen=True, slots=True)
class ReloadPolicy:
    """How the next generation takes over.

    Attributes:
        surge: workers above the wanted number while one replaces another, 1 or more.
        canary: seconds that the first new worker must stay ready, under real load, before others follow.
    """

    surge: int
    canary: float


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """What one pool should be.

    Attributes:
        name: the pool's name.
        workers: how many workers are wanted, 1 or more.
        min_ready: how many of them must be ready for the service to be ready.
        spares: how many more are kept ready to take the place of one that ends.
        start_timeout: seconds from the command to start a worker, or its zygote, to ready; 0 is unbounded.
        heartbeat_timeout: seconds of silence after which a ready worker hangs; 0 is never.
        restart: see :class:`RestartPolicy`.
        recycle: see :class:`RecyclePolicy`.
        reload: see :class:`ReloadPolicy`.
    """

    name: str
    workers: int
    min_ready: int
    spares: int
    start_timeout: float
    heartbeat_timeout: float
    restart: RestartPolicy
    recycle: RecyclePolicy
    reload: ReloadPolicy


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """How the service ends. Seconds.

    Attributes:
        lame_duck: not ready any more, but still taking work; 0 is none.
        linger: what idle kept-alive connections get to close by themselves; it precedes ``drain_timeout``.
        drain_timeout: then what has not ended is killed; 0 waits without bound.
    """

    lame_duck: float
    linger: float
    drain_timeout: float

    def drain_deadline(self, now: float) -> float | None:
        """When a drain that begins at ``now`` is over by force; ``None`` is never."""
        return now + self.linger + self.drain_timeout if self.drain_timeout else None


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """The whole service."""

    pools: tuple[PoolPolicy, ...]
    stop: StopPolicy


def jitter(*key: object) -> float:
    """A number in [0, 1) that depends on ``key`` alone: the core has no random source, so that every run replays."""
    return crc32(repr(key).encode()) / 2**32


def backoff(policy: RestartPolicy, row: int, *key: object) -> float:
    """Seconds to wait after the ``row``-th unexpected end in a row (counted from 1), with 0 to 20 % of jitter."""
    if row <= 0:
        return 0.0
    # The exponent is bounded before it is used: a slot that fails for a year must not compute 2**1000000.
    delay = min(policy.initial_delay * 2.0 ** min(row - 1, 40), policy.max_delay)
    return delay * (1.0 + 0.2 * jitter(*key, row))
