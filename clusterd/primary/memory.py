"""The memory guard: before the container's limit ends everything, the fattest worker is replaced, or given up.

In Kubernetes an out-of-memory kill of one process ends the whole container (``memory.oom.group``), so there is no
recovery from one; there is only acting before it. What is here decides; who looks and acts is :mod:`.guard`.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..unix.cgroup import Usage

#: Seconds for which a replaced worker is waited for, until the next may be replaced too: it may be draining.
PATIENCE = 30.0

#: A worker that grew from each of so many looks to the next, by so many bytes and by this share, will not stop.
LEAK_SAMPLES = 8
LEAK_BYTES = 32 * 2**20
LEAK_SHARE = 0.25

#: Seconds between two of these looks: growth that stops within a minute is a cache that fills.
LEAK_EVERY = 10.0

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Weight:
    """One worker. ``size``: proportional memory in bytes (PSS), as well as it is known; ``leaving``: it drains."""

    worker: int
    pool: str
    slot: int
    size: int
    ready: bool
    leaving: bool = False

    @property
    def name(self) -> str:
        return f"worker {self.worker} ({self.pool}/{self.slot})"


@dataclass(frozen=True, slots=True)
class Replace:
    """Replacement first, then drain. ``why``: for people."""

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """SIGKILL: there is no time left."""

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class Leak:
    """Growth that does not stop. ``rate`` in bytes a second."""

    worker: int
    rate: float
    why: str


Advice = Replace | GiveUp | Leak


@dataclass(slots=True)
class _Growth:
    """What one worker weighed, and when."""

    first_at: float
    first: int
    least: int
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=LEAK_SAMPLES))

    def rate(self, now: float, size: int) -> float:
        """Bytes a second since it was first weighed."""
        return (size - self.first) / max(now - self.first_at, 1.0)


class Guard:
    """Decides. Values only: the readings and the time are arguments.

    Args:
        soft: the share of the limit at which the fattest worker is replaced; 0 is off.
        hard: the share at which it is killed; 0 is off.
    """

    def __init__(self, soft: float, hard: float) -> None:
        self.soft = soft
        self.hard = hard
        self._growth: dict[int, _Growth] = {}
        self._replaced: dict[int, float] = {}
        self._killed: set[int] = set()

    def look(self, now: float, usage: Usage | None, weights: Sequence[Weight]) -> list[Advice]:
        """What is to be done at ``now``.

        Args:
            usage: of the control group; ``None`` where it has no limit.
            weights: every living worker.
        """
        living = {weight.worker for weight in weights}
        for past in (self._growth, self._replaced):
            for worker in past.keys() - living:
                del past[worker]
        self._killed &= living
        advice: list[Advice] = list(self._leaks(now, weights))
        if usage is not None:
            if self.hard and usage.used >= self.hard * usage.limit:
                advice += self._give_up(usage, weights)
            elif self.soft and usage.used >= self.soft * usage.limit:
                advice += self._replace(now, usage, weights)
        return advice

    def _give_up(self, usage: Usage, weights: Sequence[Weight]) -> list[Advice]:
        """One at a time: the memory of the last one must be back before the next can be judged."""
        if self._killed or not weights:
            return []
        fattest = max(weights, key=lambda weight: weight.size)
        self._killed.add(fattest.worker)
        return [GiveUp(fattest.worker, f"{_share(usage)}: {fattest.name} is the fattest with {_mib(fattest.size)}")]

    def _replace(self, now: float, usage: Usage, weights: Sequence[Weight]) -> list[Advice]:
        if self._killed or any(now - at < PATIENCE for at in self._replaced.values()):
            return []
        candidates = [one for one in weights if one.ready and not one.leaving and one.worker not in self._replaced]
        if not candidates:
            return []
        fattest = max(candidates, key=lambda weight: weight.size)
        if not self._has_room(usage, fattest, candidates):
            return []  # a second one beside it would itself reach the limit; at the hard threshold it is given up
        self._replaced[fattest.worker] = now
        growth = self._growth.get(fattest.worker)
        rate = growth.rate(now, fattest.size) if growth else 0.0
        grew = f", and has grown by {_mib(rate)} a second" if rate >= MIB / 60 else ""
        why = f"{_share(usage)}: {fattest.name} is the fattest with {_mib(fattest.size)}{grew}"
        return [Replace(fattest.worker, why)]

    def _has_room(self, usage: Usage, fattest: Weight, weights: Iterable[Weight]) -> bool:
        """For a successor, which begins as small as the smallest of its pool has been."""
        sizes = [
            self._growth[one.worker].least for one in weights if one.pool == fattest.pool and one.worker in self._growth
        ]
        edge = (self.hard or 1.0) * usage.limit
        return usage.used + min(sizes, default=0) <= edge

    def _leaks(self, now: float, weights: Sequence[Weight]) -> Iterable[Leak]:
        for one in weights:
            if not one.ready or not one.size:
                continue
            growth = self._growth.setdefault(one.worker, _Growth(now, one.size, one.size))
            growth.least = min(growth.least, one.size)
            samples = growth.samples
            if samples and now - samples[-1][0] < LEAK_EVERY:
                continue
            samples.append((now, one.size))
            (begun, least), (_, most) = samples[0], samples[-1]
            sizes = [size for _, size in samples]
            rises = all(before < after for before, after in pairwise(sizes))
            if len(samples) == LEAK_SAMPLES and rises and most - least >= max(LEAK_BYTES, LEAK_SHARE * least):
                rate = (most - least) / (now - begun)
                samples.clear()
                why = f"{one.name} grows without a stop: {_mib(rate)} a second, from {_mib(least)} to {_mib(most)}"
                yield Leak(one.worker, rate, why)


def _share(usage: Usage) -> str:
    return f"{usage.used / usage.limit:.0%} of the limit of {_mib(usage.limit)} is used"


def _mib(size: float) -> str:
    return f"{size / MIB:.1f} MiB" if size < 100 * MIB else f"{size / MIB:.0f} MiB"
