"""How ends count over time: rows, giving up, probing, coming back. In a world that goes on by itself."""

from itertools import pairwise

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import OnGiveUp
from tests.timed_world import Habits, TimedWorld
from tests.world import pool_policy, service_policy


def between(times: list[float], less: float = 0.0) -> list[float]:
    return [after - before - less for before, after in pairwise(times)]


def assert_doubling(delays: list[float]) -> None:
    for row, delay in enumerate(delays):
        assert 0.2 * 2**row - 1e-6 <= delay <= 0.24 * 2**row + 1e-6


def down(world: TimedWorld, boots: bool = False) -> None:
    """The dependency is gone: every worker dies, and none boots any more."""
    world.habits.boots = boots
    for process in list(world.processes.values()):
        world.end(process, 1)


@pytest.mark.parametrize("workers", [1, 4])
def test_an_import_that_fails_is_tried_exactly_as_often_as_given_and_ends_the_primary_with_1(workers: int) -> None:
    world = TimedWorld(service_policy(pool_policy(workers=workers)), Habits(imports=False)).start()
    world.run(60)
    assert world.exit is not None
    assert world.exit.code == 1
    assert world.when(c.Exit)[0] - 1000.0 < 6.0
    starts = world.when(c.StartZygote)
    assert len(starts) == 5
    assert_doubling(between(starts, less=0.2))
    assert [fact.report for fact in world.told(f.ZygoteEnded) if isinstance(fact, f.ZygoteEnded)] == ["it ended"] * 5


def test_a_boot_that_fails_is_tried_exactly_as_often_as_given_in_each_slot() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2)), Habits(boots=False)).start()
    world.run(60)
    assert world.exit is not None
    assert world.exit.code == 1
    spawns = [(time, order.slot) for time, order in world.orders if isinstance(order, c.Spawn)]
    for slot in (0, 1):
        times = [time for time, its in spawns if its == slot]
        assert len(times) == 5
        assert_doubling(between(times, less=0.052))
    assert len(world.when(c.StartZygote)) == 1, "the zygote is good"


def test_imports_and_boots_that_fail_are_one_row() -> None:
    world = TimedWorld(service_policy(), Habits(imports=False, boots=False)).start()
    world.run(1.0)  # two imports
    world.habits.imports = True
    world.run(60)
    assert world.exit is not None
    assert len(world.when(c.StartZygote)) == 3
    assert len(world.when(c.Spawn)) == 3


def test_a_zygote_that_dies_at_its_first_fork_every_time_is_a_failed_boot() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2)), Habits(fork_time=None)).start()
    while world.exit is None:
        world.run(0.05)
        if "web" in world.zygotes and world.zygotes["web"].owed and world.zygotes["web"].alive:
            world.kill_zygote()
    assert world.exit.code == 1
    assert len(world.when(c.StartZygote)) == 5


def test_a_zygote_that_never_answers_is_given_up_each_time() -> None:
    world = TimedWorld(service_policy(pool_policy(start_timeout=3.0)), Habits(import_time=None)).start()
    world.run(60)
    assert world.exit is not None
    assert world.exit.code == 1
    assert len(world.when(c.StartZygote)) == len(world.when(c.StopZygote)) == 5


def test_no_limit_to_attempts_where_none_is_given() -> None:
    world = TimedWorld(service_policy(pool_policy(give_up_after=0)), Habits(boots=False)).start()
    world.run(3600)
    assert world.exit is None
    assert 100 <= len(world.when(c.Spawn)) <= 140, "one in 30 to 36 seconds in the long run"


def test_a_worker_that_dies_soon_after_ready_every_time_starts_at_most_five_times_in_eight_seconds() -> None:
    world = TimedWorld(service_policy(), Habits(life=0.3)).start()
    world.run(8)
    assert len(world.when(c.Spawn)) <= 5


def test_ends_that_are_not_rapid_lengthen_the_row_and_never_give_up() -> None:
    world = TimedWorld(service_policy(), Habits(life=2.0)).start()
    world.run(600)
    assert not world.told(f.SlotGaveUp)
    delays = [fact.delay for fact in world.told(f.RestartScheduled) if isinstance(fact, f.RestartScheduled)]
    assert_doubling(delays[:7])
    assert all(30.0 <= delay <= 36.0 for delay in delays[8:])


def test_a_rapid_end_after_others_begins_a_new_run() -> None:
    world = TimedWorld(service_policy(pool_policy(give_up_after=2, max_delay=1.0))).start()
    for life in (0.5, 2.0, 0.5, 2.0, 0.5):
        world.run(3.0 - life)
        world.habits.life = None
        while not world.goal():
            world.run(0.01)
        world.run(life)
        world.crash()
    assert not world.told(f.SlotGaveUp)


def test_ready_for_long_enough_starts_the_row_again() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2))).start()
    world.run(1)
    world.crash(1)
    world.run(9.9)
    assert not world.told(f.SlotHealthy)
    world.run(1.0)
    assert world.told(f.SlotHealthy) == [f.SlotHealthy("web", 1)]
    world.crash(1)
    assert f.RestartScheduled("web", 1, 0.0, 0, world.now) in world.facts
    assert c.Spawn(4, "web", 1, 1) in world.commands


