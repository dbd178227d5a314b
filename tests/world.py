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
from clusterd.core.policy import OnGiveUp, PoolPolicy, RestartPolicy, ServicePolicy, StopPolicy
from clusterd.core.supervisor import Supervisor

WANTED = ("spawning", "booting", "ready")
"""States of a worker that nobody has asked to go."""


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
) -> PoolPolicy:
    """A pool with the defaults of the configuration."""
    restart = RestartPolicy(rapid_exit, initial_delay, max_delay, give_up_after, on_give_up, healthy_after)
    return PoolPolicy(name, workers, min_ready, start_timeout, restart)


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
    known: bool = True  # Ready or Leaving may be sent: it has been told to go
    alive: bool = True
    spoken: bool = False  # it serves, whether the primary has heard or not
    counted_ready: bool = False  # the primary has heard
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
    owed: list[c.Spawn] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that may happen next.

    Attributes:
        kind: ``good`` in a world that behaves; ``owed``: the law's answers, given even by a world that does nothing
            else (a tick among them); ``bad``: what a world that behaves does not do.
    """

    name: str
    kind: str
    act: Callable[[], None]


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
        self.zygotes: dict[str, ZygoteProcess] = {}
        self.unkillable = unkillable
        self.closing: bool | None = None  # CloseListeners is out, and with leave to hand on
        self.closed = False
        self.exit: c.Exit | None = None
        self.ready = False
        self.last_spawned = 0
        self.commands: list[c.Command] = []
        self.facts: list[f.Fact] = []

    # -- the shell ---------------------------------------------------------------------------------------------

    def give(self, event: e.Event) -> None:
        """Hand the core one event, do what it says, and hold it to the law."""
        assert self.exit is None, f"{event} after the end"
        self.commands, self.facts = self.supervisor.handle(event, self.now)
        for command in self.commands:
            assert self.exit is None, f"{command} after Exit"
            self.obey(command)
        due = self.supervisor.deadline()
        assert due is None or due > self.now, f"a tick is asked for at the same moment, after {event}"
        self.check(event)

    def obey(self, command: c.Command) -> None:
        match command:
            case c.StartZygote(pool, generation):
                assert pool not in self.zygotes, "a second zygote"
                self.zygotes[pool] = ZygoteProcess(pool, generation)
            case c.StopZygote(pool):
                zygote = self.zygotes[pool]
                assert not zygote.stopped, "stopped twice"
                zygote.stopped, zygote.alive = True, False
            case c.Spawn(worker, pool):
                zygote = self.zygotes[pool]
                assert zygote.ready, "spawned from a zygote that is not ready"
                assert not zygote.stopped, "spawned from a zygote that was told to end"
                assert worker > self.last_spawned, "an id was used twice"
                self.last_spawned = worker
                zygote.owed.append(command)
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
                assert self.closed, "the listeners are open"
                assert not self.zygotes, "a zygote is left"
                assert set(self.processes) == set(stopped.unkillable), "left behind, and not named"
                assert all(process.killed for process in self.processes.values()), "left behind, and not killed"
                self.exit = command

    def check(self, event: e.Event) -> None:
        """The invariants of a single moment, as sentences."""
        view = self.supervisor.view()
        for pool in view.pools:
            wanted = [worker for worker in pool.workers if worker.state in WANTED]
            slots = [worker.slot for worker in wanted]
            assert len(wanted) <= pool.wanted, "more living unasked workers than wanted"
            assert len(set(slots)) == len(slots), "two living unasked workers in one slot"
            assert all(slot < pool.wanted for slot in slots), "a worker in a slot that is not wanted"
            heard = sum(
                p.counted_ready and not p.drained and not p.killed
                for p in self.processes.values()
                if p.pool == pool.name
            )
            assert pool.ready <= heard, "a worker is called ready that never said so"
            if view.ready:
                assert heard >= min(pool.min_ready, pool.wanted), "ready with too few ready workers"
        for fact in self.facts:
            if isinstance(fact, f.ServiceReady | f.ServiceUnready):
                assert isinstance(fact, f.ServiceReady) is not self.ready, "said twice"
                self.ready = not self.ready
        assert self.ready is view.ready, "the facts and the view differ"
        exits = [fact.worker for fact in self.facts if isinstance(fact, f.WorkerExited)]
        assert exits == ([event.worker] if isinstance(event, e.Exited) else []), "not reaped exactly once"

    def tick(self, late: float = 0.0) -> None:
        """Jump to the deadline, or past it."""
        due = self.supervisor.deadline()
        assert due is not None
        self.now = due + late
        self.give(e.Tick())

    def ended(self) -> bool:
        return self.exit is not None

    def goal(self) -> bool:
        """As many workers serve as are wanted, and the primary knows; or all has ended."""
        if self.exit is not None:
            return True
        view = self.supervisor.view()
        return view.phase == "running" and all(pool.ready == pool.wanted for pool in view.pools)

    # -- what can happen -----------------------------------------------------------------------------------------

    def options(self) -> Iterator[Option]:
        """Everything that can happen next without an operator, in an order that does not depend on chance."""
        if self.exit is not None:
            return
        for zygote in list(self.zygotes.values()):
            yield from self._zygote_options(zygote)
        for process in list(self.processes.values()):
            yield from self._process_options(process)
        if self.closing is not None and not self.closed:
            yield Option("listeners closed", "owed", self.close_listeners)
        if self.supervisor.deadline() is not None:
            yield Option("tick", "owed", self.tick)

    def _zygote_options(self, zygote: ZygoteProcess) -> Iterator[Option]:
        name = f"zygote {zygote.pool}: "
        if not zygote.ready and zygote.alive:
            yield Option(name + "imported", "good", lambda: self.imported(zygote))
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
            if not process.killed and not process.drained:
                yield Option(name + "leaves", "bad", lambda: self.leaves(process))
                yield Option(name + "leaves and dies", "bad", lambda: self.dies(process, e.Leaving(process.worker)))

    # -- its happening -------------------------------------------------------------------------------------------

    def imported(self, zygote: ZygoteProcess) -> None:
        zygote.ready = True
        self.give(e.ZygoteReady(zygote.pool, zygote.generation))

    def forks(self, zygote: ZygoteProcess) -> None:
        spawn = zygote.owed.pop(0)
        self.processes[spawn.worker] = Process(spawn.worker, spawn.pool, spawn.slot)
        self.give(e.Spawned(spawn.worker))

    def fails_to_fork(self, zygote: ZygoteProcess) -> None:
        self.give(e.SpawnFailed(zygote.owed.pop(0).worker, "no process", zygote_gone=not zygote.alive))

    def zygote_ends(self, zygote: ZygoteProcess) -> None:
        """By itself. What it owes is answered for before its end is told."""
        zygote.alive = False
        if not zygote.owed:
            self.zygote_gone(zygote)

    def zygote_gone(self, zygote: ZygoteProcess) -> None:
        del self.zygotes[zygote.pool]
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

    def close_listeners(self) -> None:
        self.closed = True
        self.give(e.ListenersClosed())
