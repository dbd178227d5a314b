"""The supervisor: ``handle(event, now) -> (commands, facts)`` and ``deadline() -> float | None``.

It carries events to the edge rules (:mod:`.workers`, :mod:`.zygotes`, :mod:`.reload`, :mod:`.shutdown`), and after each
brings the whole to rest by the level rules (:mod:`.restarts`, :mod:`.converge`, and :mod:`.reload` again).
"""

from collections.abc import Container

from . import commands as c
from . import events as e
from . import facts as f
from . import restarts, zygotes
from .converge import (
    AdmitSpareStep,
    DrainWorkerStep,
    StartWorkerStep,
    StartZygoteStep,
    Step,
    StopZygoteStep,
    SucceedStep,
    converge,
    next_wake,
)
from .moment import Moment
from .policy import ServicePolicy
from .pool import Pool, Zygote, ZygoteState
from .reload import Reloads
from .shutdown import Phase, Shutdown
from .views import view_pool
from .workers import Workers

Order = e.Scale | e.ScaleTo | e.StartPool | e.StopPool | e.Hold | e.Release | e.Restart
"""What an operator asks about one pool."""

#: A call later than this behind the deadline (seconds) means that the primary was suspended or starved. It is also
#: what its workers then get at least, to be heard: what they said meanwhile is still unread.
LATE = 1.0


