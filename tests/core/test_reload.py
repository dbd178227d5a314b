"""A generation follows another: promoted or rolled back, with never fewer ready than wanted."""

from collections.abc import Callable

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.facts import ExitReason, Verdict
from clusterd.core.policy import ServicePolicy
from tests.timed_world import Habits, TimedWorld
from tests.world import pool_policy, service_policy


class Fleet(TimedWorld):
    """Notes the fewest ready workers there were."""

    fewest = 10**6
    most = 0

    def check(self, event: e.Event) -> None:
        super().check(event)
        for pool in self.supervisor.view().pools:
            self.fewest = min(self.fewest, pool.ready)
            living = [p for p in self.processes.values() if p.pool == pool.name and not p.drained and not p.killed]
            self.most = max(self.most, len(living))

    def up(self) -> "Fleet":
        self.start()
        self.run(2)
        assert self.goal()
        self.fewest, self.most = 10**6, 0
        return self

    def verdict(self) -> f.ReloadEnded:
        (ended,) = self.told(f.ReloadEnded)
        assert isinstance(ended, f.ReloadEnded)
        return ended

    def generations(self, pool: str = "web") -> list[int]:
        (view,) = [one for one in self.supervisor.view().pools if one.name == pool]
        return [worker.generation for worker in view.workers if worker.role == "holder"]


FOUR = service_policy(pool_policy(workers=4, min_ready=4))


def fleet(policy: ServicePolicy = FOUR) -> Fleet:
    return Fleet(policy).up()


def test_all_workers_are_replaced_one_by_one_after_the_canary() -> None:
    world = fleet()
    world.reload()
    world.run(4.9)
    assert world.supervisor.view().reload is not None
    assert world.generations() == [1] * 4, "nobody goes before the canary's time is over"
    world.run(5)
    assert world.verdict().verdict is Verdict.PROMOTED
    assert world.generations() == [2] * 4
    assert (world.fewest, world.most) == (4, 5)
    reasons = {fact.reason for fact in world.told(f.WorkerExited) if isinstance(fact, f.WorkerExited)}
    assert reasons == {ExitReason.RELOAD}
    assert set(world.zygotes) == {("web", 2)}, "the old zygote goes when its last worker is gone"
    assert not world.told(f.ServiceUnready)


def test_surge_says_how_many_are_replaced_at_a_time() -> None:
    world = fleet(service_policy(pool_policy(workers=4, surge=3, canary=0.0)))
    world.reload()
    world.run(5)
    assert world.verdict().verdict is Verdict.PROMOTED
    assert (world.fewest, world.most) == (4, 7)


def test_where_old_code_cannot_be_forked_nobody_goes_before_all_the_new_are_ready() -> None:
    world = Fleet(FOUR, Habits(preloads=False)).up()
    drained = len(world.when(c.Drain))
    world.reload()
    world.run(5.2)
    assert len(world.when(c.Drain)) == drained
    world.run(5)
    assert world.verdict().verdict is Verdict.PROMOTED
    ready = [time for time, fact in world.history if isinstance(fact, f.WorkerReady) and fact.generation == 2]
    assert len(ready) == 4
    assert min(world.when(c.Drain)) >= max(ready)


def break_import(habits: Habits) -> None:
    habits.imports = False


def hang_import(habits: Habits) -> None:
    habits.import_time = None


def break_boot(habits: Habits) -> None:
    habits.boots = False


def hang_boot(habits: Habits) -> None:
    habits.boot_time = None


def die_after_two_seconds(habits: Habits) -> None:
    habits.life = 2.0


def break_fork(habits: Habits) -> None:
    habits.forks = False


@pytest.mark.parametrize(
    ("breaks", "reason", "within"),
    [
        (break_import, "could not be imported", 1),
        (hang_import, "was not imported in time", 62),
        (break_boot, "before it was ready: exit code 1", 1),
        (hang_boot, "before it was ready: signal 9", 62),
        (die_after_two_seconds, "2.0 s after it was ready: exit code 1", 4),
        (break_fork, "could not be forked", 1),
    ],
)
def test_what_goes_wrong_before_the_verdict_rolls_back_and_harms_nobody(
    breaks: Callable[[Habits], None], reason: str, within: float
) -> None:
    world = fleet()
    breaks(world.habits)
    world.reload()
    world.run(within)
    ended = world.verdict()
    assert ended.verdict is Verdict.ROLLED_BACK
    assert reason in ended.reason
    world.habits = Habits()
    world.run(30)
    assert world.generations() == [1] * 4
    assert world.fewest == 4
    assert world.goal()
    assert set(world.zygotes) == {("web", 1)}
    assert not world.told(f.RestartScheduled), "the slots are not blamed"


def test_a_death_while_it_rolls_brings_back_the_old_generation_without_a_gap() -> None:
    world = fleet(service_policy(pool_policy(workers=4, min_ready=4, canary=1.0)))
    world.reload()
    while sorted(world.generations()) != [1, 1, 2, 2]:
        world.run(0.01)
    assert world.supervisor.view().reload is not None
    world.fewest = 10**6
    slot = next(w.slot for w in world.supervisor.view().pools[0].workers if w.role == "holder" and w.generation == 2)
    world.crash(slot)
    assert world.verdict().verdict is Verdict.ROLLED_BACK
    world.run(5)
    assert world.generations() == [1] * 4
    assert world.fewest == 3, "but for the one that died"
    assert world.goal()


