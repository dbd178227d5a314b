"""The simulated world: the second shell of the core, with no process in it and a clock that only jumps.

:class:`World` is what can be the case (zygotes, processes, listeners) and what can happen next, one thing at a time:
forks that fail, words that are lost, a channel that is read after the pidfd, a zygote that hangs. Whoever drives it
chooses: the exploration everything, Hypothesis something; ``tests/timed_world.py`` drives itself by habits.

It holds the core to the law of the real shell: each command is answered exactly once, and none is senseless.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.lifecycle import SPARE
from clusterd.core.policy import (
    OnGiveUp,
    PoolPolicy,
    RecyclePolicy,
    ReloadPolicy,
    RestartPolicy,
    ServicePolicy,
    StopPolicy,
)
from clusterd.core.supervisor import Supervisor
from tests import laws


def pool_policy(
    name: str = "web",
    workers: int = 1,
    min_ready: int = 1,
    start_timeout: float = 60.0,
    rapid_exit: float = 1.0,
    initial_delay: float = 0.2,
    max_delay: float = 30.0,
    give_up_after: int = 5,
    on_give_up: OnGiveUp = OnGiveUp.PROBE,
    healthy_after: float = 10.0,
    spares: int = 0,
    heartbeat_timeout: float = 30.0,
    max_requests: int = 0,
    max_age: float = 0.0,
    max_memory: int = 0,
    surge: int = 1,
    canary: float = 5.0,
) -> PoolPolicy:
    """A pool with the defaults of the configuration."""
    restart = RestartPolicy(rapid_exit, initial_delay, max_delay, give_up_after, on_give_up, healthy_after)
    recycle = RecyclePolicy(max_requests, 0.1, max_age, max_memory)
    reload = ReloadPolicy(surge, canary)
    return PoolPolicy(name, workers, min_ready, spares, start_timeout, heartbeat_timeout, restart, recycle, reload)


def service_policy(
    *pools: PoolPolicy, lame_duck: float = 0.0, linger: float = 2.0, drain_timeout: float = 25.0
) -> ServicePolicy:
    """A service with the defaults of the configuration; one pool ``web`` unless told otherwise."""
    return ServicePolicy(pools or (pool_policy(),), StopPolicy(lame_duck, linger, drain_timeout))


@dataclass(slots=True)
class Process:
    """A worker's process, from the fork until it is reaped."""

    worker: int
    pool: str
    slot: int
    generation: int = 1
    known: bool = True  # Ready or Leaving may be sent: it has been told to go
    alive: bool = True
    spoken: bool = False  # it serves, whether the primary has heard or not
    counted_ready: bool = False  # the primary has heard
    admitted: bool = False
    stacks_owed: bool = False
    beat: int = 0
    responses: int = 0
    drained: bool = False
    killed: bool = False
    unread: tuple[e.Event, ...] = ()  # in its channel when it died
    status: e.Exited | None = None


@dataclass(slots=True)
class ZygoteProcess:
    """A zygote, from StartZygote until its end has been told. One that is not alive still owes its answers."""

    pool: str
    generation: int
    ready: bool = False
    alive: bool = True
    stopped: bool = False
    preloaded: bool = False
    reborn: bool = False  # begun while the pool was being reloaded: what it imports may be the new code
    owed: list[c.Spawn] = field(default_factory=list)


@dataclass(frozen=True, slots=True, repr=False)
class Option:
    """One thing that may happen next.

    Attributes:
        kind: ``good`` in a world that behaves; ``owed``: the law's answers, given even by a world that does nothing
            else (a tick among them); ``bad``: what a world that behaves does not do.
    """

    name: str
    kind: str
    act: Callable[[], None]

    def __repr__(self) -> str:
        return self.name