def test_a_pool_that_gave_up_tries_one_at_a_time_at_intervals_and_takes_turns() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=3))).start()
    world.run(20)
    down(world)
    world.run(20)
    (gave_up,) = world.when(f.PoolGaveUp)
    world.run(3600)
    probes = [(time, fact) for time, fact in world.history if isinstance(fact, f.WorkerStarting) and fact.probe]
    assert 0 < probes[0][0] - gave_up <= 30.0
    assert between([time for time, _ in probes]) == pytest.approx([30.0] * (len(probes) - 1))
    assert [fact.slot for _, fact in probes[:6]] in ([0, 1, 2] * 2, [0, 2, 1] * 2, [1, 0, 2] * 2, [1, 2, 0] * 2,
                                                     [2, 0, 1] * 2, [2, 1, 0] * 2)  # fmt: skip
    assert len(world.told(f.PoolGaveUp)) == 1


def test_a_probe_that_takes_longer_than_the_interval_is_still_the_only_one() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=3))).start()
    world.run(20)
    down(world)
    world.run(20)
    world.habits.boot_time = 50.0
    for _ in range(500):
        world.run(1)
        assert len(world.processes) <= 1
    assert (
        len([fact for fact in world.told(f.WorkerStarting) if isinstance(fact, f.WorkerStarting) and fact.probe]) >= 9
    )


@pytest.mark.parametrize("what", ["boots", "imports"])
def test_a_dependency_that_is_back_after_an_hour_is_served_within_the_largest_delay(what: str) -> None:
    world = TimedWorld(service_policy(pool_policy(workers=4, min_ready=1))).start()
    world.run(20)
    setattr(world.habits, what, False)
    if what == "imports":
        world.kill_zygote()
    for process in list(world.processes.values()):
        world.end(process, 1)
    world.run(3600)
    assert world.told(f.PoolGaveUp)
    assert not world.ready
    starts = len(world.when(c.Spawn)) + len(world.when(c.StartZygote))
    assert starts <= 4 * 5 + 3600 / 30 + 10, "one process at a time had been tried"
    setattr(world.habits, what, True)
    back = world.now
    while not world.ready:
        world.run(0.1)
    assert world.now - back <= 30.0 + 0.3 + 0.1, "largest delay, import and boot"
    while not world.goal():
        world.run(0.1)
    assert len(world.told(f.PoolRecovered)) == 1


def recovery(workers: int, spares: int = 0) -> tuple[TimedWorld, float, list[float]]:
    """A pool that gave up, and whose dependency is back: when it was, and when workers started from then on."""
    world = TimedWorld(service_policy(pool_policy(workers=workers, spares=spares))).start()
    world.run(20)
    down(world)
    world.run(300)
    world.habits.boots = True
    back = world.now
    while not world.goal() or len(world.processes) < workers + spares:
        world.run(0.1)
        assert world.now - back < 3600
    return world, back, [time for time in world.when(f.WorkerStarting) if time >= back]


@pytest.mark.parametrize("workers", [2, 4, 6])
def test_after_a_probe_that_lived_the_others_follow_one_at_a_time(workers: int) -> None:
    world, _, starts = recovery(workers)
    assert len(starts) == workers
    assert all(30.0 <= pause <= 36.0 + 1.5 for pause in between(starts))
    assert len({round(pause, 3) for pause in between(starts)}) == workers - 1, "no two pools of a fleet keep step"
    assert len(world.told(f.PoolRecovered)) == 1
    assert len(world.told(f.PoolGaveUp)) == 1


@pytest.mark.parametrize("workers", [8, 32])
def test_a_large_pool_is_whole_after_five_times_the_largest_delay(workers: int) -> None:
    world, back, starts = recovery(workers)
    assert len(starts) == workers
    assert world.now - back <= 30.0 + 5 * 36.0 + workers * 1.5
    assert min(between(starts)) >= 30.0 * 5 / (workers - 1)


def test_pools_that_fell_together_do_not_probe_together() -> None:
    firsts = []
    for name in map(str, range(40)):
        world = TimedWorld(service_policy(pool_policy(name, workers=2))).start()
        world.run(20)
        down(world)
        world.run(60)
        (gave_up,) = world.when(f.PoolGaveUp)
        probes = [time for time, fact in world.history if isinstance(fact, f.WorkerStarting) and fact.probe]
        first_slot = world.when(f.SlotGaveUp)[0]
        assert 3.2 <= probes[0] - first_slot <= 30.1, "not before the delay of a fifth end, not after the largest"
        firsts.append(probes[0] - gave_up)
    assert max(firsts) - min(firsts) >= 10.0


def test_spares_come_after_those_that_gave_up() -> None:
    world, _, starts = recovery(2, spares=2)
    assert starts[1] - starts[0] >= 30.0
    assert starts[2] - starts[0] >= 150.0
    assert len(starts) == 4
    assert world.ready


