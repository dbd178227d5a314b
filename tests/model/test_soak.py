"""Days of a service's life in seconds: everything that befalls it, by a seeded script, and nothing grows.

``EVENTS=1000000 python -m pytest tests/model/test_soak.py`` for a million of them; fewer in ``make test``.
"""

import os
import pickle
import random

import pytest

from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.moment import Moment
from tests.model.watched import Watched
from tests.timed_world import Habits, TimedWorld
from tests.world import pool_policy, service_policy

EVENTS = int(os.environ.get("EVENTS", "30000"))
NAMES = ("web", "cpu")


class Soaked(Watched, TimedWorld):
    """A watched world that goes on by itself, and forgets what is long past."""

    events = 0
    verdict_counts: dict[str, int]

    def give(self, event: e.Event) -> None:
        super().give(event)
        self.events += 1
        self.verdict_counts = getattr(self, "verdict_counts", {})
        for fact in self.facts:
            if isinstance(fact, f.ReloadEnded):
                self.verdict_counts[fact.verdict] = self.verdict_counts.get(fact.verdict, 0) + 1
        self.history.clear()
        self.orders.clear()


class Misfortune:
    """What befalls it, one thing after another; each is over before long."""

    def __init__(self, world: Soaked, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)

    def strike(self) -> None:
        """The next thing, and some time to get over it, or not quite."""
        chosen = [self.crash, self.hang, self.reload, self.bad_code, self.scale, self.order, self.others, self.late]
        self.rng.choice(chosen)()
        self.world.run(self.rng.choice([0.01, 0.3, 2.0, 15.0]))
        if self.rng.random() < 0.5:
            self.world.habits = Habits(preloads=self.rng.random() < 0.8)

    def a_worker(self) -> int:
        return self.rng.choice([*self.world.processes, 1])

    def crash(self) -> None:
        """Some workers, or a zygote, die; sometimes those that follow do, too."""
        for worker in self.rng.sample([*self.world.processes], min(len(self.world.processes), self.rng.randint(1, 4))):
            self.world.end(self.world.processes[worker], self.rng.choice([None, 0, 1]))
        if self.rng.random() < 0.3:
            for pool, generation in list(self.world.zygotes):
                self.world.kill_zygote(pool, generation)
        self.world.habits.life = self.rng.choice([None, None, 0.1, 3.0])

    def hang(self) -> None:
        """Loops that do not turn, long enough or not; processes that do not end when they drain."""
        self.world.habits.silent = {self.a_worker(), self.a_worker()}
        self.world.habits.drain_time = self.rng.choice([0.1, 3.0, None])
        self.world.run(self.rng.uniform(0.0, 8.0))

    def reload(self) -> None:
        """Of the same, or of other numbers."""
        workers = [self.rng.randint(1, 4) for _ in NAMES]
        pools = [_pool(name, count, self.rng) for name, count in zip(NAMES, workers, strict=True)]
        self.world.reload(*(pools if self.rng.random() < 0.5 else self.world.policies.values()))

    def bad_code(self) -> None:
        """It is not imported, not in time, cannot be forked, does not boot, dies, or answers with errors."""
        habits = self.world.habits
        bad = {"imports": False, "import_time": None, "forks": False, "boots": False, "boot_time": None, "life": 2.0}
        what = self.rng.choice([*bad, "errors"])
        newest = self.world.generation + 1
        if what == "errors":
            habits.error_share = lambda generation: 0.5 if generation == newest else 0.0
        else:
            setattr(habits, what, bad[what])
        self.reload()

    def scale(self) -> None:
        self.world.give(e.ScaleTo(self.rng.choice(NAMES), self.rng.randint(1, 4)))

    def order(self) -> None:
        """An operator's."""
        name = self.rng.choice(NAMES)
        self.world.give(self.rng.choice([e.Restart(name), e.Restart(name, self.a_worker()), e.StopPool(name)]))
        self.world.run(self.rng.uniform(0.0, 3.0))
        self.world.give(e.StartPool(name))

    def others(self) -> None:
        """What is said of a worker."""
        worker = self.a_worker()
        said = [e.Unwell(worker, "no answer"), e.MemoryKill(worker), e.Recycle(worker, "worn")]
        self.world.give(self.rng.choice(said))

    def late(self) -> None:
        """The primary sleeps."""
        self.world.sleep(self.rng.uniform(0.0, 60.0))


def _pool(name: str, workers: int, rng: random.Random) -> object:
    numbers = {"spares": rng.randint(0, 2), "surge": rng.randint(1, 3), "canary": rng.choice([0.0, 2.0])}
    return pool_policy(name, workers, heartbeat_timeout=4.0, max_age=120.0, start_timeout=10.0, **numbers)  # type: ignore[arg-type]


def size(world: Soaked) -> int:
    """How much the rules remember."""
    world.supervisor._moment = Moment(world.supervisor._moment.now)
    return len(pickle.dumps(world.supervisor))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_days_of_everything_leave_a_service_that_is_whole_and_has_not_grown() -> None:
    seed = int(os.environ.get("SEED", "1"))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    world = Soaked(service_policy(*(_pool(name, 4, rng) for name in NAMES)))  # type: ignore[arg-type]
    world.start()
    world.run(10)
    misfortune = Misfortune(world, seed)
    suffer(world, misfortune, EVENTS // 10)
    first = size(world)  # by now pools have had as many slots as they ever will: those are kept
    suffer(world, misfortune, EVENTS)
    print(f"{world.events} events in {world.now / 3600:.0f} h: {world.last_spawned} workers, {world.verdict_counts}")
    assert size(world) < 1.5 * first
    world.give(e.Stop())
    world.run(60)
    assert world.ended()


def suffer(world: Soaked, misfortune: Misfortune, events: int) -> None:
    """Up to so many events, and then a world that behaves, in which the service becomes whole."""
    habits = world.habits
    while world.events < events:
        misfortune.strike()
        assert not world.ended(), "it ended though nobody had asked it to"
    world.habits = Habits()
    world.run(200)
    for _ in range(100):
        if world.goal():
            break
        world.run(1)
    assert world.goal(), world.supervisor.view()
    world.habits = habits
