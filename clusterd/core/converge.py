"""Level rules: from what a pool is to what it ought to be, in one pass, run on any change.

The pass asks neither which event woke it nor what it did the last time, and it changes nothing: it returns steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from .facts import ExitReason
from .lifecycle import State, Worker
from .policy import OnGiveUp, PoolPolicy


class ZygoteState(StrEnum):
    """Where a pool's zygote is in its life."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class Zygote:
    """The present zygote of a pool, or the lack of one.

    Attributes:
        until: when a start that is not answered is given up.
        next_start: not before this.
        row: deaths in a row of zygotes that had been ready; failed imports count in the slots' rows instead.
        had: one was ready in this generation, so it is rebuilt before anybody needs it.
        late: it is being stopped because its start was not answered in time.
    """

    state: ZygoteState = ZygoteState.ABSENT
    until: float | None = None
    started_at: float = 0.0
    ready_at: float = 0.0
    next_start: float = 0.0
    row: int = 0
    had: bool = False
    late: bool = False
    preloaded: bool = True


@dataclass(slots=True)
class Slot:
    """A place in a pool.

    Attributes:
        worker: who holds it. One that was asked to leave, or said that it does, holds it no longer.
        row: unexpected ends in a row; ``rapid`` those of them that count for giving up.
        next_start: not before this.
        vacant_since: when its last holder ended unasked.
    """

    index: int
    worker: int | None = None
    row: int = 0
    rapid: int = 0
    given_up: bool = False
    next_start: float = 0.0
    vacant_since: float | None = None
    starts: int = 0
    ends: int = 0
    last_reason: ExitReason | None = None


@dataclass(slots=True)
class Pool:
    """One pool as it is.

    Attributes:
        wanted: how many slots are to be held; 0 while the service drains.
        probe: the worker that tries for a pool that has given up; ``probe_at`` when the next one may.
        gave_up: all its slots have.
        halted: it gave up and is to stay down.
        ever_ready: one of its workers was ready in the primary's life.
    """

    policy: PoolPolicy
    wanted: int
    generation: int = 1
    zygote: Zygote = field(default_factory=Zygote)
    slots: list[Slot] = field(default_factory=list)
    probe: int | None = None
    probe_at: float = 0.0
    gave_up: bool = False
    halted: bool = False
    ever_ready: bool = False

    def wanted_slots(self) -> list[Slot]:
        """The slots that ought to be held, made on demand."""
        while len(self.slots) < self.wanted:
            self.slots.append(Slot(len(self.slots)))
        return self.slots[: self.wanted]


@dataclass(frozen=True, slots=True)
class StartZygoteStep:
    """The pool needs a zygote, and may have one now."""


@dataclass(frozen=True, slots=True)
class StopZygoteStep:
    """Nobody will be forked from it."""


@dataclass(frozen=True, slots=True)
class StartWorkerStep:
    """The slot is vacant and due."""

    slot: Slot
    probe: bool


@dataclass(frozen=True, slots=True)
class DrainWorkerStep:
    """The worker holds a slot that ought not to be held."""

    worker: int


Step = StartZygoteStep | StopZygoteStep | StartWorkerStep | DrainWorkerStep


def probe_slot(pool: Pool) -> Slot | None:
    """The slot that would try next for those that gave up: one at a time, the lowest first."""
    if pool.policy.restart.on_give_up is not OnGiveUp.PROBE or pool.probe is not None:
        return None
    return next((slot for slot in pool.wanted_slots() if slot.given_up and slot.worker is None), None)


def converge(pool: Pool, now: float) -> Iterator[Step]:
    """The steps from what is to what should be; nothing if they agree or time must pass first."""
    # 1. Slots above the wanted number are not to be held. The highest go first: slots stay 0 … N-1.
    for slot in reversed(pool.slots[pool.wanted :]):
        if slot.worker is not None:
            yield DrainWorkerStep(slot.worker)
    if pool.wanted == 0 or pool.halted:
        if pool.halted and pool.zygote.state is ZygoteState.READY:
            yield StopZygoteStep()
        return
    # 2. Slots that are vacant and due, and at most one probe for those that gave up.
    due = [
        StartWorkerStep(slot, probe=False)
        for slot in pool.wanted_slots()
        if slot.worker is None and not slot.given_up and slot.next_start <= now
    ]
    probe = probe_slot(pool)
    if probe is not None and pool.probe_at <= now:
        due.append(StartWorkerStep(probe, probe=True))
    # 3. Without a zygote nobody is forked; one that has worked is rebuilt before it is needed.
    if pool.zygote.state is ZygoteState.READY:
        yield from due
    elif pool.zygote.state is ZygoteState.ABSENT and (due or pool.zygote.had) and pool.zygote.next_start <= now:
        yield StartZygoteStep()


def next_wake(pool: Pool, now: float) -> float | None:
    """When time alone will make :func:`converge` return something it does not return now."""
    if pool.wanted == 0 or pool.halted:
        return None
    if pool.zygote.state in (ZygoteState.STARTING, ZygoteState.STOPPING):
        return None  # its answer wakes us, or its own timeout
    times = [slot.next_start for slot in pool.wanted_slots() if slot.worker is None and not slot.given_up]
    if probe_slot(pool) is not None:
        times.append(pool.probe_at)
    if pool.zygote.state is ZygoteState.ABSENT:
        if pool.zygote.had:
            times = [pool.zygote.next_start]
        else:
            times = [max(time, pool.zygote.next_start) for time in times]
    return min((time for time in times if time > now), default=None)


def ready_count(pool: Pool, workers: dict[int, Worker]) -> int:
    """How many slots are held by a ready worker."""
    return sum(1 for slot in pool.slots if slot.worker is not None and workers[slot.worker].state is State.READY)
