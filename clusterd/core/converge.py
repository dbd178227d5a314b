"""Level rules: from what a pool is to what it ought to be, in passes, run on any change until one finds nothing.

A pass asks neither which event woke it nor what it did the last time, and it changes nothing: it returns steps, of one
kind at a time, so that none of them can be out of date when it is taken.

A slot's holder is *stale* if it ought to be another one: it is of another generation than the one that slots are filled
with, or is to be recycled. It is never told to go before its successor is ready.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .facts import ExitReason
from .lifecycle import Worker
from .pool import Pool, Slot, ZygoteState, is_ready


@dataclass(frozen=True, slots=True)
class StartZygoteStep:
    """The pool needs a zygote of this generation, and may have one now."""

    generation: int


@dataclass(frozen=True, slots=True)
class StopZygoteStep:
    """Nobody will be forked from it."""

    generation: int


@dataclass(frozen=True, slots=True)
class StartWorkerStep:
    """The slot is vacant and due, or its holder needs a successor; without a slot: a spare is lacking."""

    slot: Slot | None
    generation: int
    probe: bool = False
    successor: bool = False


@dataclass(frozen=True, slots=True)
class AdmitSpareStep:
    """A spare takes the vacant slot."""

    worker: int
    slot: Slot


@dataclass(frozen=True, slots=True)
class SucceedStep:
    """The slot's successor takes it; who held it until now is to leave, and why."""

    slot: Slot
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class DrainWorkerStep:
    """The worker has a place that it ought not to have, and why not."""

    worker: int
    reason: ExitReason


Step = StartZygoteStep | StopZygoteStep | StartWorkerStep | AdmitSpareStep | SucceedStep | DrainWorkerStep
Workers = Mapping[int, Worker]


def converge(pool: Pool, workers: Workers, now: float, replacing: bool = True) -> list[Step]:
    """The next steps from what is to what should be; none if they agree or time must pass first.

    Args:
        workers: all that are not gone, by id.
        replacing: workers that can work may be replaced; not while the service ends.
    """
    passes = [_surplus, _finished_zygotes]
    if pool.wanted:
        passes += [_admissions, _successions] if replacing else [_admissions]
        passes += [_vacancies]
        passes += [_spares, _successors] if replacing else []
    for look in passes:
        steps = look(pool, workers, now)
        if steps:
            return steps
    return []


# -- who ought not to be there -----------------------------------------------------------------------------------


def _surplus(pool: Pool, workers: Workers, now: float) -> list[Step]:
    """Slots above the wanted number are to be empty, the highest go first: slots stay 0 … N-1. So are held ones."""
    if pool.leaving or not pool.generation:
        reason = ExitReason.RELOAD
    else:
        reason = ExitReason.SCALE if pool.stopped is None else ExitReason.STOP
    steps: list[Step] = [
        DrainWorkerStep(worker, reason)
        for slot in reversed(pool.slots[pool.wanted :])
        for worker in (slot.successor, slot.worker)
        if worker is not None
    ]
    steps += [
        DrainWorkerStep(worker, ExitReason.STOP)
        for slot in pool.wanted_slots
        if slot.held
        for worker in (slot.successor, slot.worker)
        if worker is not None
    ]
    # Spares too many or of another code; during a reload those there are may still be of use.
    kept = 0
    for spare in pool.spares:
        fits = pool.candidate is not None or workers[spare].generation == pool.generation
        if not pool.wanted or not fits or kept >= pool.policy.spares:
            steps.append(DrainWorkerStep(spare, reason if fits else ExitReason.RELOAD))
        elif workers[spare].recycle is not None:
            steps.append(DrainWorkerStep(spare, ExitReason.RECYCLED))
        else:
            kept += 1
    # Successors of a generation that is not to succeed any more; but one that alone is ready in its slot serves on.
    coming = pool.candidate.generation if pool.candidate is not None else pool.generation
    for slot in pool.wanted_slots:
        if slot.held or slot.successor is None or workers[slot.successor].generation == coming:
            continue
        if is_ready(slot.worker, workers) or not is_ready(slot.successor, workers):
            steps.append(DrainWorkerStep(slot.successor, ExitReason.RELOAD))
    return steps