def test_errors_of_the_new_code_are_held_against_it() -> None:
    world = fleet()
    world.habits.error_share = lambda generation: 0.02 if generation == 1 else 0.10
    world.reload()
    world.run(4)
    assert world.verdict().verdict is Verdict.ROLLED_BACK
    assert "10% of" in world.verdict().reason
    assert "2% of the old code's" in world.verdict().reason


@pytest.mark.parametrize(("old", "new"), [(0.0, 0.04), (0.5, 0.52), (1.0, 1.0)])
def test_errors_that_the_old_code_makes_too_are_not(old: float, new: float) -> None:
    world = fleet()
    world.habits.error_share = lambda generation: old if generation == 1 else new
    world.reload()
    world.run(10)
    assert world.verdict().verdict is Verdict.PROMOTED


def test_nineteen_responses_say_nothing() -> None:
    world = fleet()
    world.habits.error_share = lambda generation: float(generation == 2)
    world.habits.rate = 2
    world.reload()
    world.run(10)
    assert world.verdict().verdict is Verdict.PROMOTED


def test_a_second_reload_supersedes_the_first_and_a_stop_wins_over_both() -> None:
    world = fleet()
    world.reload()
    world.run(2)
    world.reload()
    world.run(2)
    world.give(e.Stop())
    verdicts = [fact.verdict for fact in world.told(f.ReloadEnded) if isinstance(fact, f.ReloadEnded)]
    assert verdicts == [Verdict.SUPERSEDED, Verdict.STOPPED]
    world.run(1)
    assert world.ended()


def test_a_reload_of_a_service_that_ends_is_refused() -> None:
    world = fleet()
    world.habits.drain_time = 5.0
    world.give(e.Stop())
    world.reload()
    assert world.verdict().verdict is Verdict.REFUSED
    world.run(10)
    assert world.ended()


def test_pools_come_and_go_with_the_verdict() -> None:
    world = fleet(service_policy(pool_policy(workers=2), pool_policy("old", workers=1)))
    world.reload(pool_policy(workers=2), pool_policy("new", workers=2))
    world.run(4)
    assert world.generations("new") == [], "its canary stands for all"
    assert world.generations("old") == [1]
    world.run(10)
    assert world.verdict().verdict is Verdict.PROMOTED
    assert [pool.name for pool in world.supervisor.view().pools] == ["web", "new"]
    assert world.generations("new") == [2, 2]
    assert world.told(f.PoolRemoved) == [f.PoolRemoved("old")]


def test_a_pool_that_is_added_and_never_works_rolls_back_and_is_gone() -> None:
    world = fleet(service_policy(pool_policy(workers=2)))
    world.habits.boots = False
    world.reload(pool_policy(workers=2), pool_policy("new"))
    world.run(5)
    assert world.verdict().verdict is Verdict.ROLLED_BACK
    assert [pool.name for pool in world.supervisor.view().pools] == ["web"]
    assert not world.ended()


def test_a_pool_alone_can_be_reloaded() -> None:
    world = fleet(service_policy(pool_policy(workers=1), pool_policy("cpu")))
    world.reload(only=frozenset({"cpu"}))
    world.run(10)
    assert [(pool.name, pool.generation) for pool in world.supervisor.view().pools] == [("web", 1), ("cpu", 2)]


def test_a_new_number_of_workers_is_taken_and_one_that_an_operator_chose_is_kept() -> None:
    world = fleet(service_policy(pool_policy(workers=2)))
    world.give(e.Scale("web", 1))
    world.reload()
    world.run(12)
    assert world.generations() == [2] * 3
    world.reload(pool_policy(workers=5))
    world.run(12)
    assert world.generations() == [3] * 5
    world.reload(pool_policy(workers=1))
    world.run(12)
    assert world.generations() == [4]


def test_new_code_heals_a_pool_that_had_given_up() -> None:
    world = fleet(service_policy(pool_policy(workers=2, canary=1.0)))
    world.habits.life = 0.1
    world.crash(0)
    world.crash(1)
    world.run(30)
    assert world.supervisor.view().pools[0].given_up
    world.habits.life = None
    world.reload()
    world.run(4)
    assert world.verdict().verdict is Verdict.PROMOTED
    assert world.goal()


def test_an_old_worker_that_dies_before_the_canary_is_over_is_followed_by_old_code() -> None:
    world = fleet()
    world.reload()
    world.run(1)
    world.crash(0)
    world.run(1)
    assert world.generations() == [1] * 4
    world.run(10)
    assert world.verdict().verdict is Verdict.PROMOTED


def test_a_primary_that_slept_through_the_canary_watches_it_all_the_same() -> None:
    world = fleet()
    world.reload()
    world.run(2)
    world.sleep(60)
    assert world.supervisor.view().reload is not None
    world.run(10)
    assert world.verdict().verdict is Verdict.PROMOTED


