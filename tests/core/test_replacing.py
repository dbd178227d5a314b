"""Workers that hang, that have done their work, and spares: who is replaced, when, and by whom."""

from itertools import pairwise

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.facts import ExitReason, KillReason
from clusterd.core.policy import OnGiveUp
from tests.core.test_reload import Fleet
from tests.timed_world import Habits
from tests.world import pool_policy, service_policy


def fleet(**settings: object) -> Fleet:
    return Fleet(service_policy(pool_policy(**{"workers": 4, **settings}))).up()  # type: ignore[arg-type]


def exits(world: Fleet) -> list[f.WorkerExited]:
    return [fact for fact in world.told(f.WorkerExited) if isinstance(fact, f.WorkerExited)]


def test_a_worker_whose_loop_does_not_turn_has_its_stacks_taken_and_is_replaced() -> None:
    world = fleet(heartbeat_timeout=10.0)
    world.habits.silent.add(2)
    world.run(10)
    assert not world.told(f.WorkerHung)
    world.run(5)
    assert [fact.worker for fact in world.told(f.WorkerHung) if isinstance(fact, f.WorkerHung)] == [2]
    assert [type(fact) for _, fact in world.history][-6:].count(f.StacksReported) <= 1
    order = [type(fact) for _, fact in world.history if getattr(fact, "worker", None) == 2]
    assert order[-4:] == [f.WorkerHung, f.StacksReported, f.WorkerKilled, f.WorkerExited]
    (end,) = exits(world)
    assert end.reason is ExitReason.HUNG
    assert world.goal()


def test_stacks_that_do_not_come_are_not_waited_for() -> None:
    world = fleet(heartbeat_timeout=10.0)
    world.habits.stacks_time = None
    world.habits.silent.add(2)
    world.run(20)
    (kill,) = [fact for fact in world.told(f.WorkerKilled) if isinstance(fact, f.WorkerKilled)]
    assert kill.reason is KillReason.HANG
    assert world.goal()


def test_a_primary_that_slept_has_heard_nobody_and_blames_nobody() -> None:
    world = fleet(heartbeat_timeout=10.0)
    for _ in range(5):
        world.run(3)
        world.sleep(100)
    world.run(3)
    assert not world.told(f.WorkerHung)


def test_a_worker_without_a_beat_is_never_silent() -> None:
    world = Fleet(service_policy(pool_policy(heartbeat_timeout=1.0)), Habits(beats=False)).up()
    world.run(60)
    assert not world.told(f.WorkerHung)


def test_a_worker_that_is_unwell_to_its_asker_is_treated_as_one_that_hangs() -> None:
    world = fleet()
    world.give(e.Unwell(3, "GET /health: no answer within 5 s"))
    world.run(1)
    (end,) = exits(world)
    assert (end.worker, end.reason) == (3, ExitReason.HUNG)
    assert world.goal()


def test_a_worker_that_has_served_enough_is_replaced_first_and_one_at_a_time() -> None:
    world = fleet(max_requests=100)
    world.habits.rate = 3
    world.run(40)
    assert len(exits(world)) >= 4
    assert {end.reason for end in exits(world)} == {ExitReason.RECYCLED}
    assert (world.fewest, world.most) == (4, 5)
    recycled = [time for time, fact in world.history if isinstance(fact, f.WorkerRecycled)]
    assert len(set(recycled[:4])) > 1, "a different number for each"


def test_workers_of_one_age_do_not_go_together() -> None:
    world = fleet(max_age=100.0)
    world.run(120)
    times = [time for time, fact in world.history if isinstance(fact, f.WorkerRecycled)]
    assert len(times) == 4
    assert max(times) - min(times) > 1
    assert (world.fewest, world.most) == (4, 5)


def test_a_worker_that_has_grown_too_large_is_replaced() -> None:
    world = fleet(max_memory=10**6)
    world.habits.memory = lambda worker: 2 * 10**6 if worker == 3 else 1000
    world.run(5)
    assert [end.worker for end in exits(world)] == [3]
    assert world.fewest == 4


def test_a_successor_that_fails_is_tried_again_ever_later_and_the_holder_serves_on() -> None:
    world = fleet()
    world.habits.boots = False
    world.give(e.Restart("web", 1))
    world.run(60)
    assert 5 < len(exits(world)) < 12
    assert world.fewest == 4
    world.habits.boots = True
    world.run(60)
    assert world.goal()
    assert 1 not in world.processes


def test_an_operator_restarts_a_pool_rolling() -> None:
    world = fleet()
    world.give(e.Restart("web"))
    world.run(5)
    assert sorted(end.worker for end in exits(world)) == [1, 2, 3, 4]
    assert {end.reason for end in exits(world)} == {ExitReason.RECYCLED}
    assert (world.fewest, world.most) == (4, 5)


