"""What holds in every moment of every world, as sentences: one event, what was before it, and what is after it.

``World.give`` holds the core to them after each event, so every simulated test does, the exploration of all histories
among them. What can be said only of a length of time stands with those who watch for so long: ``tests/model``.
"""

from collections.abc import Container

from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.lifecycle import SPARE
from clusterd.core.policy import PoolPolicy

WANTED = ("spawning", "booting", "ready", "hung")
"""States of a worker that nobody has asked to go."""


def hold(event: e.Event, before: f.View, after: f.View, facts: list[f.Fact]) -> None:
    """The laws of the service as a whole.

    Raises:
        AssertionError: one does not hold.
    """
    said = [isinstance(fact, f.ServiceReady) for fact in facts if isinstance(fact, f.ServiceReady | f.ServiceUnready)]
    assert said == ([after.ready] if after.ready is not before.ready else []), "the facts and the view differ"
    began = [fact for fact in facts if isinstance(fact, f.ReloadBegan)]
    ended = [fact for fact in facts if isinstance(fact, f.ReloadEnded) and fact.generation is not None]
    under_way = (after.reload is not None) - (before.reload is not None)
    assert len(began) - len(ended) == under_way, "a reload without one verdict"
    exits = [fact.worker for fact in facts if isinstance(fact, f.WorkerExited)]
    assert exits == ([event.worker] if isinstance(event, e.Exited) else []), "not reaped exactly once"
    assert after.reload is None or after.phase == "running", "a service that ends tries out a generation"
    were = {pool.name: pool for pool in before.pools}
    for fact in ended:
        if fact.verdict is f.Verdict.PROMOTED:
            scaled = {one.pool: one.wanted for one in facts if isinstance(one, f.Scaled)}
            _promote_what_is_whole(fact.generation, were, after, scaled)
    for pool in after.pools:
        if after.phase == "running" and pool.name in were:
            _keep_what_is_ready(were[pool.name], pool, _fallen(event, facts))


def _promote_what_is_whole(
    generation: int | None, were: dict[str, f.PoolView], after: f.View, scaled: dict[str, int]
) -> None:
    """A generation is promoted when every slot has a ready worker of it; ``scaled``: what was ordered just before."""
    for pool in after.pools:
        if pool.generation == generation and pool.name in were:
            new = {worker.slot for worker in _ready(pool) if worker.generation == generation} | _held(pool)
            wanted = min(pool.wanted, were[pool.name].wanted, scaled.get(pool.name, pool.wanted))
            assert set(range(wanted)) <= new, "promoted before all were ready"


def _fallen(event: e.Event, facts: list[f.Fact]) -> set[int]:
    """The workers that are ready no more without our having asked them: they ended, left, or do not answer."""
    fallen = {fact.worker for fact in facts if isinstance(fact, f.WorkerHung)}
    return fallen | ({event.worker} if isinstance(event, e.Exited | e.Leaving | e.MemoryKill) else set())


def _keep_what_is_ready(before: f.PoolView, after: f.PoolView, fallen: set[int]) -> None:
    """A slot that is wanted and has a ready worker has one after any event, unless that has fallen or it is held."""
    had = {worker.slot for worker in _ready(before) if worker.id not in fallen} & set(range(after.wanted))
    had -= _held(after)
    has = {worker.slot for worker in _ready(after)}
    assert had <= has, "ready workers were given up before others were ready in their place"


def _ready(pool: f.PoolView) -> list[f.WorkerView]:
    return [worker for worker in pool.workers if worker.state == "ready" and worker.role in ("holder", "successor")]


def _held(pool: f.PoolView) -> set[int]:
    return {slot.index for slot in pool.slots if slot.held}


def hold_pool(before: f.PoolView | None, pool: f.PoolView, policies: list[PoolPolicy], hurried: bool) -> None:
    """The laws of how many there are.

    Args:
        policies: what the pool may go by now; none of one that is about to be gone.
        hurried: successors may come for all slots at once (see ``converge.hurried``).

    Raises:
        AssertionError: one does not hold.
    """
    unasked = [worker for worker in pool.workers if worker.state in WANTED]
    placed = [worker for worker in unasked if worker.slot != SPARE]
    spares = max((policy.spares for policy in policies), default=0)
    assert len(unasked) - len(placed) <= spares, "more spares than asked for"
    assert all(worker.slot < pool.wanted for worker in placed), "a worker in a slot that is not wanted"
    assert not _held(pool) & {worker.slot for worker in placed}, "a worker in a slot that an operator holds empty"
    assert _held(pool) <= set(range(pool.wanted)), "a slot that is not wanted is held"
    for role in ("holder", "successor"):
        slots = [worker.slot for worker in placed if worker.role == role]
        assert len(set(slots)) == len(slots), f"a slot has more than one {role}"
    coming = successors(pool)
    there = 0 if before is None else successors(before)
    most = pool.wanted if hurried else max((policy.reload.surge for policy in policies), default=0)
    assert coming <= max(most, there), "more processes than wanted, surge and spares"
    assert coming <= pool.wanted, "more than twice the wanted number"
    if pool.candidate is None and not pool.given_up:
        idle = [one for one in pool.workers if one.role == "spare" and one.state == "ready"]
        vacant = [slot for slot in pool.slots if slot.index < pool.wanted and slot.worker is None and not slot.given_up]
        vacant = [slot for slot in vacant if not slot.held and slot.index not in {worker.slot for worker in placed}]
        fit = [one for one in idle if one.generation == pool.generation]
        assert not (vacant and fit), "a spare is ready and a place is vacant"


def successors(pool: f.PoolView) -> int:
    """How many workers there are above one a slot."""
    return sum(worker.role == "successor" and worker.state in WANTED for worker in pool.workers)


def hold_readiness(view: f.View, pool: f.PoolView, heard: Container[int]) -> None:
    """Nobody is called ready who has not said so; ``heard``: the slots whose worker has, and was not told to go.

    Raises:
        AssertionError: somebody is.
    """
    said = sum(slot in heard for slot in range(max((slot.index for slot in pool.slots), default=-1) + 1))
    assert pool.ready <= said, "a worker is called ready that never said so"
    if view.ready and pool.generation:
        assert said >= min(pool.min_ready, pool.wanted), "ready with too few ready workers"


def hold_drains(view: f.View, pool: f.PoolView, facts: list[f.Fact], came_ready: Container[int]) -> None:
    """Who is to be replaced goes when its successor is ready, not before.

    Args:
        came_ready: workers that had been ready, of the pool's generation or one before it.

    Raises:
        AssertionError: one went too early.
    """
    ready = {worker.slot for worker in pool.workers if worker.state == "ready"}
    for fact in facts:
        if not isinstance(fact, f.WorkerDraining) or fact.pool != pool.name or view.phase != "running":
            continue
        replaced = fact.reason in (f.ExitReason.RELOAD, f.ExitReason.RECYCLED) and fact.slot in range(pool.wanted)
        if replaced and fact.worker in came_ready:
            assert fact.slot in ready, "told to go before its successor was ready"
