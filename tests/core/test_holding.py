"""A slot that an operator holds: its worker drains, and nobody follows until it is released."""

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import OnGiveUp
from tests.timed_world import Habits, TimedWorld
from tests.world import pool_policy, service_policy


def running(workers: int = 2, habits: Habits | None = None, **numbers: object) -> TimedWorld:
    world = TimedWorld(service_policy(pool_policy(workers=workers, **numbers)), habits)  # type: ignore[arg-type]
    world.start().run(5.0)
    return world


def holder(world: TimedWorld, slot: int) -> int | None:
    (pool,) = world.supervisor.view().pools
    return pool.slots[slot].worker


def test_the_worker_drains_and_none_follows_until_it_is_released() -> None:
    world = running()
    first = holder(world, 0)
    world.give(e.Hold("web", 0))
    drained = [command.worker for _, command in world.orders if isinstance(command, c.Drain)]
    assert drained == [first]
    world.run(3600.0)
    (pool,) = world.supervisor.view().pools
    assert [slot.held for slot in pool.slots] == [True, False]
    assert (pool.wanted, pool.ready, len(pool.workers)) == (2, 1, 1)
    world.give(e.Release("web", 0))
    world.run(1.0)
    assert world.goal()
    assert holder(world, 0) not in (None, first)
    said = [fact for _, fact in world.history if isinstance(fact, f.SlotHeld | f.SlotReleased)]
    assert said == [f.SlotHeld("web", 0), f.SlotReleased("web", 0)]


def test_the_end_is_one_that_was_asked_for() -> None:
    world = running()
    world.give(e.Hold("web", 1))
    world.run(10.0)
    (end,) = [fact for _, fact in world.history if isinstance(fact, f.WorkerExited)]
    assert (end.slot, end.reason, end.asked) == (1, f.ExitReason.STOP, True)
    assert not [fact for _, fact in world.history if isinstance(fact, f.RestartScheduled)]


def test_a_start_of_the_pool_releases_what_is_held() -> None:
    world = running(3)
    world.give(e.Hold("web", 0))
    world.give(e.Hold("web", 2))
    world.run(10.0)
    world.give(e.StartPool("web"))
    world.run(10.0)
    (pool,) = world.supervisor.view().pools
    assert (pool.ready, [slot.held for slot in pool.slots]) == (3, [False] * 3)


@pytest.mark.parametrize("order", [e.Scale("web", -1), e.StopPool("web")])
def test_a_slot_that_is_not_wanted_any_more_is_held_no_longer(order: e.Event) -> None:
    world = running(3)
    world.give(e.Hold("web", 2))
    world.give(order)
    world.give(e.ScaleTo("web", 3))
    world.run(10.0)
    (pool,) = world.supervisor.view().pools
    assert pool.ready == 3


def test_one_held_before_it_was_ready_or_while_it_waits_is_as_empty() -> None:
    world = running(2, Habits(boot_time=None))
    world.give(e.Hold("web", 0))
    world.run(1.0)
    (pool,) = world.supervisor.view().pools
    assert [worker.slot for worker in pool.workers] == [1]
    world.habits.boot_time = 0.05
    world.kill_zygote("web", 1)
    world.give(e.Hold("web", 1))
    world.run(60.0)
    (pool,) = world.supervisor.view().pools
    assert pool.workers == ()


def test_below_what_the_service_needs_it_is_not_ready() -> None:
    world = running(2, min_ready=2)
    assert world.ready
    world.give(e.Hold("web", 0))
    assert not world.ready
    world.give(e.Release("web", 0))
    world.run(10.0)
    assert world.ready


def test_a_reload_takes_the_slots_that_are_not_held() -> None:
    world = running(3)
    world.give(e.Hold("web", 0))
    world.run(5.0)
    world.reload()
    world.run(60.0)
    (pool,) = world.supervisor.view().pools
    assert (pool.generation, pool.ready, pool.slots[0].held) == (2, 2, True)
    assert {worker.slot for worker in pool.workers} == {1, 2}
    world.give(e.Release("web", 0))
    world.run(5.0)
    assert {worker.generation for worker in world.supervisor.view().pools[0].workers} == {2}
    assert world.goal()


def test_a_reload_of_nothing_but_held_slots_is_promoted_at_once_and_what_is_released_has_the_new_code() -> None:
    world = running(1)
    world.give(e.Hold("web", 0))
    world.run(5.0)
    world.reload()
    world.give(e.Release("web", 0))
    world.run(5.0)
    (pool,) = world.supervisor.view().pools
    assert (pool.generation, [worker.generation for worker in pool.workers]) == (2, [2])


def test_a_canary_whose_slot_is_held_is_followed_by_one_in_another() -> None:
    world = running(2)
    world.reload()
    world.run(1.0)
    (canary,) = [one for one in world.supervisor.view().pools[0].workers if one.generation == 2]
    world.give(e.Hold("web", canary.slot))
    world.run(60.0)
    (pool,) = world.supervisor.view().pools
    assert (pool.generation, pool.ready) == (2, 1)
    (ended,) = [fact for _, fact in world.history if isinstance(fact, f.ReloadEnded)]
    assert ended.verdict is f.Verdict.PROMOTED


def test_a_pool_gives_up_when_all_that_are_not_held_have() -> None:
    world = running(2, give_up_after=2, on_give_up=OnGiveUp.PROBE, max_delay=5.0)
    world.give(e.Hold("web", 0))
    world.habits.life = 0.1
    world.run(1.0)
    world.end(next(iter(world.processes.values())), 1)
    world.run(60.0)
    assert world.supervisor.view().pools[0].given_up
    world.habits.life = None
    world.give(e.Release("web", 0))
    world.run(60.0)
    (pool,) = world.supervisor.view().pools
    assert (pool.given_up, pool.ready) == (False, 2)


def test_a_pool_whose_slots_are_all_held_has_not_given_up() -> None:
    world = running(1)
    world.give(e.Hold("web", 0))
    world.run(60.0)
    (pool,) = world.supervisor.view().pools
    assert (pool.given_up, pool.workers, world.supervisor.view().phase) == (False, (), "running")


@pytest.mark.parametrize("slot", [-1, 2, 99])
def test_a_slot_that_there_is_not_is_not_held(slot: int) -> None:
    world = running(2)
    before = world.supervisor.view()
    world.give(e.Hold("web", slot))
    world.give(e.Release("web", slot))
    assert (world.commands, world.facts, world.supervisor.view()) == ([], [], before)