class World:
    """The shell and the machine.

    Args:
        policy: what the core is given.
        unkillable: workers whose process survives SIGKILL.
    """

    def __init__(self, policy: ServicePolicy, unkillable: frozenset[int] = frozenset()) -> None:
        self.policy = policy
        self.supervisor = Supervisor(policy, "world")
        self.now = 1000.0
        self.processes: dict[int, Process] = {}
        self.zygotes: dict[tuple[str, int], ZygoteProcess] = {}
        self.unkillable = unkillable
        self.closing: bool | None = None  # CloseListeners is out, and with leave to hand on
        self.closed = False
        self.verdicts: dict[int, bool] = {}
        self.unsettled: list[int] = []  # Settle is out
        self.generation = 1
        self.exit: c.Exit | None = None
        self.policies = {pool.name: pool for pool in policy.pools}  # what each goes by
        self.tried: dict[int, ServicePolicy] = {}  # what a reload is to bring
        self.last_spawned = 0
        self.preloads: tuple[bool, ...] = (True,)  # what a zygote may turn out to be
        self.before = self.after = self.supervisor.view()
        self.wake: float | None = None  # when the core wants its next tick, as it said after the last event
        self.commands: list[c.Command] = []
        self.facts: list[f.Fact] = []

    # -- the shell ---------------------------------------------------------------------------------------------

    def give(self, event: e.Event) -> None:
        """Hand the core one event, do what it says, and hold it to the law."""
        assert self.exit is None, f"{event} after the end"
        if isinstance(event, e.Reload):
            self.tried[event.generation] = event.policy
        self.before = self.after
        self.commands, self.facts = self.supervisor.handle(event, self.now)
        self.after = self.supervisor.view()
        for command in self.commands:
            assert self.exit is None, f"{command} after Exit"
            self.obey(command)
        self.wake = due = self.supervisor.deadline()
        assert due is None or due > self.now, f"a tick is asked for at the same moment, after {event}"
        self.check(event)

    def obey(self, command: c.Command) -> None:
        match command:
            case c.StartZygote(pool, generation):
                assert (pool, generation) not in self.zygotes, "a second zygote"
                (view,) = [one for one in self.after.pools if one.name == pool]
                reborn = view.candidate not in (None, generation)
                self.zygotes[pool, generation] = ZygoteProcess(pool, generation, reborn=reborn)
            case c.StopZygote(pool, generation):
                zygote = self.zygotes[pool, generation]
                assert not zygote.stopped, "stopped twice"
                zygote.stopped, zygote.alive = True, False
            case c.Spawn(worker, pool, _, generation):
                zygote = self.zygotes[pool, generation]
                assert zygote.ready, "spawned from a zygote that is not ready"
                assert not zygote.stopped, "spawned from a zygote that was told to end"
                assert worker > self.last_spawned, "an id was used twice"
                self.last_spawned = worker
                zygote.owed.append(command)
            case c.Admit(worker, slot):
                process = self.processes[worker]
                assert process.counted_ready, "admitted before it was ready"
                assert not process.admitted, "admitted twice"
                assert process.slot in (slot, SPARE), "admitted to another slot"
                process.admitted, process.slot = True, slot
            case c.TakeStacks(worker):
                process = self.processes[worker]
                assert not process.stacks_owed, "asked for its stacks twice"
                process.stacks_owed = True
            case c.Settle(generation, promoted):
                assert generation not in self.verdicts, "two verdicts"
                self.verdicts[generation] = promoted
                self.unsettled.append(generation)
                if promoted:
                    taken = {pool.name for pool in self.after.pools if pool.generation == generation}
                    self.policies |= {pool.name: pool for pool in self.tried[generation].pools if pool.name in taken}
            case c.Drain(worker, within):
                process = self.processes[worker]
                assert not process.drained, "drained twice"
                assert not process.killed, "drained after the kill"
                assert within is None or within >= 0
                process.drained = True
            case c.Kill(worker):
                process = self.processes[worker]
                assert not process.killed, "killed twice"
                process.killed = True
            case c.CloseListeners(hand_on):
                assert not self.closed, "closed twice"
                assert self.closing is None or (self.closing and not hand_on), "nothing new about the listeners"
                self.closing = hand_on
            case c.Exit():
                (stopped,) = [fact for fact in self.facts if isinstance(fact, f.Stopped)]
                assert set(self.verdicts) == set(self.tried), "a reload without a verdict"
                assert self.closed, "the listeners are open"
                assert not self.zygotes, "a zygote is left"
                assert set(self.processes) == set(stopped.unkillable), "left behind, and not named"
                assert all(process.killed for process in self.processes.values()), "left behind, and not killed"
                self.exit = command

    def check(self, event: e.Event) -> None:
        """The invariants of a single moment; they stand in ``tests/laws.py``."""
        before, after = self.before, self.after
        laws.hold(event, before, after, self.facts)
        were = {pool.name: pool for pool in before.pools}
        for pool in after.pools:
            own = [process for process in self.processes.values() if process.pool == pool.name]
            laws.hold_pool(were.get(pool.name), pool, self.may_go_by(pool), self.hurried(pool))
            heard = {p.slot for p in own if p.counted_ready and not p.drained and not p.killed}
            laws.hold_readiness(after, pool, heard)
            came_ready = {p.worker for p in own if p.counted_ready and p.generation <= pool.generation}
            laws.hold_drains(after, pool, self.facts, came_ready)
        for pool in self.supervisor._pools.values():
            assert len(pool.zygotes) <= 2 + len(self.zygotes), "zygotes that are gone are remembered"

    def may_go_by(self, pool: f.PoolView) -> list[PoolPolicy]:
        """The pool's policy, and the one that is tried out with a generation."""
        tried = self.tried[pool.candidate].pools if pool.candidate is not None else ()
        return [one for one in (self.policies.get(pool.name), *tried) if one is not None and one.name == pool.name]

    def hurried(self, pool: f.PoolView) -> bool:
        """The old code cannot be forked again as it was, or the pool returns to it from what replaced it in part."""
        if pool.candidate is None:
            return any(worker.role == "holder" and worker.generation > pool.generation for worker in pool.workers)
        old = self.zygotes.get((pool.name, pool.generation))
        return old is None or not (old.ready and old.alive and old.preloaded) or old.reborn

    def tick(self, late: float = 0.0) -> None:
        """Jump to the deadline, or past it."""
        assert self.wake is not None
        self.now = self.wake + late
        self.give(e.Tick())

    def ended(self) -> bool:
        return self.exit is not None

    @property
    def ready(self) -> bool:
        return self.supervisor.view().ready

    def goal(self) -> bool:
        """As many workers serve as are wanted and not held, of one generation, and it is known; or all has ended."""
        if self.exit is not None:
            return True
        view = self.supervisor.view()
        whole = all(
            pool.ready == pool.wanted - sum(slot.held for slot in pool.slots)
            and all(worker.generation == pool.generation for worker in pool.workers if worker.role != "leaving")
            for pool in view.pools
        )
        return view.phase == "running" and view.reload is None and whole

    # -- what can happen -----------------------------------------------------------------------------------------

    def options(self) -> Iterator[Option]:
        """Everything that can happen next without an operator, in an order that does not depend on chance."""
        if self.exit is not None:
            return
        for zygote in list(self.zygotes.values()):
            yield from self._zygote_options(zygote)
        for process in list(self.processes.values()):
            yield from self._process_options(process)
        for generation in self.unsettled:
            yield Option(f"settled {generation}", "owed", lambda generation=generation: self.settle(generation))
        if self.closing is not None and not self.closed:
            yield Option("listeners closed", "owed", self.close_listeners)
        if self.wake is not None:
            yield Option("tick", "owed", self.tick)

    def _zygote_options(self, zygote: ZygoteProcess) -> Iterator[Option]:
        name = f"zygote {zygote.pool}: "
        if not zygote.ready and zygote.alive:
            for preloaded in self.preloads:
                how = "imported" if preloaded else "forks what imports by itself"
                yield Option(name + how, "good", lambda preloaded=preloaded: self.imported(zygote, preloaded))
        if zygote.owed:
            yield Option(name + "forks", "good" if zygote.alive else "bad", lambda: self.forks(zygote))
            kind = "bad" if zygote.alive else "owed"
            yield Option(name + "fails to fork", kind, lambda: self.fails_to_fork(zygote))
        elif not zygote.alive:
            yield Option(name + "gone", "owed", lambda: self.zygote_gone(zygote))
        if zygote.alive:
            yield Option(name + "ends", "bad", lambda: self.zygote_ends(zygote))

    def _process_options(self, process: Process) -> Iterator[Option]:
        name = f"worker {process.worker}: "
        if not process.alive:
            yield Option(name + "reaped", "owed", lambda: self.reaped(process))
            if process.unread:
                yield Option(name + "heard late", "good", lambda: self.heard(process))
            return
        if not process.spoken and not process.killed:
            yield Option(name + "ready", "good", lambda: self.says_ready(process))
            yield Option(name + "ready, unheard", "bad", lambda: self.serves_unheard(process))
            yield Option(name + "ready and dies", "bad", lambda: self.dies(process, e.Ready(process.worker)))
        if process.worker not in self.unkillable:
            kind = "owed" if process.killed else "good" if process.drained else "bad"
            yield Option(name + "dies", kind, lambda: self.dies(process))
            if process.stacks_owed:
                yield Option(name + "shows its stacks", "owed", lambda: self.stacks(process))
            if not process.killed and not process.drained:
                yield Option(name + "leaves", "bad", lambda: self.leaves(process))
                yield Option(name + "leaves and dies", "bad", lambda: self.dies(process, e.Leaving(process.worker)))

    # -- its happening -------------------------------------------------------------------------------------------

    def imported(self, zygote: ZygoteProcess, preloaded: bool = True) -> None:
        zygote.ready, zygote.preloaded = True, preloaded
        self.give(e.ZygoteReady(zygote.pool, zygote.generation, preloaded))

    def forks(self, zygote: ZygoteProcess) -> None:
        spawn = zygote.owed.pop(0)
        self.processes[spawn.worker] = Process(spawn.worker, spawn.pool, spawn.slot, spawn.generation)
        self.give(e.Spawned(spawn.worker))

    def fails_to_fork(self, zygote: ZygoteProcess) -> None:
        self.give(e.SpawnFailed(zygote.owed.pop(0).worker, "no process", zygote_gone=not zygote.alive))

    def zygote_ends(self, zygote: ZygoteProcess) -> None:
        """By itself. What it owes is answered for before its end is told."""
        zygote.alive = False
        if not zygote.owed:
            self.zygote_gone(zygote)

    def zygote_gone(self, zygote: ZygoteProcess) -> None:
        del self.zygotes[zygote.pool, zygote.generation]
        failed = not zygote.ready and not zygote.stopped
        kind = e.ZygoteFailed if failed else e.ZygoteGone
        self.give(kind(zygote.pool, zygote.generation, "it ended"))

    def says_ready(self, process: Process) -> None:
        process.spoken = process.counted_ready = True
        self.give(e.Ready(process.worker))

    def serves_unheard(self, process: Process) -> None:
        process.spoken = True

    def leaves(self, process: Process) -> None:
        process.spoken = True
        self.give(e.Leaving(process.worker))

    def dies(self, process: Process, *last_words: e.Event, code: int | None = None) -> None:
        process.alive = False
        process.unread = last_words
        signal = 9 if code is None else None
        process.status = e.Exited(process.worker, code, signal)

    def heard(self, process: Process) -> None:
        word, *rest = process.unread
        process.unread = tuple(rest)
        process.counted_ready = process.counted_ready or isinstance(word, e.Ready)
        self.give(word)

    def reaped(self, process: Process) -> None:
        """The pidfd is read; what is still in the channel comes after it, and must be of no consequence."""
        del self.processes[process.worker]
        assert process.status is not None
        self.give(process.status)
        for word in process.unread if self.exit is None else ():
            commands, facts = self.supervisor.handle(word, self.now)
            assert not commands, f"{commands} for a worker that is gone"
            assert not facts, f"{facts} about a worker that is gone"

    def stacks(self, process: Process) -> None:
        process.stacks_owed = False
        self.give(e.StacksTaken(process.worker, "here"))

    def settle(self, generation: int) -> None:
        self.unsettled.remove(generation)
        self.give(e.Settled(generation))

    def reload(self, *pools: PoolPolicy, only: frozenset[str] | None = None) -> None:
        """An operator asks for the next generation, of the same pools unless told otherwise."""
        self.generation += 1
        policy = ServicePolicy(pools or self.policy.pools, self.policy.stop)
        self.give(e.Reload(self.generation, policy, only or frozenset(pool.name for pool in policy.pools)))

    def close_listeners(self) -> None:
        self.closed = True
        self.give(e.ListenersClosed())
