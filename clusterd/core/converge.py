"""Level rules: from what a pool is to what it ought to be, in one pass, run on any change.

The pass asks neither which event woke it nor what it did the last time, and it changes nothing: it returns steps.
"""

from dataclasses import dataclass

from .pool import Pool, Slot, ZygoteState


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


def converge(pool: Pool, now: float) -> list[Step]:
    """The steps from what is to what should be; none if they agree or time must pass first."""
    # 1. Slots above the wanted number are not to be held. The highest go first: slots stay 0 … N-1.
    steps: list[Step] = [
        DrainWorkerStep(slot.worker) for slot in reversed(pool.slots[pool.wanted :]) if slot.worker is not None
    ]
    if pool.wanted == 0:
        return steps  # the zygote stays until the last worker is gone: it kills what is left if the primary dies
    if pool.halted:
        return [*steps, StopZygoteStep()] if pool.zygote.state is ZygoteState.READY else steps
    # 2. Slots that are vacant and due, and at most one probe for those that gave up.
    due = [
        StartWorkerStep(slot, probe=False)
        for slot in pool.wanted_slots
        if slot.worker is None and not slot.given_up and slot.next_start <= now
    ]
    probe = probe_slot(pool)
    if probe is not None and pool.probe_at <= now:
        due.append(StartWorkerStep(probe, probe=True))
    # 3. Without a zygote nobody is forked; one that has worked is rebuilt before it is needed.
    if pool.zygote.state is ZygoteState.READY:
        steps += due
    elif pool.zygote.state is ZygoteState.ABSENT and (due or zygote_wanted(pool)) and zygote_due(pool) <= now:
        steps.append(StartZygoteStep())
    return steps


def probe_slot(pool: Pool) -> Slot | None:
    """The slot that would try next for those that gave up: one at a time, the one that waits longest first.

    Of a pool that has never worked none tries: what it lacks is not a dependency that comes back.
    """
    if pool.probe is not None or not pool.ever_ready:
        return None
    waiting = [slot for slot in pool.wanted_slots if slot.given_up and slot.worker is None]
    return min(waiting, key=lambda slot: slot.next_start, default=None)


def zygote_wanted(pool: Pool) -> bool:
    """Is a zygote to be there even if nobody is to be forked at this moment?"""
    return pool.zygote.had and not pool.gave_up


def zygote_due(pool: Pool) -> float:
    """When the next zygote may be started. In a pool that has given up it is part of the probe."""
    return pool.probe_at if pool.gave_up else pool.zygote.next_start


def next_wake(pool: Pool, now: float) -> float | None:
    """When time alone will make :func:`converge` return something it does not return now."""
    if pool.wanted == 0 or pool.halted or pool.zygote.state in (ZygoteState.STARTING, ZygoteState.STOPPING):
        return None  # a zygote's answer wakes us, or its own timeout
    times = [slot.next_start for slot in pool.wanted_slots if slot.worker is None and not slot.given_up]
    if probe_slot(pool) is not None:
        times.append(pool.probe_at)
    if pool.zygote.state is ZygoteState.ABSENT:
        if zygote_wanted(pool):
            times.append(now)
        times = [max(time, zygote_due(pool)) for time in times]
    return min((time for time in times if time > now), default=None)