def _finished_zygotes(pool: Pool, workers: Workers, now: float) -> list[Step]:
    """Zygotes that nobody will be forked from, once those that they forked are gone: they would bury these."""
    kept = {pool.generation, pool.candidate.generation if pool.candidate is not None else pool.generation}
    if not pool.wanted and (pool.stopped is not None or pool.leaving or not pool.generation):
        kept = set()
    living = {worker.generation for worker in workers.values() if worker.pool == pool.name}
    steps: list[Step] = [
        StopZygoteStep(zygote.generation)
        for zygote in pool.zygotes.values()
        if zygote.state in (ZygoteState.STARTING, ZygoteState.READY) and zygote.generation not in kept | living
    ]
    if pool.halted and pool.candidate is None and pool.zygote.state is ZygoteState.READY:
        steps.append(StopZygoteStep(pool.generation))
    return steps


# -- vacancies ---------------------------------------------------------------------------------------------------


def _vacant(pool: Pool) -> list[Slot]:
    """Slots that nobody holds and nobody inherits. A canary does not inherit: it has yet to prove itself."""
    inherits = pool.candidate is None or pool.candidate.rolling
    return [slot for slot in pool.open_slots if slot.worker is None and not (inherits and slot.successor is not None)]


def _due(pool: Pool, now: float) -> list[Step]:
    """Starts for slots that are vacant and due, and at most one probe for those that gave up."""
    if pool.filling != pool.generation:  # new code is not to wait for what the old one has been through
        return [StartWorkerStep(slot, pool.filling) for slot in _vacant(pool)]
    if pool.halted or not pool.generation:
        return []
    steps: list[Step] = [
        StartWorkerStep(slot, pool.generation) for slot in _vacant(pool) if not slot.given_up and slot.next_start <= now
    ]
    probe = probe_slot(pool)
    if probe is not None and pool.probe_at <= now:
        steps.append(StartWorkerStep(probe, pool.generation, probe=True))
    return steps


def _vacancies(pool: Pool, workers: Workers, now: float) -> list[Step]:
    """Without a zygote nobody is forked; one that has worked is rebuilt before it is needed."""
    due = _due(pool, now)
    if pool.zygote.state is ZygoteState.READY:
        return due
    if pool.filling != pool.generation or not pool.generation or pool.halted:
        return []  # the zygote of a generation that is tried out is started once, by :func:`_successors`
    needed = due or zygote_wanted(pool) or _lacking_spares(pool) or _stale(pool, workers)
    if pool.zygote.state is ZygoteState.ABSENT and needed and zygote_due(pool) <= now:
        return [StartZygoteStep(pool.generation)]
    return []


def probe_slot(pool: Pool) -> Slot | None:
    """The slot that would try next for those that gave up: one at a time, the one that waits longest first.

    Of a pool that has never worked none tries: what it lacks is not a dependency that comes back.
    """
    if pool.probe is not None or not pool.ever_ready:
        return None
    waiting = [slot for slot in _vacant(pool) if slot.given_up]
    return min(waiting, key=lambda slot: slot.next_start, default=None)


def zygote_wanted(pool: Pool) -> bool:
    """Is a zygote to be there even if nobody is to be forked at this moment?"""
    return pool.zygote.had and not pool.gave_up


def zygote_due(pool: Pool) -> float:
    """When the next zygote may be started. In a pool that has given up it is part of the probe."""
    return pool.probe_at if pool.gave_up else pool.zygote.next_start


# -- spares ------------------------------------------------------------------------------------------------------


def _admissions(pool: Pool, workers: Workers, now: float) -> list[Step]:
    """A ready spare takes a vacant slot in the moment in which that becomes vacant."""
    ready = [id_ for id_ in pool.spares if is_ready(id_, workers) and workers[id_].generation == pool.filling]
    vacant = [slot for slot in _vacant(pool) if not slot.given_up]
    return [AdmitSpareStep(worker, slot) for worker, slot in zip(ready, vacant, strict=False)]


def _lacking_spares(pool: Pool) -> int:
    """How many are to be started. A reload has other worries, and so has a pool that has given up."""
    if pool.candidate is not None or pool.gave_up or pool.halted or pool.leaving or not pool.generation:
        return 0
    return max(0, pool.policy.spares - len(pool.spares))


def _spares(pool: Pool, workers: Workers, now: float) -> list[Step]:
    if pool.zygote.state is not ZygoteState.READY or pool.spare_start > now:
        return []
    return [StartWorkerStep(None, pool.generation) for _ in range(_lacking_spares(pool))]


# -- successors --------------------------------------------------------------------------------------------------


