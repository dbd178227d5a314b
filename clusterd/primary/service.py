"""The primary put together: rules, pump, executor, children, listeners and doors of one service, on one event loop."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config.rules import longest_drain
from ..config.schema import Config
from ..core.events import Event, Reload, ReloadRefused, Scale, Settled, Start, Tick
from ..core.facts import Fact, View, ZygoteIsReady
from ..core.policy import ServicePolicy
from ..core.supervisor import Supervisor
from ..spawner.client import Plan
from ..unix import process
from ..wire.reports import Collected, SlowRequest
from . import bequest, doors, trials
from .children import Children
from .editions import Editions, edition
from .executor import Executor
from .guard import Watch
from .handover import Handover
from .hooks import Hooks
from .listeners import Listeners, Opened, Standing
from .plans import shared
from .printed import Printed
from .pump import Pump
from .saturation import saturation
from .scripts import Scripts
from .strays import Leftovers, Orphans

#: Seconds from one beat of the primary's own to the next.
BEAT = 1.0

#: Seconds after an upgrade until zygotes are built anew: those that there are fork as well as ever, and two starts one
#: upon the other, the primary's and theirs, are felt by who serves.
RENEW_AFTER = 0.5

#: Seconds in which old workers take what waits at a listener that a reload has taken away; then it is closed on them.
SETTLE_WITHIN = 25.0


@dataclass(frozen=True, slots=True)
class Eyes:
    """Who is told what; given by the composition root, for the primary knows none of them.

    Attributes:
        facts: called with every fact.
        line: called with pool, slot, worker, stream and text of every line of output.
        message: called with worker, message and descriptor of every message of an app's; closes the descriptor.
        report: called with worker and what it tells of itself, for eyes alone.
        warn: called with an event name, a sentence and fields.
        status: called when SIGUSR1 asks for it.
        reload: called when SIGHUP asks for it.
        upgrade: called when SIGUSR2 asks for it.
    """

    facts: Sequence[Callable[[Fact], None]]
    line: Callable[[str, int | None, int | None, str, str], None]
    message: Callable[[int, Any, int | None], None]
    report: Callable[[int, Collected | SlowRequest], None]
    warn: Callable[..., None]
    status: Callable[[], None]
    reload: Callable[[], None]
    upgrade: Callable[[], None]


class Primary:
    """One service.

    Args:
        loop: the loop that this process runs.
        config: the configuration.
        policy: what the core makes of it.
        plans: how each pool's zygotes are started.
        opened: the listening sockets by name, owned from here on.
        seed: see :class:`Supervisor`.
        eyes: see :class:`Eyes`.
        left: what a predecessor in this process has left.

    Raises:
        StateError, HandoverError: what was left cannot be taken over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        policy: ServicePolicy,
        plans: Mapping[str, Plan],
        opened: Mapping[str, Opened],
        seed: str,
        eyes: Eyes,
        left: Handover | None = None,
    ) -> None:
        process.set_child_subreaper()
        self._left = left
        self._first_pool = policy.pools[0].name
        self._loop = loop
        self._config = config
        self._eyes = eyes
        self._exit: asyncio.Future[int] = loop.create_future()
        self._beat_at = loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._generation = 1 if left is None else left.generation
        self._tried: dict[int, Config] = {}
        self._editions = Editions()
        self.supervisor = Supervisor(policy, seed)
        if left is not None:
            self.supervisor = bequest.rules(left, self.supervisor)
        self.listeners = Listeners(
            loop, opened, self._short, self._box_broken, shared(config), declared=config.listeners
        )
        generations = {pool.name: pool.generation for pool in self.supervisor.view().pools}
        for name, pool in config.pools.items():
            number = generations[name]
            plan = replace(plans[name], load=replace(plans[name].load, generation=number))
            self._editions.add(name, number, edition(plan, pool, self.listeners.standing))
        self._refused: set[str] = set()  # pools whose code on disk a reload has found to be no good
        self._sockets: Mapping[str, Standing] = self.listeners.standing
        if left is not None:
            self._refused.update(left.refused)
            self._sockets = trials.take_up(left, self._tried, self._editions, self.listeners)
        self.children = Children(
            loop,
            self._report,
            on_line=eyes.line,
            on_message=self._heard,
            on_report=eyes.report,
            on_broken=lambda worker, why: eyes.warn("worker_broken", why, worker=worker),
            capture=config.log.worker_output == "capture",
            crash_lines=config.log.crash_lines,
        )
        self.children.scripts = Scripts(
            loop,
            config.pools,
            on_ready=self.children.script_ready,
            on_short=self._short,
            on_broken=self._box_broken,
            on_reclaimed=self.children.count,
        )
        self._hooks = Hooks(loop, self._editions.plan, self.children.say, lambda why: eyes.warn("on_message", why))
        self._hooks.adopt(config.pools)
        self._executor = Executor(
            loop,
            editions=self._editions,
            children=self.children,
            listeners=self.listeners,
            report=self._report,
            printed=self._printed,
            on_warning=lambda pool, sentence: eyes.warn("preload_unsafe", sentence, pool=pool),
            on_renewed=self._renewed,
            on_settle=self._settle,
            on_exit=lambda code, reason: self._exit.set_result(code),
        )
        if left is not None:
            bequest.adopt(left, self.children, self._sockets)
            self._executor.take_up(left.zygotes)
            self._hooks.take_up(left.hooks)
        self._pump = Pump(loop, self.supervisor, self._executor, eyes.facts)
        self.helpers: set[int] = set()  # children that the composition has started, and reaps
        self._orphans = Orphans(
            lambda: [
                *(child.pid for child in self.children.by_id.values()),
                *self._executor.zygote_pids(),
                *self.helpers,
                *self._hooks.pids(),
            ],
            lambda: self._executor.spawning,
            lambda sentence: eyes.warn("orphan", sentence),
        )
        self.leftovers = Leftovers(loop, config.clusterd.run_dir, longest_drain(config.shutdown))
        self._watch = Watch(loop, lambda: self._config, self.children.weights, self._report, eyes.warn)

    async def run(self) -> int:
        """Serve until the end; returns the exit code."""
        doors.open_all(self._loop, self._report, self._other_signal)
        self._turn()
        left, self._left = self._left, None
        if left is not None:
            self._begin(left)
        self._pump.feed(Start() if left is None else Tick())
        self._watch.start()
        try:
            return await self._exit
        finally:
            if self._beat is not None:
                self._beat.cancel()
            self._watch.stop()
            self._pump.close()
            self._hooks.close()
            self._orphans.look(now=True)
            self.leftovers.close()
            self.listeners.discard()
            self.children.scripts.discard()
            self.children.lifeline.close()

    # -- reloads -------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """What is in force: of a reload that is being tried out not yet."""
        return self._config

    def next_generation(self) -> int:
        """The number of the next reload; each is used once."""
        self._generation += 1
        return self._generation

    def reload(
        self,
        generation: int,
        config: Config,
        policy: ServicePolicy,
        plans: Mapping[str, Plan],
    ) -> None:
        """Try out another configuration, or the same with other code.

        Args:
            generation: from :meth:`next_generation`.
            config: what is to be in force if it works.
            policy: what the core makes of it.
            plans: of the pools that get the new generation; the others stay as they are.

        Raises:
            HostError: one of its listeners cannot be had; nothing has changed.
        """
        standing = self.listeners.extend(generation, config.listeners, shared(config))
        for name, plan in plans.items():
            self._editions.add(name, generation, edition(plan, config.pools[name], standing))
        self._tried[generation] = config
        self.children.scripts.adopt(config.pools)
        self._report(Reload(generation, policy, frozenset(plans)))

    def refuse_reload(self, reason: str, report: str = "") -> None:
        """A reload was asked for and cannot be tried: have that become known."""
        self._report(ReloadRefused(reason, report))

    def order(self, event: Event) -> None:
        """An operator's order; the caller has seen to it that he may."""
        self._report(event)

    def _heard(self, worker: int, message: Any, fd: int | None) -> None:
        """A message of an app's."""
        child = self.children.by_id.get(worker)
        if child is not None:
            self._hooks.give(worker, child.pool, child.slot, message)
        self._eyes.message(worker, message, fd)

    def _settle(self, generation: int, promoted: bool, done: Callable[[], None]) -> None:
        config = self._tried.pop(generation)
        renewed = {*self._editions.of(generation)}
        self._refused = self._refused - renewed if promoted else self._refused | renewed
        if promoted:
            self._config = config
            self._first_pool = next(iter(config.pools))
        self.children.scripts.adopt(self._config.pools)
        self._hooks.adopt(self._config.pools)
        self._editions.settle(generation, promoted, self._config.pools)
        self.listeners.settle(generation, promoted, done)
        self._hurry_later()
        self._renew()

    def _hurry_later(self) -> None:
        allowed = self._config.shutdown.drain_timeout or SETTLE_WITHIN
        self._loop.call_later(min(allowed, SETTLE_WITHIN), self.listeners.hurry)

    # -- upgrades ------------------------------------------------------------------------------------------------

    def why_no_upgrade(self) -> str:
        """Why this primary's code cannot be replaced now; empty if it can."""
        return bequest.why_not(self.view())

    def quiet(self) -> bool:
        """Nothing is under way that could not be handed on."""
        return bequest.is_quiet(self.view(), self._executor, self.children, self.listeners)

    def handover(self) -> Handover:
        """What there is to hand on of a quiet primary, apart from what the composition adds."""
        left = bequest.collect(
            self.supervisor, self._executor, self.children, self.listeners, self._hooks, self._generation
        )
        trials.describe(left, self.view(), self._config, self._tried, self._editions)
        left.refused = tuple(self._refused)
        return left

    def bury(self) -> None:
        """This process is about to be another program."""
        self._executor.bury()

    def _begin(self, left: Handover) -> None:
        """There is no way back any more."""
        bequest.begin(left, self.children, self._sockets)
        self.listeners.go_on_closing(lambda generation: self._report(Settled(generation)))
        self._hurry_later()
        self._loop.call_later(RENEW_AFTER, self._renew)

    def _renew(self) -> None:
        """Build anew what zygotes another version of this code has started, unless a reload has yet to find out whether
        what they would import is any good."""
        if not self._tried:
            self._executor.renew(self._refused)

    def _renewed(self, pool: str, generation: int, preloaded: bool, took: float, report: str) -> None:
        if report:
            self._eyes.warn("zygote_kept", report, pool=pool, generation=generation)
            return
        for observe in self._eyes.facts:
            observe(ZygoteIsReady(pool, generation, preloaded, took))

    # -- what eyes read ------------------------------------------------------------------------------------------

    def view(self) -> View:
        """The core's state; the core's own clock stands still between events, so it is told the time."""
        return replace(self.supervisor.view(), now=self._loop.time())

    def loop_age(self) -> float:
        """Seconds since the loop last turned its own beat; over :data:`BEAT` it is late."""
        return self._loop.time() - self._beat_at

    @property
    def broken(self) -> str:
        """Why the rules can no longer be relied on; empty while they can."""
        return self._pump.broken

    def overdue(self) -> float:
        """Seconds by which what the rules have due is late."""
        return self._pump.overdue()

    def handed(self) -> dict[tuple[int, str], int]:
        """Worker and listener to connections handed over so far."""
        return {
            (child.id, name): count for child in self.children.by_id.values() for name, count in child.handed().items()
        }

    def queues(self) -> list[tuple[str, str, int | None, int | None]]:
        """Name, address, connections in the kernel's queue and its bound, of every listener; ``None`` is untold."""
        return self.listeners.queues()

    def saturation(self) -> dict[str, float]:
        """Pool to the share of its ready workers that leave work waiting."""
        return saturation(self.children.by_id.values(), time.monotonic_ns())

    def last_lines(self, worker: int) -> list[str]:
        """The last lines of a worker's output."""
        child = self.children.by_id.get(worker)
        return list(child.last_lines) if child is not None else []

    # -- what operators ask --------------------------------------------------------------------------------------

    def command(self, event: Event) -> None:
        """Have the core take in what an operator asks; the facts of it are told before this returns."""
        self._pump.feed(event)

    def stacks(self, worker: int, done: Callable[[str], None]) -> bool:
        """See :meth:`Children.stacks`."""
        return self.children.stacks(worker, done)

    # -- small wires ---------------------------------------------------------------------------------------------

    def _report(self, event: Event) -> None:
        self._pump.feed(event)

    def _short(self, sentence: str) -> None:
        self._eyes.warn("short_of_resources", sentence)

    def _box_broken(self, worker: int) -> None:
        self._eyes.warn("worker_broken", "its mailbox takes no mail any more", worker=worker)
        self.children.kill(worker)

    def _other_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGUSR1:
            self._eyes.status()
        elif number is signal.SIGHUP:
            self._eyes.reload()
        elif number is signal.SIGUSR2:
            self._eyes.upgrade()
        else:
            self._report(Scale(self._first_pool, 1 if number is signal.SIGTTIN else -1))

    def _printed(self, pool: str) -> Printed:
        """What reads a zygote's output: its lines are told, tagged with the pool alone."""
        log = self._config.log
        capture = log.worker_output == "capture"
        return Printed(
            self._loop, capture, log.crash_lines, lambda stream, text: self._eyes.line(pool, None, None, stream, text)
        )

    def _turn(self) -> None:
        """Once a second: the loop turns, workers are looked at, and strays are looked for."""
        self._beat_at = self._loop.time()
        self._beat = self._loop.call_later(BEAT, self._turn)  # first: whatever comes of the rest, the loop turns
        self._report(self.children.vitals())
        self.children.oom_kills.settle()
        self._orphans.look()
