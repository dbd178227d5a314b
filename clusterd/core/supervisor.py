"""The supervisor: ``handle(event, now) -> (commands, facts)`` and ``deadline() -> float | None``.

It carries events to the edge rules (:mod:`.workers`, :mod:`.zygotes`, :mod:`.shutdown`), and after each brings the
whole to rest by the level rules (:mod:`.restarts`, :mod:`.converge`).
"""

from . import commands as c
from . import events as e
from . import facts as f
from . import restarts, zygotes
from .converge import DrainWorkerStep, StartWorkerStep, StartZygoteStep, Step, StopZygoteStep, converge, next_wake
from .moment import Moment
from .policy import ServicePolicy
from .pool import Pool, ZygoteState
from .shutdown import Phase, Shutdown
from .views import view_pool
from .workers import Workers

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
        self.policy = policy
        self._pools = {pool.name: Pool(pool, seed) for pool in policy.pools}
        for pool in self._pools.values():
            pool.resize(pool.policy.workers)
        self._shutdown = Shutdown(policy.stop)
        self._workers = Workers(self._pools, self._shutdown)
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
        times = [self._shutdown.until, *self._workers.deadlines()]
        for pool in self._pools.values():
            times += [pool.zygote.until, next_wake(pool, self._moment.now)]
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
        )

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
            case e.Scale():
                self._scale(event, moment)
            case e.Stop():
                self._started = True  # before Start it is both: the shell's listeners are to be closed as always
                self._shutdown.ask(event.now, self._serving(), moment)
            case _:
                self._workers.handle(event, moment)

    def _zygote_event(self, event: e.ZygoteReady | e.ZygoteFailed | e.ZygoteGone, moment: Moment) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or event.generation != pool.generation:
            return
        if isinstance(event, e.ZygoteReady):
            zygotes.ready(pool, event.preloaded, moment)
        else:
            zygotes.ended(pool, event.report, moment)

    def _scale(self, event: e.Scale, moment: Moment) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or self._shutdown.phase is not Phase.RUNNING:
            return
        was, wanted = pool.wanted, max(1, pool.wanted + event.by)
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
        if self._shutdown.phase is Phase.ENDING:
            self._workers.kill_all(moment)
        for pool in self._pools.values():
            if not self._shutdown.workers_wanted:
                pool.resize(0)
            for step in converge(pool, moment.now):
                self._take(pool, step, moment)
        self._judge_readiness(moment)
        if not self._shutdown.workers_wanted:
            self._finish(moment)

    def _take(self, pool: Pool, step: Step, moment: Moment) -> None:
        match step:
            case StartZygoteStep():
                zygotes.start(pool, moment)
            case StopZygoteStep():
                zygotes.stop(pool, moment)
            case StartWorkerStep(slot, probe):
                self._workers.spawn(pool, slot, probe, moment)
            case DrainWorkerStep(worker):
                running = self._shutdown.phase is Phase.RUNNING
                self._workers.drain(worker, f.ExitReason.SCALE if running else f.ExitReason.STOP, moment)

    def _judge_readiness(self, moment: Moment) -> None:
        lacking = tuple(
            pool.name
            for pool in self._pools.values()
            if pool.ready_count(self._workers.table) < min(pool.policy.min_ready, pool.wanted)
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
        for pool in self._pools.values():
            zygotes.stop(pool, moment)
        absent = all(pool.zygote.state is ZygoteState.ABSENT for pool in self._pools.values())
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