def test_a_canary_is_watched_for_all_its_time_however_long_the_primary_slept() -> None:
    world = fleet(service_policy(pool_policy(workers=4, min_ready=4, canary=30.0)))
    world.reload()
    world.run(5)
    world.sleep(60)
    world.run(20)
    assert not world.told(f.RollBegan)
    world.run(10)
    assert world.told(f.RollBegan)


def test_the_last_old_worker_goes_when_the_shell_has_settled() -> None:
    world = fleet(service_policy(pool_policy(workers=2, canary=0.0)))
    world.habits.close_time = 3.0
    world.reload()
    world.run(2)
    assert world.verdict().verdict is Verdict.PROMOTED
    assert sorted(world.generations()) == [1, 2]
    world.run(3)
    assert world.generations() == [2, 2]


def test_a_new_worker_that_alone_is_ready_serves_until_an_old_one_is() -> None:
    world = fleet(service_policy(pool_policy(workers=1), pool_policy("cpu")))
    world.reload()
    world.run(1)
    world.habits.boot_time = 2.0
    world.crash(0)
    world.run(0.5)
    (canary,) = [w.id for w in world.supervisor.view().pools[1].workers if w.role == "successor"]
    world.end(world.processes[canary], 1)
    assert world.verdict().verdict is Verdict.ROLLED_BACK
    assert world.supervisor.view().pools[0].ready == 1
    world.run(10)
    assert world.fewest == 1
    assert world.generations() == [1]
    assert world.goal()


def test_a_reload_that_supersedes_another_is_not_held_up_by_whom_that_has_left_behind() -> None:
    world = fleet(service_policy(pool_policy(workers=1)))
    world.habits.boots = False
    world.crash(0)
    world.run(30)
    world.habits.boots = True
    world.reload()
    world.run(1)
    world.reload()
    world.run(20)
    assert [fact.verdict for fact in world.told(f.ReloadEnded) if isinstance(fact, f.ReloadEnded)][-1] is (
        Verdict.PROMOTED
    )
    assert world.generations() == [3]


def test_a_canary_that_does_not_answer_when_its_time_is_over_proves_nothing() -> None:
    world = fleet()
    world.habits.stacks_time = None
    world.reload()
    world.run(4.5)
    (canary,) = [w.id for w in world.supervisor.view().pools[0].workers if w.role == "successor"]
    world.give(e.Unwell(canary, "no answer"))
    world.run(5)
    assert not world.told(f.RollBegan)
    assert world.verdict().verdict is Verdict.ROLLED_BACK


def test_a_zygote_of_the_old_generation_that_was_begun_after_the_new_code_came_is_not_relied_on() -> None:
    world = fleet()
    world.reload()
    world.run(1)
    world.kill_zygote(generation=1)
    world.run(3)
    assert ("web", 1) in world.zygotes, "it is rebuilt, for what else is there"
    world.run(6)
    assert world.verdict().verdict is Verdict.PROMOTED
    ready = [time for time, fact in world.history if isinstance(fact, f.WorkerReady) and fact.generation == 2]
    assert min(world.when(c.Drain)) >= max(ready), "but nobody goes before all the new ones are ready"


def test_no_pool_rolls_before_the_canaries_of_all_have_proved_themselves() -> None:
    world = fleet(service_policy(pool_policy(workers=2, canary=1.0), pool_policy("cpu", workers=2, canary=8.0)))
    world.reload()
    world.run(5)
    assert not world.told(f.RollBegan)
    assert world.generations() == [1, 1]
    world.run(6)
    assert world.verdict().verdict is Verdict.PROMOTED


def test_new_code_does_not_wait_for_what_the_old_one_has_been_through() -> None:
    world = fleet(service_policy(pool_policy(workers=2, canary=1.0)))
    world.habits.boots = False
    world.crash(1)
    world.run(2)
    assert world.supervisor.view().pools[0].slots[1].row > 1
    world.habits.boots = True
    world.reload()
    world.run(2)
    assert world.verdict().verdict is Verdict.PROMOTED
    assert [slot.row for slot in world.supervisor.view().pools[0].slots] == [0, 0]


def test_a_canary_is_heard_before_it_has_proved_itself_in_the_sleep_of_the_primary() -> None:
    world = fleet()
    world.reload()
    world.run(2)
    world.sleep(60)
    world.run(0.9)
    assert not world.told(f.RollBegan)


def test_a_pool_whose_addition_was_rolled_back_takes_no_orders() -> None:
    world = fleet(service_policy(pool_policy(workers=2)))
    world.habits.boots, world.habits.kill_time = False, 1.0
    world.reload(pool_policy(workers=2), pool_policy("new"))
    while not world.told(f.ReloadEnded):
        world.run(0.01)
    world.give(e.Scale("new", 2))
    world.run(5)
    assert [pool.name for pool in world.supervisor.view().pools] == ["web"]


def test_zygotes_that_are_gone_are_forgotten() -> None:
    world = fleet()
    for _ in range(5):
        world.reload()
        world.run(12)
    assert list(world.supervisor._pools["web"].zygotes) == [6]