def _stale(pool: Pool, workers: Workers) -> list[Slot]:
    """Held slots whose holder ought to be another one, and that nobody is to follow yet."""
    if pool.candidate is not None and not pool.candidate.rolling:
        return []
    return [
        slot
        for slot in pool.wanted_slots
        if slot.worker is not None
        and slot.successor is None
        and (workers[slot.worker].generation != pool.filling or workers[slot.worker].recycle is not None)
    ]


def _successors(pool: Pool, workers: Workers, now: float) -> list[Step]:
    """Who is stale gets a successor; a generation that is tried out first of all a zygote, and one worker."""
    candidate = pool.candidate
    if candidate is not None and pool.zygote_of(candidate.generation).state is ZygoteState.ABSENT:
        return [StartZygoteStep(candidate.generation)]
    if candidate is not None and not candidate.rolling:
        first = next(iter(pool.open_slots), None)
        ready = pool.zygote_of(candidate.generation).state is ZygoteState.READY
        if candidate.canary is None and first is not None and first.successor is None and ready:
            return [StartWorkerStep(first, candidate.generation, successor=True)]
        return []
    if pool.zygote.state is not ZygoteState.READY:
        return []
    stale = [slot for slot in _stale(pool, workers) if slot.next_try <= now]
    room = len(stale)
    if not hurried(pool, workers):
        room = pool.policy_of(pool.filling).reload.surge - sum(slot.successor is not None for slot in pool.wanted_slots)
    return [StartWorkerStep(slot, pool.filling, successor=True) for slot in stale[: max(0, room)]]


def hurried(pool: Pool, workers: Workers) -> bool:
    """Successors are started for all at once: the pool returns from a generation that failed, or it rolls and could
    not fork the old code again, so that no old worker goes before all the new ones are ready.
    """
    if pool.candidate is not None:
        return not refillable(pool)
    return any(slot.worker is not None and workers[slot.worker].generation > pool.generation for slot in pool.slots)


def refillable(pool: Pool) -> bool:
    """Workers of the present generation can still be forked from the code as it was when they were."""
    zygote = pool.zygotes.get(pool.generation)
    return zygote is not None and zygote.state is ZygoteState.READY and zygote.preloaded and not zygote.reborn


def _successions(pool: Pool, workers: Workers, now: float) -> list[Step]:
    """Successors that are ready take their slots; also those that are not, where there is nobody any more.

    Of the older generation one worker stays until the reload has its verdict and the shell has settled what only that
    generation had; and all of them where nobody could replace them if it fails.
    """
    if pool.candidate is not None and not pool.candidate.rolling:
        generation = pool.candidate.generation  # of another one are those alone that :func:`_surplus` has left there
        left = [slot for slot in pool.wanted_slots if slot.successor is not None]
        return [
            SucceedStep(slot, ExitReason.RELOAD)
            for slot in left
            if workers[slot.successor or 0].generation != generation
        ]
    older = [
        slot.index
        for slot in pool.wanted_slots
        if slot.worker is not None and is_ready(slot.worker, workers) and workers[slot.worker].generation < pool.filling
    ]
    may_go = len(older)
    if pool.candidate is not None:
        may_go = len(older) - 1 if refillable(pool) else 0
    elif pool.settling:
        may_go -= 1
    steps: list[Step] = []
    for slot in pool.wanted_slots:
        if slot.successor is None or (slot.worker is not None and not is_ready(slot.successor, workers)):
            continue
        if slot.index in older:
            if may_go <= 0:
                continue
            may_go -= 1
        same_code = slot.worker is not None and workers[slot.worker].generation == pool.filling
        steps.append(SucceedStep(slot, ExitReason.RECYCLED if same_code else ExitReason.RELOAD))
    return steps


# -- time --------------------------------------------------------------------------------------------------------


def next_wake(pool: Pool, workers: Workers, now: float) -> float | None:
    """When time alone will make :func:`converge` return something it does not return now."""
    zygote = pool.zygote
    if not pool.wanted or not pool.filling or zygote.state in (ZygoteState.STARTING, ZygoteState.STOPPING):
        return None  # a zygote's answer wakes us, or its own timeout
    times = [slot.next_try for slot in _stale(pool, workers)]
    if not pool.halted:
        times += [slot.next_start for slot in _vacant(pool) if not slot.given_up]
        if probe_slot(pool) is not None:
            times.append(pool.probe_at)
        if _lacking_spares(pool):
            times.append(pool.spare_start)
    if zygote.state is ZygoteState.ABSENT:
        if zygote_wanted(pool):
            times.append(now)
        times = [max(time, zygote_due(pool)) for time in times]
    return min((time for time in times if time > now), default=None)
