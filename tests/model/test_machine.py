"""Up to eight workers in two pools, everything that can happen in any order, by Hypothesis.

What the exploration shows for small worlds is sought here in large ones: the laws of single moments
(``tests/laws.py``), those of longer times (``watched.py``), and that after any history the service is whole again, or
has ended, and ends when it is asked to.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from clusterd.core import events as e
from clusterd.core.policy import OnGiveUp, PoolPolicy
from tests.model.watched import Watched, behave, down_for_good, end, pool
from tests.world import service_policy

pytestmark = pytest.mark.slow

MOST = 8

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "on_give_up": st.sampled_from(OnGiveUp),
    "spares": st.integers(0, 2),
    "surge": st.integers(1, 3),
    "canary": st.sampled_from([0.0, 2.0, 6.0]),
    "heartbeat_timeout": st.sampled_from([0.0, 3.0]),
    "max_age": st.sampled_from([0.0, 0.0, 30.0]),
    "max_requests": st.sampled_from([0, 0, 50]),
}


@st.composite
def policies(draw: st.DrawFn, names: tuple[str, ...] = ("web", "cpu")) -> tuple[PoolPolicy, ...]:
    """Pools of together at most eight workers."""
    left, made = MOST, []
    for index, name in enumerate(names):
        workers = draw(st.integers(1, min(5, left - (len(names) - 1 - index))))
        made.append(pool(name, workers, **{key: draw(values) for key, values in NUMBERS.items()}))
        left -= workers
    return tuple(made)


NAMES = st.sampled_from([("web", "cpu"), ("web", "cpu"), ("web",), ("web", "io"), ("cpu", "web")])
POOL = st.sampled_from(["web", "web", "cpu", "io"])


def running(machine: "Service") -> bool:
    return machine.world.exit is None


class Service(RuleBasedStateMachine):
    """The world, and somebody who wishes it no good."""

    world: Watched
    started = False

    @initialize(
        pools=policies(),
        lame_duck=st.sampled_from([0.0, 3.0]),
        preloads=st.sampled_from([(True,), (True,), (False,), (True, False)]),
    )
    def start(self, pools: tuple[PoolPolicy, ...], lame_duck: float, preloads: tuple[bool, ...]) -> None:
        self.world = Watched(service_policy(*pools, lame_duck=lame_duck, linger=1.0, drain_timeout=5.0))
        self.world.preloads = preloads
        self.started = True
        self.world.give(e.Start())

    # -- what happens by itself ----------------------------------------------------------------------------------

    def choose(self, data: Any, *kinds: str) -> None:
        options = [option for option in self.world.options() if option.kind in kinds]
        if options:
            data.draw(st.sampled_from(options)).act()

    @rule(data=st.data())
    def something_good_happens(self, data: Any) -> None:
        self.choose(data, "good", "owed")

    @rule(steps=st.integers(5, 30))
    def all_that_is_good_happens_for_a_while(self, steps: int) -> None:
        for _ in range(steps):
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

    # -- what workers say of themselves, and others of them --------------------------------------------------------

    def a_worker(self, data: Any) -> int:
        """One that there is, or was."""
        return int(data.draw(st.sampled_from([*self.world.processes, 1])))

    @precondition(running)
    @rule(data=st.data(), looks=st.integers(1, 6), errors=st.sampled_from([0.0, 0.0, 0.5]))
    def all_are_looked_at_and_some_are_silent(self, data: Any, looks: int, errors: float) -> None:
        silent = {self.a_worker(data) for _ in range(data.draw(st.integers(0, 2)))}
        newest = self.world.generation
        for _ in range(looks):
            due = self.world.supervisor.deadline()
            self.world.now = self.world.now + 1.0 if due is None else min(self.world.now + 1.0, due)
            if self.world.exit is None:
                self.world.look(silent, lambda generation: errors if generation == newest else 0.0)

    @precondition(running)
    @rule(data=st.data(), what=st.sampled_from(["unwell", "unwell", "recycle", "memory"]))
    def a_worker_is_complained_of(self, data: Any, what: str) -> None:
        worker = self.a_worker(data)
        events = {"unwell": e.Unwell(worker, "no answer"), "recycle": e.Recycle(worker, "worn")}
        self.world.give(events.get(what, e.MemoryKill(worker)))

    # -- operators -----------------------------------------------------------------------------------------------

    @precondition(running)
    @rule(name=POOL, by=st.integers(-3, 3))
    def an_operator_scales(self, name: str, by: int) -> None:
        pools = self.world.supervisor.view().pools
        if sum(view.wanted for view in pools) + by <= MOST:
            self.world.give(e.Scale(name, by))

    @precondition(running)
    @rule(name=POOL, wanted=st.integers(0, 3))
    def an_operator_scales_to(self, name: str, wanted: int) -> None:
        self.world.give(e.ScaleTo(name, wanted))

    @precondition(running)
    @rule(name=POOL, start=st.booleans())
    def an_operator_stops_or_starts_a_pool(self, name: str, start: bool) -> None:
        self.world.give(e.StartPool(name) if start else e.StopPool(name))

    @precondition(running)
    @rule(name=POOL, slot=st.integers(0, 4), hold=st.booleans())
    def an_operator_holds_or_releases_a_slot(self, name: str, slot: int, hold: bool) -> None:
        self.world.give(e.Hold(name, slot) if hold else e.Release(name, slot))

    @precondition(running)
    @rule(name=POOL, one=st.booleans(), data=st.data())
    def an_operator_restarts(self, name: str, one: bool, data: Any) -> None:
        self.world.give(e.Restart(name, self.a_worker(data) if one else None))

    @precondition(running)
    @rule(data=st.data(), names=NAMES, same=st.booleans(), alone=st.booleans(), wait=st.integers(0, 25))
    def an_operator_reloads(self, data: Any, names: tuple[str, ...], same: bool, alone: bool, wait: int) -> None:
        pools = tuple(self.world.policies.values()) if same else data.draw(policies(names))
        self.world.reload(*pools, only=frozenset({"web"}) if alone else None)
        for _ in range(wait):
            behave(self.world)

    @precondition(running)
    @rule(now=st.booleans(), earnest=st.integers(0, 19))
    def an_operator_stops_it(self, now: bool, earnest: int) -> None:
        if earnest == 0:  # else hardly a history would get far
            self.world.give(e.Stop(now))

    # -- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not self.started:
            return
        world = self.world
        for _ in range(3000):
            if world.goal() or down_for_good(world):
                break
            behave(world)
        else:
            raise AssertionError(f"the wanted number was never reached: {world.supervisor.view()}")
        if not world.ended():
            end(world)


TestService = Service.TestCase
TestService.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # fifty steps can be read as they are; to shrink them would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
