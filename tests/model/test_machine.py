"""Up to eight workers in two pools, everything that can happen in any order, by Hypothesis.

What the exploration shows for small worlds is sought here in large ones: besides the invariants of single moments
(``tests/world.py``), that starts are bounded, and that after any history the service is whole again or has ended.
"""

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import OnGiveUp
from tests.world import Option, World, pool_policy, service_policy

INITIAL, LARGEST, GIVE_UP = 0.5, 4.0, 3


class Service(RuleBasedStateMachine):
    """The world, and somebody who wishes it no good."""

    world: "Watched"
    started = False

    @initialize(
        workers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
        on_give_up=st.tuples(st.sampled_from(OnGiveUp), st.sampled_from(OnGiveUp)),
        lame_duck=st.sampled_from([0.0, 3.0]),
    )
    def start(
        self,
        workers: tuple[int, int],
        on_give_up: tuple[OnGiveUp, OnGiveUp],
        lame_duck: float,
    ) -> None:
        pools = [
            pool_policy(
                name,
                count,
                min_ready=min(count, 2),
                start_timeout=10.0,
                initial_delay=INITIAL,
                max_delay=LARGEST,
                give_up_after=GIVE_UP,
                on_give_up=then,
                healthy_after=5.0,
            )
            for name, count, then in zip(("web", "cpu"), workers, on_give_up, strict=True)
        ]
        self.world = Watched(service_policy(*pools, lame_duck=lame_duck, linger=1.0, drain_timeout=5.0))
        self.started = True
        self.world.give(e.Start())

    def choose(self, data: Any, *kinds: str) -> None:
        options = [option for option in self.world.options() if option.kind in kinds]
        if options:
            data.draw(st.sampled_from(options).map(Named)).option.act()

    @rule(data=st.data())
    def something_good_happens(self, data: Any) -> None:
        self.choose(data, "good", "owed")

    @rule(data=st.data())
    def all_that_is_good_happens_for_a_while(self, data: Any) -> None:
        for _ in range(data.draw(st.integers(5, 20))):
            behave(self.world)

    @rule(data=st.data())
    def anything_happens(self, data: Any) -> None:
        self.choose(data, "good", "owed", "bad")

    @rule(seconds=st.floats(0.0, 12.0))
    def time_passes(self, seconds: float) -> None:
        due = self.world.supervisor.deadline()
        self.world.now = self.world.now + seconds if due is None else min(self.world.now + seconds, due)

    @rule(seconds=st.floats(0.0, 100.0))
    def the_primary_sleeps(self, seconds: float) -> None:
        if self.world.supervisor.deadline() is not None:
            self.world.tick(late=seconds)

    @rule(pool=st.sampled_from(["web", "cpu"]), by=st.integers(-3, 3))
    def an_operator_scales(self, pool: str, by: int) -> None:
        wanted = next(view.wanted for view in self.world.supervisor.view().pools if view.name == pool)
        if self.world.exit is None and wanted + by <= 4:
            self.world.give(e.Scale(pool, by))

    @precondition(lambda self: self.world.exit is None)
    @rule(now=st.booleans(), earnest=st.integers(0, 9))
    def an_operator_stops_it(self, now: bool, earnest: int) -> None:
        if earnest == 0:  # else hardly a history would get far
            self.world.give(e.Stop(now))

    def teardown(self) -> None:
        if not self.started:
            return
        world = self.world
        for _ in range(2000):
            if world.goal() or down_for_good(world):
                break
            behave(world)
        else:
            raise AssertionError(f"the wanted number was never reached: {world.supervisor.view()}")
        if not world.ended():
            began = world.now
            world.give(e.Stop())
            while not world.ended():  # nobody does anything but what is owed
                next(option for option in world.options() if option.kind == "owed").act()
            assert world.now - began <= 3.0 + 1.0 + 5.0 + 5.0


class Named:
    """An option that shows its name in a falsifying example."""

    def __init__(self, option: Option) -> None:
        self.option = option

    def __repr__(self) -> str:
        return self.option.name


class Watched(World):
    """Counts starts: they are bounded in any pattern of crashes."""

    unasked: dict[tuple[str, int], float]

    def check(self, event: e.Event) -> None:
        super().check(event)
        self.unasked = getattr(self, "unasked", {})
        for fact in self.facts:
            if isinstance(fact, f.RestartScheduled):
                assert fact.delay <= 1.2 * LARGEST
                assert fact.row == 0 or fact.delay >= min(INITIAL * 2 ** (fact.row - 1), LARGEST)
                self.unasked[fact.pool, fact.slot] = fact.at
            elif isinstance(fact, f.Scaled | f.PoolRecovered):
                self.unasked.clear()  # slots begin anew
            elif isinstance(fact, f.SlotGaveUp):
                self.unasked.pop((fact.pool, fact.slot), None)
        for command in self.commands:
            if isinstance(command, c.Spawn):
                assert self.now >= self.unasked.get((command.pool, command.slot), 0.0), "started before its time"


def behave(world: World) -> None:
    """The next thing that happens in a world that behaves: whatever can, and the clock when nothing else can."""
    options = [option for option in world.options() if option.kind in ("good", "owed")]
    # A worker that was told to drain ends only when nothing else is to be done, and it is never the clock's turn first.
    for option in options:
        if option.name != "tick":
            option.act()
            return
    if options:
        options[0].act()


def down_for_good(world: World) -> bool:
    """What is not ready has given up and stays down, as its policy wants."""
    view = world.supervisor.view()
    policies = {pool.name: pool.restart.on_give_up for pool in world.policy.pools}
    down = [pool for pool in view.pools if pool.given_up and policies[pool.name] is OnGiveUp.STOP]
    return bool(down) and all(pool in down or pool.ready == pool.wanted for pool in view.pools)


TestService = Service.TestCase
TestService.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # forty steps can be read as they are; to shrink them would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
