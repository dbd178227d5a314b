"""Every history of one and of two workers: nothing forbidden happens, and what ought to be can always still be reached.

The invariants of single moments stand as sentences in ``tests/world.py`` (``obey``, ``check``) and in ``explore.py``.
"""

import pytest

from clusterd.core import events as e
from clusterd.core import policy
from clusterd.core.policy import OnGiveUp, PoolPolicy
from tests.model.explore import Small, explore
from tests.world import pool_policy, service_policy

pytestmark = pytest.mark.slow

HOLD, RELEASE = e.Hold("web", 0), e.Release("web", 0)
UP, DOWN = e.Scale("web", 1), e.Scale("web", -1)
STOP, NOW = e.Stop(), e.Stop(now=True)


def small(
    workers: int, on_give_up: OnGiveUp = OnGiveUp.PROBE, name: str = "web", min_ready: int = 1, spares: int = 0
) -> PoolPolicy:
    """Whole seconds and short rows, so that the states are few."""
    return pool_policy(
        name,
        workers,
        min_ready,
        start_timeout=2.0,
        rapid_exit=1.0,
        initial_delay=1.0,
        max_delay=2.0,
        give_up_after=2,
        on_give_up=on_give_up,
        healthy_after=2.0,
        spares=spares,
        canary=1.0,
    )


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fractions would make every state a new one; that a delay has its jitter is seen in ``tests/core``."""
    monkeypatch.setattr(policy, "jitter", lambda *key: 0.0)


def reload(generation: int, *pools: PoolPolicy) -> e.Reload:
    """Everything anew, in so many workers."""
    policy = service_policy(*pools, drain_timeout=2.0, linger=0.0)
    return e.Reload(generation, policy, frozenset(pool.name for pool in pools))


def reloaded(workers: int, faults: int, *more: e.Event, preloads: tuple[bool, ...] = (True,), spares: int = 0) -> Small:
    """A world that is reloaded once, and what follows."""
    pool = small(workers, min_ready=workers, spares=spares)
    world = Small(service_policy(pool, drain_timeout=2.0, linger=0.0), (reload(2, pool), *more), faults)
    world.preloads = preloads
    return world


def prove(world: Small) -> None:
    found = explore(world)
    stuck = found.cannot_reach(found.goals, ("good", "owed"))
    assert not stuck, f"the wanted number cannot be reached after {found.shortest(stuck)}"
    endless = found.cannot_reach(found.ended, ("owed",)) - found.running
    if world.policy.stop.drain_timeout:
        assert not endless, f"a stop does not end by itself after {found.shortest(endless)}"


@pytest.mark.parametrize("on_give_up", OnGiveUp)
def test_one_worker_comes_back_after_any_two_mishaps(on_give_up: OnGiveUp) -> None:
    prove(Small(service_policy(small(1, on_give_up), drain_timeout=2.0, linger=0.0), (), faults=2))


@pytest.mark.parametrize("plan", [(STOP, STOP), (STOP, NOW), (NOW,), (UP, DOWN)], ids=str)
def test_one_worker_under_an_operator_and_one_mishap(plan: tuple[e.Event, ...]) -> None:
    prove(Small(service_policy(small(1), drain_timeout=2.0, linger=0.0), plan, faults=1))


def test_one_worker_with_a_lame_duck() -> None:
    prove(Small(service_policy(small(1), lame_duck=1.0, drain_timeout=2.0, linger=1.0), (STOP, STOP), faults=1))


def test_one_worker_with_an_unbounded_drain_ends_when_asked_twice() -> None:
    prove(Small(service_policy(small(1), drain_timeout=0.0, linger=0.0), (STOP, STOP), faults=1))


def test_two_workers_come_back_after_any_mishap() -> None:
    prove(Small(service_policy(small(2, min_ready=2), drain_timeout=2.0, linger=0.0), (), faults=1))


@pytest.mark.parametrize("plan", [(STOP, STOP), (DOWN, UP), (DOWN, STOP)], ids=str)
def test_two_workers_under_an_operator(plan: tuple[e.Event, ...]) -> None:
    prove(Small(service_policy(small(2), drain_timeout=2.0, linger=0.0), plan, faults=0))


def test_two_pools_of_one_worker_and_one_mishap() -> None:
    pools = small(1), small(1, OnGiveUp.EXIT, name="cpu")
    prove(Small(service_policy(*pools, drain_timeout=2.0, linger=0.0), (), faults=1))


@pytest.mark.parametrize(
    ("plan", "faults"),
    [
        ((reload(2, small(1)),), 1),
        ((reload(2, small(1)), STOP), 0),
        ((reload(2, small(1)), reload(3, small(1))), 0),
        ((reload(2, small(1)), e.StopPool("web"), e.StartPool("web")), 0),
        ((reload(2, small(1), small(1, name="cpu")),), 0),
    ],
    ids=["a mishap", "a stop", "another reload", "the pool stopped and started", "a pool added"],
)
def test_one_worker_is_reloaded(plan: tuple[e.Event, ...], faults: int) -> None:
    prove(Small(service_policy(small(1), drain_timeout=2.0, linger=0.0), plan, faults))


def test_two_workers_are_reloaded() -> None:
    prove(Small(service_policy(small(2, min_ready=2), drain_timeout=2.0, linger=0.0), (reload(2, small(2)),), 0))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_forked_again_is_reloaded(workers: int) -> None:
    prove(reloaded(workers, 0, preloads=(False,)))


def test_a_zygote_may_turn_out_to_be_of_either_kind() -> None:
    prove(reloaded(1, 0, preloads=(True, False)))


def test_a_pool_is_taken_out() -> None:
    pools = small(1), small(1, name="cpu")
    prove(Small(service_policy(*pools, drain_timeout=2.0, linger=0.0), (reload(2, small(1)),), 0))


def test_a_worker_is_replaced_by_an_operator_with_a_mishap() -> None:
    plan = (e.Restart("web"),)
    prove(Small(service_policy(small(1), drain_timeout=2.0, linger=0.0), plan, faults=1))


@pytest.mark.parametrize(
    ("workers", "plan", "faults"),
    [(1, (HOLD, RELEASE), 1), (2, (HOLD, RELEASE), 0), (2, (HOLD, DOWN, UP), 0), (1, (HOLD, STOP), 1)],
    ids=str,
)
def test_a_slot_is_held(workers: int, plan: tuple[e.Event, ...], faults: int) -> None:
    prove(Small(service_policy(small(workers), drain_timeout=2.0, linger=0.0), plan, faults))


@pytest.mark.parametrize(
    ("workers", "plan"),
    [
        (2, (HOLD, reload(2, small(2)))),
        pytest.param(2, (reload(2, small(2)), HOLD), marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        (1, (HOLD, reload(2, small(1)), RELEASE)),
        (1, (reload(2, small(1)), HOLD, RELEASE)),
    ],
    ids=["before", "meanwhile", "all of them before", "all of them meanwhile"],
)
def test_a_slot_is_held_while_another_generation_is_tried_out(workers: int, plan: tuple[e.Event, ...]) -> None:
    prove(Small(service_policy(small(workers), drain_timeout=2.0, linger=0.0), plan, faults=0))


def test_a_spare_takes_a_vacant_place() -> None:
    prove(Small(service_policy(small(1, spares=1), drain_timeout=2.0, linger=0.0), (), faults=1))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("workers", "plan", "faults"),
    [(1, (), 3), (1, (STOP, STOP), 2), (1, (UP, STOP), 1), (2, (), 2), (2, (DOWN, UP), 1), (2, (STOP,), 1)],
)
def test_more_mishaps(workers: int, plan: tuple[e.Event, ...], faults: int) -> None:
    prove(Small(service_policy(small(workers), drain_timeout=2.0, linger=0.0), plan, faults))
