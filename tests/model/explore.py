"""Exhaustive exploration: every history of a small world, each state visited once.

A state is a canonical snapshot: times relative to now and cut off where the rules look no further, workers numbered by
age. What is left out of it is for eyes only (counters, times in facts).
"""

import copyreg
import gc
import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.lifecycle import State, Worker
from clusterd.core.moment import Moment
from clusterd.core.policy import PoolPolicy, ServicePolicy, StopPolicy
from clusterd.core.pool import Pool, Zygote
from clusterd.core.shutdown import Phase
from clusterd.core.supervisor import LATE
from clusterd.core.workers import UNKILLABLE_AFTER
from tests.world import Option, Process, World

#: By how much a primary that was suspended comes too late.
SLEPT = 3 * LATE


NOTHING = f.View(0.0, "running", ready=False, was_ready=False, pools=())
"""What a world that is frozen remembers of the past."""

UNSEEN = ("ready, unheard", "ready and dies", "leaves and dies")
"""What the core cannot tell from a worker that hangs in its boot, or from the same two events in turn. That words
which come after the end change nothing is seen at each end."""


class Small(World):
    """A world with an operator who has a plan, and a number of things that may go wrong.

    Args:
        plan: what the operator asks, one after another, at any time.
        faults: how many things that a world that behaves does not do may happen.
    """

    def __init__(
        self, policy: ServicePolicy, plan: tuple[e.Event, ...], faults: int, unkillable: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(policy, unkillable)
        self.plan = plan
        self.faults = faults
        self.slept = False
        self.stop_began: float | None = None

    def options(self) -> Iterator[Option]:
        for option in super().options():
            if option.name.endswith(UNSEEN):
                continue
            kind = "bad" if option.name == "tick" and self._something_hangs() else option.kind
            if kind != "bad" or self.faults:
                yield Option(option.name, kind, option.act)
        if self.exit is not None:
            return
        if self.plan:
            yield Option(f"operator: {self.plan[0]}", "operator", self.ask)
        due = self.wake
        if due is not None and self.faults and not self.slept:
            yield Option("the primary sleeps", "bad", self.sleep)
        # A stop whose answers are owed at once has nothing to wait for but its deadlines.
        rest = max(pool.restart.healthy_after for pool in self.policy.pools)
        if self.stop_began is None and (due is None or due > self.now + rest):
            yield Option("time passes", "good", lambda: self.rest(rest))

    def _something_hangs(self) -> bool:
        """The next tick finds a start that takes too long, or a process that SIGKILL has not ended for long."""
        due = self.wake
        workers = self.supervisor._workers.table.values()
        pools = self.supervisor._pools.values()
        zygotes = [zygote.until for pool in pools for zygote in pool.zygotes.values()]
        killed = [worker.until for worker in workers if worker.state in (State.KILLING, State.HUNG)]
        starting = [worker.until for worker in workers if worker.state in (State.SPAWNING, State.BOOTING)]
        return due in killed or (self.stop_began is None and (due in starting or due in zygotes))

    def ask(self) -> None:
        event, *rest = self.plan
        self.plan = tuple(rest)
        self.give(event)

    def sleep(self) -> None:
        self.slept = True
        self.tick(late=SLEPT)

    def dies(self, process: Process, *last_words: e.Event, code: int | None = None) -> None:
        """A process that is dead and not reaped can do nothing that a living one could not: it is reaped at once."""
        late = e.Ready(process.worker), e.Leaving(process.worker)
        super().dies(process, *late, code=code)
        self.reaped(process)

    def rest(self, seconds: float) -> None:
        self.now += seconds

    def check(self, event: e.Event) -> None:
        super().check(event)
        spawned = {(command.pool, command.slot) for command in self.commands if isinstance(command, c.Spawn)}
        delayed = {(fact.pool, fact.slot) for fact in self.facts if isinstance(fact, f.RestartScheduled) and fact.delay}
        verdict = any(isinstance(fact, f.ReloadEnded | f.RollBegan) for fact in self.facts)
        assert verdict or not spawned & delayed, "a start in the moment of an end that lengthened its row"
        if any(isinstance(fact, f.StopBegan) for fact in self.facts) and self.stop_began is None:
            self.stop_began = self.now
        if self.stop_began is not None and self.exit is None:
            stop = self.policy.stop
            longest = stop.lame_duck + stop.linger + stop.drain_timeout + UNKILLABLE_AFTER
            longest += SLEPT + LATE if self.slept else 0
            if stop.drain_timeout:
                assert self.now - self.stop_began <= longest, "a stop did not end by its deadline"


def snapshot(world: Small) -> Hashable:
    """Two worlds with the same snapshot have the same futures."""
    supervisor, now = world.supervisor, world.now
    table = supervisor._workers.table
    ids = sorted({*table, *world.processes, *(spawn.worker for z in world.zygotes.values() for spawn in z.owed)})
    number = {worker: index for index, worker in enumerate(ids)}
    shutdown = supervisor._shutdown
    return (
        tuple(_pool(pool, number, now) for pool in supervisor._pools.values()),
        tuple(_worker(worker, supervisor._pools[worker.pool], number, now) for worker in table.values()),
        (shutdown.phase, _ahead(shutdown.until, now), _ahead(shutdown.drain_deadline, now)),
        (shutdown.asked, shutdown.handing_on, shutdown.closed, shutdown.code),
        (supervisor._ready, supervisor._was_ready),
        None
        if supervisor._reloads.current is None
        else (supervisor._reloads.current.generation, supervisor._reloads.current.rolling),
        (supervisor._reloads._settling, tuple(world.unsettled)),
        tuple(
            (z.pool, z.generation, z.ready, z.alive, z.stopped, tuple(number[spawn.worker] for spawn in z.owed))
            for z in world.zygotes.values()
        ),
        tuple(
            (number[p.worker], p.alive, p.spoken, p.counted_ready, p.drained, p.killed, len(p.unread), p.stacks_owed)
            for p in world.processes.values()
        ),
        (world.closing, world.closed, world.exit is None, len(world.plan), world.faults, world.slept),
        now - world.stop_began if world.stop_began is not None and world.policy.stop.drain_timeout else None,
    )


def _pool(pool: Pool, number: dict[int, int], now: float) -> Hashable:
    restart, candidate = pool.policy.restart, pool.candidate
    return (
        (pool.name, pool.generation, pool.wanted, len(pool.slots), pool.settling, pool.leaving, pool.stopped),
        (pool.gave_up, pool.halted, pool.ever_ready, number.get(pool.probe or 0)),
        (_due(pool.probe_at, now), _due(pool.paced, now), pool.policy.workers),
        tuple(_zygote(zygote, pool, now) for zygote in pool.zygotes.values()),
        tuple(
            (
                number.get(slot.worker or 0),
                number.get(slot.successor or 0),
                min(slot.row, 5),
                min(slot.rapid, restart.give_up_after),
                slot.given_up,
                # What has given up is ordered by when it was last tried, not more.
                sum(other.next_start < slot.next_start for other in pool.slots)
                if slot.given_up
                else _due(slot.next_start, now),
                (min(slot.tries, 5), _due(slot.next_try, now)),
                slot.held,
            )
            for slot in pool.slots[: pool.wanted]
        ),
        (tuple(number[spare] for spare in pool.spares), min(pool.spare_row, 5), _due(pool.spare_start, now)),
        None
        if candidate is None
        else (
            (candidate.generation, number.get(candidate.canary or 0), candidate.rolling),
            None if candidate.until is None else _due(candidate.until, now),
        ),
    )


def _zygote(zygote: Zygote, pool: Pool, now: float) -> Hashable:
    restart = pool.policy.restart
    return (
        (zygote.generation, zygote.state, _ahead(zygote.until, now), _due(zygote.next_start, now)),
        (zygote.had, zygote.proved, zygote.overdue, zygote.reborn, zygote.preloaded, min(zygote.row, 5)),
        min(now - zygote.started_at, restart.max_delay),
        None if zygote.ready_at is None else min(now - zygote.ready_at, restart.healthy_after),
    )


def _worker(worker: Worker, pool: Pool, number: dict[int, int], now: float) -> Hashable:
    restart = pool.policy.restart
    zygote = pool.zygotes.get(worker.generation)
    forked_by = None if zygote is None else zygote.ready_at
    return (
        (number[worker.id], worker.pool, worker.slot, worker.generation, worker.state, _ahead(worker.until, now)),
        None if worker.ready_at is None else min(now - worker.ready_at, restart.healthy_after),
        (worker.asked is None, worker.left, worker.abandoned, worker.recycle),
        forked_by is not None and worker.started_at >= forked_by,
    )


def _ahead(time: float | None, now: float) -> float | None:
    return None if time is None else time - now


def _due(time: float, now: float) -> float:
    return max(time - now, 0.0)


@dataclass
class Explored:
    """Every state that can be reached, and how. States are numbered as they are found: the first is 0."""

    steps: int = 0
    numbers: dict[Hashable, int] = field(default_factory=dict)
    parents: list[tuple[int, str] | None] = field(default_factory=list)
    edges: list[list[tuple[str, int]]] = field(default_factory=list)
    goals: set[int] = field(default_factory=set)
    running: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    def history(self, state: int) -> list[str]:
        """A shortest way to the state."""
        names: list[str] = []
        while (step := self.parents[state]) is not None:
            state, name = step
            names.append(name)
        return names[::-1]

    def shortest(self, states: set[int]) -> str:
        """The shortest history that leads to one of them."""
        return "".join(f"\n  {name}" for name in min(map(self.history, states), key=len))

    def cannot_reach(self, goals: set[int], kinds: Iterable[str]) -> set[int]:
        """The states from which no goal can be reached by what happens of these kinds."""
        allowed = set(kinds)
        back: list[list[int]] = [[] for _ in self.parents]
        for state, edges in enumerate(self.edges):
            for kind, following in edges:
                if kind in allowed:
                    back[following].append(state)
        reached, waiting = set(goals), list(goals)
        while waiting:
            for state in back[waiting.pop()]:
                if state not in reached:
                    reached.add(state)
                    waiting.append(state)
        return set(range(len(self.parents))) - reached


def explore(first: Small, most: int = 1_000_000) -> Explored:
    """Visit every state from ``first`` on.

    Raises:
        AssertionError: an invariant does not hold; the message has the history that shows it.
    """
    found = Explored()
    first.give(e.Start())
    waiting: deque[bytes] = deque()
    _discover(found, waiting, first, None)
    gc.disable()  # nothing here is a cycle, and what is found stays: to look through it again and again is all it costs
    try:
        for state in count():
            if not waiting:
                return found
            _leave(found, waiting, state)
            assert len(found.parents) <= most, "more states than the time allows"
    finally:
        gc.enable()
    raise AssertionError("a count ends")


def _leave(found: Explored, waiting: deque[bytes], state: int) -> None:
    """Take every step that leads out of the next state that waits, which is ``state``."""
    blob = waiting.popleft()
    world: Small = pickle.loads(blob)
    view = world.supervisor.view()
    options = list(world.options())
    for index in reversed(range(len(options))):  # the last one first: it may have the world that showed what there is
        if index < len(options) - 1:
            world = pickle.loads(blob)
            options[index] = next(islice(world.options(), index, None))
        world.after, option = view, options[index]
        world.faults -= option.kind == "bad"
        try:
            option.act()
        except Exception as problem:
            history = "\n  ".join([*found.history(state), option.name])
            raise AssertionError(f"{problem!r} after\n  {history}") from problem
        found.steps += 1
        found.edges[state].append((option.kind, _discover(found, waiting, world, (state, option.name))))


def _discover(found: Explored, waiting: deque[bytes], world: Small, parent: tuple[int, str] | None) -> int:
    """The number of the state that the world is in; one that has not been seen waits to be left."""
    number = found.numbers.setdefault(snapshot(world), len(found.parents))
    if number < len(found.parents):
        return number
    found.parents.append(parent)
    found.edges.append([])
    if world.goal() or (
        world.supervisor._shutdown.phase is Phase.RUNNING
        and all(pool.halted for pool in world.supervisor._pools.values())
    ):
        found.goals.add(number)
    if world.exit is not None:
        found.ended.add(number)
    elif world.supervisor._shutdown.phase is Phase.RUNNING:
        found.running.add(number)
    waiting.append(_freeze(world))
    return number


def _freeze(world: Small) -> bytes:
    """A copy to go on from. Outputs are of the past and policies are shared: to copy them would be most of the cost."""
    world.commands, world.facts, world.before, world.after = [], [], NOTHING, NOTHING
    world.supervisor._moment = Moment(world.supervisor._moment.now)
    return pickle.dumps(world, pickle.HIGHEST_PROTOCOL)


_policies: list[object] = []


def _share(policy: object) -> tuple[Callable[[int], object], tuple[int]]:
    if policy not in _policies:
        _policies.append(policy)
    return _shared, (_policies.index(policy),)


def _shared(index: int) -> object:
    return _policies[index]


for kind in (
    *(ServicePolicy, PoolPolicy, StopPolicy, f.View, c.Exit),
    *(e.Scale, e.Stop, e.Reload, e.Restart, e.StopPool, e.StartPool, e.Hold, e.Release),
):
    copyreg.pickle(kind, _share)
for kind in (c.Spawn, e.Exited):
    copyreg.pickle(kind, lambda value: (type(value), tuple(getattr(value, name) for name in value.__slots__)))
