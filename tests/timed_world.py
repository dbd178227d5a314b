"""A simulated world that goes on by itself: latencies, habits, and a clock that jumps to what is next."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import ServicePolicy
from tests.world import Process, World, ZygoteProcess


@dataclass(slots=True)
class Habits:
    """How a timed world behaves; changed at will while it runs. Seconds; ``None`` is never."""

    import_time: float | None = 0.2
    imports: bool = True
    fork_time: float | None = 0.002
    forks: bool = True
    boot_time: float | None = 0.05
    boots: bool = True
    life: float | None = None  # from ready to a crash
    drain_time: float | None = 0.1
    kill_time: float = 0.01
    close_time: float | None = 0.01
    preloads: bool = True
    stacks_time: float | None = 0.05
    rate: int = 20  # responses of each worker in a second
    error_share: Callable[[int], float] = field(default=lambda generation: 0.0)
    memory: Callable[[int], int] = field(default=lambda worker: 1000)
    beats: bool = True
    silent: set[int] = field(default_factory=set)  # workers whose loop does not turn


class TimedWorld(World):
    """A world that goes on by itself: each command is followed by what :class:`Habits` say."""

    def __init__(
        self, policy: ServicePolicy, habits: Habits | None = None, unkillable: frozenset[int] = frozenset()
    ) -> None:
        super().__init__(policy, unkillable)
        self.habits = habits or Habits()
        self.history: list[tuple[float, f.Fact]] = []
        self.orders: list[tuple[float, c.Command]] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = count()

    def start(self) -> "TimedWorld":
        self.give(e.Start())
        self.at(1.0, self._look)
        return self

    def _look(self) -> None:
        """Once a second, as the shell does."""
        habits, vitals = self.habits, []
        for process in self.processes.values():
            if process.alive and process.spoken:
                if process.worker not in habits.silent:
                    process.beat += habits.beats
                    process.responses += habits.rate
                errors = int(process.responses * habits.error_share(process.generation))
                memory = habits.memory(process.worker)
                vitals.append(e.Vital(process.worker, process.beat, process.responses, errors, memory))
        self.at(1.0, self._look)
        self.give(e.Vitals(tuple(vitals)))

    def at(self, delay: float | None, act: Callable[[], None]) -> None:
        """Have something happen after so many seconds; ``None`` is never."""
        if delay is not None:
            heapq.heappush(self._agenda, (self.now + delay, next(self._tie), act))

    def run(self, seconds: float) -> None:
        """Let so many seconds pass, from happening to deadline to happening."""
        end = self.now + seconds
        while self.exit is None:
            due = self.supervisor.deadline()
            happening = self._agenda[0][0] if self._agenda else None
            following = min((time for time in (due, happening) if time is not None), default=None)
            if following is None or following > end:
                self.now = end
                return
            self.now = following
            if following == happening:
                heapq.heappop(self._agenda)[2]()
            else:
                self.give(e.Tick())

    def sleep(self, seconds: float) -> None:
        """The primary sleeps, the others do not: what happens meanwhile is told late, and after one tick."""
        self.now += seconds
        self.give(e.Tick())
        self._agenda = [(max(time, self.now), tie, act) for time, tie, act in self._agenda]
        heapq.heapify(self._agenda)

    def told(self, *kinds: type) -> list[f.Fact]:
        return [fact for _, fact in self.history if isinstance(fact, kinds)]

    def when(self, kind: type) -> list[float]:
        """The times of the commands or facts of a kind."""
        return [time for time, what in [*self.orders, *self.history] if isinstance(what, kind)]

    def give(self, event: e.Event) -> None:
        super().give(event)
        self.history += [(self.now, fact) for fact in self.facts]
        self.orders += [(self.now, command) for command in self.commands]
        for command in self.commands:
            self._follow(command)

    def _follow(self, command: c.Command) -> None:
        habits = self.habits
        match command:
            case c.StartZygote(pool, generation):
                zygote = self.zygotes[pool, generation]
                self.at(habits.import_time, lambda: self._import(zygote))
            case c.StopZygote(pool, generation):
                stopped = self.zygotes[pool, generation]
                self.at(habits.kill_time, lambda: self._bury(stopped))
            case c.Spawn(_, pool, _, generation):
                forker = self.zygotes[pool, generation]
                self.at(habits.fork_time, lambda: self._fork(forker, command))
            case c.Drain(worker):
                drained = self.processes[worker]
                self.at(habits.drain_time, lambda: self.end(drained, 0))
            case c.Kill(worker):
                if worker not in self.unkillable:
                    killed = self.processes[worker]
                    self.at(habits.kill_time, lambda: self.end(killed, None))
            case c.TakeStacks(worker):
                dumped = self.processes[worker]
                self.at(
                    habits.stacks_time, lambda: self.stacks(dumped) if dumped.alive and dumped.stacks_owed else None
                )
            case c.Settle(generation):
                self.at(habits.close_time, lambda: self.settle(generation))
            case c.CloseListeners():
                self.at(habits.close_time, lambda: None if self.closed else self.close_listeners())

    def _import(self, zygote: ZygoteProcess) -> None:
        if zygote.alive and self.habits.imports:
            self.imported(zygote, self.habits.preloads)
        elif zygote.alive:
            self.zygote_ends(zygote)

    def _bury(self, zygote: ZygoteProcess) -> None:
        while zygote.owed:
            self.fails_to_fork(zygote)
        if self.zygotes.get((zygote.pool, zygote.generation)) is zygote:
            self.zygote_gone(zygote)

    def kill_zygote(self, pool: str = "web", generation: int = 1) -> None:
        """It is killed from outside."""
        zygote = self.zygotes[pool, generation]
        zygote.alive = False
        self._bury(zygote)

    def _fork(self, zygote: ZygoteProcess, spawn: c.Spawn) -> None:
        if spawn not in zygote.owed:
            return
        if not self.habits.forks:
            self.fails_to_fork(zygote)
            return
        self.forks(zygote)
        process = self.processes[spawn.worker]
        if self.habits.boots:
            self.at(self.habits.boot_time, lambda: self._boot(process))
        else:
            self.at(self.habits.boot_time, lambda: self.end(process, 1))

    def _boot(self, process: Process) -> None:
        if process.alive and not process.killed:
            self.says_ready(process)
            if self.habits.life is not None:
                self.at(self.habits.life, lambda: self.end(process, 1))

    def end(self, process: Process, code: int | None) -> None:
        """The process ends, and is reaped at once."""
        if process.alive:
            self.dies(process, code=code)
            self.reaped(process)

    def crash(self, slot: int = 0, pool: str = "web", code: int | None = None) -> None:
        """The worker that holds the slot dies, by SIGKILL unless a code is given."""
        (held,) = [view for view in self.supervisor.view().pools if view.name == pool]
        worker = held.slots[slot].worker
        assert worker is not None
        self.end(self.processes[worker], code)