def test_memory_that_runs_out_is_named() -> None:
    world = fleet()
    world.give(e.MemoryKill(2))
    world.run(1)
    world.dies(world.processes[3])
    world.processes[3].status = e.Exited(3, None, 9, oom=True)
    world.reaped(world.processes[3])
    assert [end.reason for end in exits(world)] == [ExitReason.OOM, ExitReason.OOM]
    world.run(5)
    assert world.goal()


def test_a_spare_takes_the_place_of_a_dead_worker_in_the_same_moment() -> None:
    world = fleet(spares=1)
    assert [worker.role for worker in world.supervisor.view().pools[0].workers].count("spare") == 1
    world.fewest = 10**6
    world.crash(2)
    assert [type(command) for command in world.commands][:1] == [c.Admit]
    assert world.fewest == 4
    assert world.goal()
    world.run(1)
    assert [worker.role for worker in world.supervisor.view().pools[0].workers].count("spare") == 1


def test_spares_do_not_make_a_crash_loop_faster() -> None:
    with_spares, without = fleet(spares=2), fleet()
    for world in (with_spares, without):
        world.habits.life = 0.3
        for slot in range(4):
            world.crash(slot)
        world.run(8)
    assert len(with_spares.when(c.Spawn)) <= len(without.when(c.Spawn)) + 4


def test_spares_follow_the_generation() -> None:
    world = fleet(spares=2, canary=0.0)
    world.reload()
    world.run(5)
    spares = [worker for worker in world.supervisor.view().pools[0].workers if worker.role == "spare"]
    assert [worker.generation for worker in spares] == [2, 2]


def test_many_that_die_together_do_not_start_in_step() -> None:
    world = fleet(workers=8)
    world.run(20)
    for slot in range(8):
        world.crash(slot)
    began = world.now
    world.run(1)
    starts = [time - began for time in world.when(c.Spawn) if time >= began]
    assert starts[0] == 0, "the first at once"
    assert len(starts) == 8
    assert all(later - sooner > 0.02 for sooner, later in pairwise(starts))
    assert starts[-1] < 0.2


def test_a_pool_is_stopped_and_started_by_an_operator() -> None:
    world = fleet()
    world.give(e.StopPool("web"))
    world.run(1)
    assert {end.reason for end in exits(world)} == {ExitReason.STOP}
    assert not world.zygotes
    assert world.supervisor.deadline() is None
    world.give(e.StartPool("web"))
    world.run(2)
    assert world.goal()
    assert len(world.processes) == 4


def test_a_pool_that_gave_up_for_good_can_be_started_by_an_operator() -> None:
    policy = service_policy(pool_policy(give_up_after=1, on_give_up=OnGiveUp.STOP))
    world = Fleet(policy, Habits(life=0.5))
    world.start()
    world.run(100)
    world.habits.life = None
    assert not world.processes
    world.give(e.StartPool("web"))
    world.run(2)
    assert world.goal()


def test_scaling_to_a_number() -> None:
    world = fleet()
    world.give(e.ScaleTo("web", 6))
    world.run(1)
    assert len(world.processes) == 6
    world.give(e.ScaleTo("web", 0))
    world.run(1)
    assert len(world.processes) == 1


def test_a_spare_takes_a_vacant_place_in_a_lame_duck_too() -> None:
    world = Fleet(service_policy(pool_policy(workers=4, spares=1), lame_duck=5.0)).up()
    world.give(e.Stop())
    world.crash(2)
    assert [type(command) for command in world.commands][:1] == [c.Admit]
    assert world.fewest == 4


def test_a_successor_that_ends_after_who_it_was_to_follow_counts_as_that_one_would() -> None:
    world = Fleet(service_policy(pool_policy(workers=1), lame_duck=20.0)).up()
    world.run(20)
    world.habits.boot_time = None
    world.give(e.Restart("web"))
    world.run(1)
    (heir,) = [w.id for w in world.supervisor.view().pools[0].workers if w.role == "successor"]
    world.give(e.Stop())
    world.crash(0)
    world.end(world.processes[heir], 1)
    assert not any(isinstance(command, c.Spawn) for command in world.commands)
    assert [fact.row for fact in world.facts if isinstance(fact, f.RestartScheduled)] == [1]


def test_a_beat_ends_a_silence() -> None:
    world = fleet(heartbeat_timeout=10.0)
    for _ in range(4):
        world.habits.silent.add(2)
        world.run(8)
        world.habits.silent.clear()
        world.run(2)
    assert not world.told(f.WorkerHung)


def test_fewer_spares_are_kept_when_a_reload_says_so() -> None:
    world = fleet(spares=2, canary=0.0)
    world.reload(pool_policy(workers=4, spares=1, canary=0.0))
    world.run(5)
    assert [worker.role for worker in world.supervisor.view().pools[0].workers].count("spare") == 1
