"""A pool as people and machines look at it: an immutable copy."""

from collections.abc import Mapping

from .facts import PoolView, SlotView, WorkerView
from .lifecycle import Worker
from .pool import Pool, Role, Slot, ZygoteState

_ROLES = {Role.HOLDER: "holder", Role.SUCCESSOR: "successor", Role.SPARE: "spare", Role.NONE: "leaving"}


def view_pool(pool: Pool, workers: Mapping[int, Worker], now: float) -> PoolView:
    """The pool at ``now``. Slots above the wanted number are shown for as long as one of their workers lives."""
    own = [worker for worker in workers.values() if worker.pool == pool.name]
    held = {worker.slot for worker in own}
    return PoolView(
        name=pool.name,
        generation=pool.generation,
        wanted=pool.wanted,
        ready=pool.ready_count(workers),
        min_ready=pool.policy.min_ready,
        given_up=pool.gave_up,
        zygote=pool.zygote.state.value,
        preloaded=pool.zygote.preloaded if pool.zygote.state is ZygoteState.READY else None,
        slots=tuple(
            _view_slot(pool, slot, now) for slot in pool.slots if slot.index < pool.wanted or slot.index in held
        ),
        workers=tuple(
            WorkerView(
                w.id, w.pool, w.slot, w.generation, w.state.value, w.started_at, w.ready_at, _ROLES[pool.role(w)]
            )
            for w in own
        ),
        candidate=None if pool.candidate is None else pool.candidate.generation,
        stopped=pool.stopped is not None,
        spares=len(pool.spares),
    )


def _view_slot(pool: Pool, slot: Slot, now: float) -> SlotView:
    next_start = pool.probe_at if slot.given_up else slot.next_start
    waiting = slot.worker is None and slot.index < pool.wanted and not (pool.halted or slot.held) and next_start > now
    return SlotView(
        index=slot.index,
        worker=slot.worker,
        row=slot.row,
        given_up=slot.given_up,
        next_start=next_start if waiting else None,
        starts=slot.starts,
        ends=slot.ends,
        last_reason=slot.last_reason,
        held=slot.held,
    )