def test_one_that_fails_again_on_the_way_back_is_alone_with_its_delay() -> None:
    """What lives goes on living; the dependency that is away again is asked by one at a time, as before."""
    world = TimedWorld(service_policy(pool_policy(workers=4))).start()
    world.run(20)
    down(world)
    world.run(300)
    world.habits.boots = True
    while not world.told(f.PoolRecovered):
        world.run(0.1)
    world.habits.boots = False
    before = len(world.when(c.Spawn))
    world.run(600)
    assert 19 <= len(world.when(c.Spawn)) - before <= 21
    assert world.ready
    assert len(world.told(f.PoolGaveUp)) == 1


def test_an_operator_who_starts_the_pool_does_not_wait() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=4))).start()
    world.run(20)
    down(world)
    world.run(300)
    world.habits.boots = True
    world.give(e.StartPool("web"))
    world.run(1)
    assert world.goal()


def test_a_probe_that_dies_soon_after_ready_does_not_release_the_others() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=3))).start()
    world.run(20)
    down(world)
    world.run(20)
    world.habits.boots, world.habits.life = True, 0.5
    for _ in range(600):
        world.run(1)
        assert len(world.processes) <= 1
    assert not world.told(f.PoolRecovered)


def test_one_slot_that_gave_up_among_good_ones_is_tried_again_and_nobody_is_alarmed() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2, on_give_up=OnGiveUp.EXIT))).start()
    world.run(20)
    world.habits.boots = False
    world.crash(1)
    world.run(20)
    assert world.told(f.SlotGaveUp)
    world.habits.boots = True
    world.run(31)
    assert world.goal()
    assert not world.told(f.PoolGaveUp)
    assert world.exit is None


def test_slots_that_are_added_to_a_pool_that_gave_up_wait_for_its_probe_like_the_others() -> None:
    world = TimedWorld(service_policy()).start()
    world.run(20)
    down(world)
    world.run(10)
    world.give(e.Scale("web", 3))
    for _ in range(300):
        world.run(0.5)
        assert len(world.processes) <= 1
    world.habits.boots = True
    world.run(35 + 4 * 38)
    assert world.goal()


def test_fewer_slots_may_leave_only_those_that_gave_up() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2))).start()
    world.run(20)
    world.habits.boots = False
    world.crash(0)
    world.run(10)
    assert not world.told(f.PoolGaveUp)
    world.give(e.Scale("web", -1))
    assert world.told(f.PoolGaveUp)


def test_a_probe_whose_slot_is_not_wanted_any_more_makes_room_for_another() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2))).start()
    world.run(20)
    down(world)
    world.run(10)
    world.habits.boot_time, world.habits.drain_time = 3600.0, None
    while not any(view.slot == 1 for view in world.supervisor.view().pools[0].workers):
        world.run(1)
    world.give(e.Scale("web", -1))
    world.habits.boots, world.habits.boot_time = True, 0.05
    world.run(31)
    assert world.goal()


def test_the_zygote_is_rebuilt_with_back_off_while_the_workers_go_on() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=2))).start()
    world.run(20)
    world.habits.imports = False
    world.kill_zygote()
    world.run(600)
    starts = world.when(c.StartZygote)[1:]
    assert between(starts, less=0.2)[0] == pytest.approx(0.2, rel=0.2, abs=0.05)
    assert all(30.0 <= pause <= 36.0 for pause in between(starts, less=0.2)[8:])
    assert world.goal()
    assert len(world.when(c.Spawn)) == 2, "no worker was touched"
    world.habits.imports = True
    world.run(37)
    assert world.supervisor.view().pools[0].zygote == "ready"


def test_a_worker_of_an_older_zygote_says_nothing_for_the_present_one() -> None:
    world = TimedWorld(service_policy(), Habits(boot_time=5.0)).start()
    world.run(1)
    world.habits.imports = False
    world.kill_zygote()
    world.run(0.35)
    world.habits.import_time = 10.0
    world.run(5)
    assert world.goal(), "forked by the first, ready during the start of another"
    world.end(next(iter(world.processes.values())), 1)
    row = world.supervisor.view().pools[0].slots[0].row
    world.run(10)
    assert world.supervisor.view().pools[0].slots[0].row > row, "its failed import counts for the slot that waits"


def test_a_stop_that_has_nobody_to_hand_on_to_does_not_wait_for_anybody() -> None:
    policy = service_policy(pool_policy(on_give_up=OnGiveUp.PROBE), drain_timeout=0.0)
    world = TimedWorld(policy, Habits(close_time=None)).start()
    world.run(20)
    world.give(e.Stop())
    down(world)
    world.habits.close_time = 0.01
    world.run(20)
    assert world.exit is not None


def test_a_suspended_primary_blames_nobody_and_starts_nobody_twice() -> None:
    world = TimedWorld(service_policy(pool_policy(workers=4)), Habits(boot_time=30.0)).start()
    world.run(10)
    world.sleep(3600)
    world.run(1)
    assert world.goal()
    assert not world.when(c.Kill)
    assert len(world.when(c.Spawn)) == 4