class Supervisor:
    """The rules of one service. Values in, values out: no clock, no randomness, no process.

    Args:
        policy: what the service should be.
        seed: what the jitter of this service's delays depends on, so that hosts do not restart in step.
    """

    def __init__(self, policy: ServicePolicy, seed: str = "") -> None:
        self._pools = {pool.name: Pool(pool, seed) for pool in policy.pools}
        for pool in self._pools.values():
            pool.resize(pool.policy.workers)
        self._shutdown = Shutdown(policy.stop)
        self._reloads = Reloads(self._pools, self._shutdown, seed)
        self._workers = Workers(self._pools, self._shutdown, self._reloads)
        self._moment = Moment(float("-inf"))
        self._started = False
        self._ready = False
        self._was_ready = False

    # -- the interface -------------------------------------------------------------------------------------------

    def handle(self, event: e.Event, now: float) -> tuple[list[c.Command], list[f.Fact]]:
        """Take in one event; returns what is to be done and what has become true, both in order.

        Args:
            event: what happened.
            now: seconds on a monotonic clock; one that goes back is taken as standing still.
        """
        self._forgive(now)
        moment = self._moment = Moment(max(self._moment.now, now))
        if self._shutdown.phase is not Phase.ENDED:
            self._dispatch(event, moment)
            self._settle(moment)
            # What happened comes before what is overdue: an answer in the last moment is an answer.
            while (due := self.deadline()) is not None and due <= moment.now:
                self._expire(moment)
                self._settle(moment)
        return moment.commands, moment.facts

    def deadline(self) -> float | None:
        """When ``handle(Tick(), …)`` is due if nothing happens before; ``None`` if never."""
        if self._shutdown.phase is Phase.ENDED or not self._started:
            return None
        now = self._moment.now
        times = [self._shutdown.until, *self._workers.deadlines(), *self._reloads.deadlines(now)]
        for pool in self._pools.values():
            times += [zygote.until for zygote in pool.zygotes.values()]
            times.append(next_wake(pool, self._workers.table, now))
        return min((time for time in times if time is not None), default=None)

    def view(self) -> f.View:
        """The service at this moment."""
        now, workers = self._moment.now, self._workers.table
        return f.View(
            now=now,
            phase=self._shutdown.phase.value,
            ready=self._ready,
            was_ready=self._was_ready,
            pools=tuple(view_pool(pool, workers, now) for pool in self._pools.values()),
            reload=self._reloads.view(),
        )

    def bereave(self, but: Container[tuple[str, int]] = ()) -> None:
        """All zygotes have gone, through no fault of theirs: those that are needed are to be built anew.

        Args:
            but: those that are still there, by pool and generation.
        """
        for pool in self._pools.values():
            kept = {pool.generation, *([pool.candidate.generation] if pool.candidate is not None else [])}
            pool.zygotes = {
                generation: zygote if lives else Zygote(generation, had=zygote.had, row=zygote.row)
                for generation, zygote in pool.zygotes.items()
                if (lives := zygote.state is ZygoteState.ABSENT or (pool.name, generation) in but) or generation in kept
            }

    # -- events --------------------------------------------------------------------------------------------------

    def _dispatch(self, event: e.Event, moment: Moment) -> None:
        match event:
            case e.Start():
                self._started = True
            case e.Tick():
                pass
            case e.ZygoteReady() | e.ZygoteFailed() | e.ZygoteGone():
                self._zygote_event(event, moment)
            case e.ListenersClosed():
                self._shutdown.closed = self._shutdown.handing_on is not None
            case e.Settled():
                self._reloads.settled(event)
            case e.Vitals():
                self._workers.look(event, moment)
            case e.Scale() | e.ScaleTo() | e.StartPool() | e.StopPool() | e.Hold() | e.Release() | e.Restart():
                self._order(event, moment)
            case e.Reload():
                self._reloads.begin(event, moment)
            case e.ReloadRefused():
                self._reloads.refused(event, moment)
            case e.Stop():
                self._started = True  # before Start it is both: the shell's listeners are to be closed as always
                self._shutdown.ask(event.now, self._serving(), moment)
            case _:
                self._workers.handle(event, moment)

    def _zygote_event(self, event: e.ZygoteReady | e.ZygoteFailed | e.ZygoteGone, moment: Moment) -> None:
        pool = self._pools.get(event.pool)
        zygote = None if pool is None else pool.zygotes.get(event.generation)
        if pool is None or zygote is None:
            return
        if isinstance(event, e.ZygoteReady):
            zygotes.ready(pool, zygote, event.preloaded, moment)
            return
        tried_out = pool.tries_out(zygote.generation)
        report = zygotes.ended(pool, zygote, event.report, moment)
        if tried_out:
            told = isinstance(event, e.ZygoteFailed) and not zygote.overdue
            reason = "the new code could not be imported" if told else "the new code's zygote ended"
            if zygote.overdue:
                reason = "the new code was not imported in time"
            self._reloads.failed(pool, reason, report or "", moment)

    def _order(self, order: Order, moment: Moment) -> None:
        """An operator's order about one pool."""
        pool = self._pools.get(order.pool)
        if pool is None or self._shutdown.phase is not Phase.RUNNING or pool.on_its_way_out:
            return
        match order:
            case e.Scale(_, by):
                self._scale(pool, pool.wanted + by, moment)
            case e.ScaleTo(_, wanted):
                self._scale(pool, wanted, moment)
            case e.StopPool() if pool.stopped is None:
                pool.stopped = pool.wanted
                pool.resize(0)
                moment.facts.append(f.PoolStopped(pool.name))
            case e.StartPool():
                self._start_pool(pool, moment)
            case e.Hold(_, index):
                for slot in pool.open_slots:
                    if slot.index == index:
                        slot.held = True
                        moment.facts.append(f.SlotHeld(pool.name, index))
            case e.Release(_, index):
                self._release(pool, {index}, moment)
            case e.Restart(_, worker):
                own = [one for one in self._workers.table.values() if one.pool == pool.name]
                for one in own:
                    if worker in (None, one.id):
                        self._workers.recycle(one, "restart", moment)

    def _release(self, pool: Pool, indexes: Container[int], moment: Moment) -> None:
        """Slots that are held are to have workers again; like new ones they share the fate of a pool that gave up."""
        for slot in pool.wanted_slots:
            if slot.held and slot.index in indexes:
                slot.held = False
                slot.renew(pool.gave_up)
                moment.facts.append(f.SlotReleased(pool.name, slot.index))

    def _start_pool(self, pool: Pool, moment: Moment) -> None:
        """Again after it was stopped, or anew after it has given up; and with what is held released."""
        self._release(pool, range(pool.wanted), moment)
        if pool.stopped is None and not pool.gave_up:
            return
        wanted, pool.stopped = pool.stopped or pool.wanted, None
        pool.gave_up = pool.halted = False
        pool.probe_at = float("-inf")
        for slot in pool.slots:
            slot.renew()
        pool.zygote.row, pool.zygote.next_start = 0, float("-inf")
        pool.resize(wanted)
        moment.facts.append(f.PoolStarted(pool.name, wanted))

    def _scale(self, pool: Pool, to: int, moment: Moment) -> None:
        was, wanted = pool.wanted, max(1, to)
        if pool.stopped is not None:
            pool.stopped = None  # whoever asks for workers wants it to work
        if wanted != was:
            pool.resize(wanted)
            moment.facts.append(f.Scaled(pool.name, wanted, was))

    # -- time ----------------------------------------------------------------------------------------------------

    def _forgive(self, now: float) -> None:
        """A primary that was late itself blames nobody: running timers get the time back that it slept."""
        due = self.deadline()
        if due is None or now - due <= LATE:
            return
        late, least = now - due, now + LATE
        self._workers.postpone(late, least)
        self._shutdown.postpone(late, least)
        self._reloads.postpone(late, least)
        for pool in self._pools.values():
            zygotes.postpone(pool, late, least)

    def _expire(self, moment: Moment) -> None:
        """Those whose time is up. Phases and delays are levels: :meth:`_settle` looks at the clock for them."""
        self._workers.expire(moment)
        for pool in self._pools.values():
            zygotes.expire(pool, moment)

    # -- after every event: from what is to what ought to be -----------------------------------------------------

    def _settle(self, moment: Moment) -> None:
        if not self._started:
            return
        for pool in self._pools.values():
            facts, failure = restarts.judge(pool, moment.now)
            moment.facts += facts
            if failure is not None:
                self._shutdown.fail(failure, self._serving(), moment)
        self._shutdown.proceed(self._serving(), self._hopeless(), moment)
        running = self._shutdown.phase is Phase.RUNNING
        if not running:
            self._reloads.stopped(moment)
        if self._shutdown.phase is Phase.ENDING:
            self._workers.kill_all(moment)
        self._reloads.proceed(self._workers.table, moment)
        for pool in list(self._pools.values()):
            if not self._shutdown.workers_wanted:
                pool.resize(0)
            while steps := converge(pool, self._workers.table, moment.now, replacing=running):
                for step in steps:
                    self._take(pool, step, moment)
        for pool in self._pools.values():
            pool.forget_zygotes()
        self._judge_readiness(moment)
        if not self._shutdown.workers_wanted:
            self._finish(moment)

    def _take(self, pool: Pool, step: Step, moment: Moment) -> None:
        match step:
            case StartZygoteStep(generation):
                zygotes.start(pool, pool.zygote_of(generation), moment)
            case StopZygoteStep(generation):
                zygotes.stop(pool, pool.zygote_of(generation), moment)
            case StartWorkerStep():
                self._workers.spawn(pool, step, moment)
            case AdmitSpareStep(worker, slot):
                self._workers.admit(pool, worker, slot, moment)
            case SucceedStep(slot, reason):
                self._workers.succeed(slot, reason, moment)
            case DrainWorkerStep(worker, reason):
                running = self._shutdown.phase is Phase.RUNNING
                self._workers.drain(worker, reason if running else f.ExitReason.STOP, moment)

    def _judge_readiness(self, moment: Moment) -> None:
        lacking = tuple(
            pool.name
            for pool in self._pools.values()
            if pool.generation and pool.ready_count(self._workers.table) < min(pool.policy.min_ready, pool.wanted)
        )
        stopping = self._shutdown.phase is not Phase.RUNNING
        ready = not lacking and not stopping
        if ready and not self._ready:
            moment.facts.append(f.ServiceReady(first=not self._was_ready))
            self._was_ready = True
        elif self._ready and not ready:
            moment.facts.append(f.ServiceUnready(() if stopping else lacking))
        self._ready = ready

    def _finish(self, moment: Moment) -> None:
        """When nobody is left, end the zygotes; when they and the listeners are gone too, the primary."""
        left = self._workers.table.values()
        if any(not worker.abandoned for worker in left):
            return
        of_all = [(pool, zygote) for pool in self._pools.values() for zygote in pool.zygotes.values()]
        for pool, zygote in of_all:
            zygotes.stop(pool, zygote, moment)
        absent = all(zygote.state is ZygoteState.ABSENT for _, zygote in of_all)
        if absent and self._shutdown.closed:
            self._shutdown.phase = Phase.ENDED
            code, reason = self._shutdown.code, self._shutdown.reason
            moment.facts.append(f.Stopped(code, reason, tuple(worker.id for worker in left)))
            moment.commands.append(c.Exit(code, reason))

    def _serving(self) -> bool:
        return any(pool.ready_count(self._workers.table) for pool in self._pools.values())

    def _hopeless(self) -> bool:
        """No worker is ready, and none will be."""
        return not self._serving() and all(pool.gave_up for pool in self._pools.values())
