"""The supervisor: ``handle(event, now) -> (commands, facts)`` and ``deadline() -> float | None``.

It owns the tables, carries events to the edge rules (:mod:`.lifecycle`) and runs the level rules (:mod:`.converge`)
after each. What it knows itself is how an end counts, when the service is ready, and how the service stops.
"""

from enum import StrEnum

from . import commands as c
from . import events as e
from . import facts as f
from .converge import (
    DrainWorkerStep,
    Pool,
    Slot,
    StartWorkerStep,
    StartZygoteStep,
    StopZygoteStep,
    ZygoteState,
    converge,
    next_wake,
    ready_count,
)
from .lifecycle import Do, Input, State, Worker
from .policy import OnGiveUp, ServicePolicy, backoff, jitter

#: A tick later than this behind its own deadline (seconds) means that the primary was suspended or starved: its
#: workers then get that time back, for it was not they who were late.
LATE = 1.0

#: How long SIGKILL may take to show before a stop no longer waits for it (a process in uninterruptible sleep).
UNKILLABLE_AFTER = 5.0


class Phase(StrEnum):
    """Where the service is in its life. It only goes forward."""

    RUNNING = "running"
    LAME_DUCK = "lame_duck"  # not ready any more, but still taking work
    CLOSING = "closing"  # what the kernel has accepted is handed on
    DRAINING = "draining"  # workers finish what they have
    ENDING = "ending"  # by force
    ENDED = "ended"


class Supervisor:
    """The rules of one service. Values in, values out: no clock, no randomness, no process.

    Args:
        policy: what the service should be.
        seed: what the jitter of this service's delays depends on, so that hosts do not restart in step.
    """

    def __init__(self, policy: ServicePolicy, seed: str = "") -> None:
        self.policy = policy
        self._seed = seed
        self._pools = {pool.name: Pool(pool, wanted=pool.workers) for pool in policy.pools}
        self._workers: dict[int, Worker] = {}
        self._last_id = 0
        self._now = float("-inf")
        self._phase = Phase.RUNNING
        self._started = False
        self._ready = False
        self._was_ready = False
        self._stop_asked = False
        self._stop_at: float | None = None  # the present phase of the stop ends then
        self._drain_deadline: float | None = None
        self._listeners_closed = False
        self._code = 0
        self._reason = ""
        self._commands: list[c.Command] = []
        self._facts: list[f.Fact] = []

    # -- the interface -------------------------------------------------------------------------------------------

    def handle(self, event: e.Event, now: float) -> tuple[list[c.Command], list[f.Fact]]:
        """Take in one event; returns what is to be done and what has become true, both in order.

        Args:
            event: what happened.
            now: seconds on a monotonic clock; one that goes back is taken as standing still.
        """
        self._forgive(now)
        self._now = max(self._now, now)
        self._commands, self._facts = [], []
        if self._phase is not Phase.ENDED:
            self._dispatch(event)
            self._expire()
            self._settle()
        return self._commands, self._facts

    def deadline(self) -> float | None:
        """When ``handle(Tick(), …)`` is due if nothing happens before; ``None`` if never."""
        if self._phase is Phase.ENDED or not self._started:
            return None
        times = [worker.until for worker in self._workers.values() if worker.until is not None]
        times += [time for worker in self._workers.values() if (time := self._healthy_at(worker)) is not None]
        for pool in self._pools.values():
            if pool.zygote.until is not None:
                times.append(pool.zygote.until)
            if (wake := next_wake(pool, self._now)) is not None:
                times.append(wake)
        if self._stop_at is not None:
            times.append(self._stop_at)
        return min(times, default=None)

    def view(self) -> f.View:
        """The service at this moment."""
        return f.View(
            now=self._now,
            phase=self._phase.value,
            ready=self._ready,
            was_ready=self._was_ready,
            pools=tuple(self._pool_view(pool) for pool in self._pools.values()),
        )

    # -- events --------------------------------------------------------------------------------------------------

    def _dispatch(self, event: e.Event) -> None:
        match event:
            case e.Start():
                self._started = True
            case e.Tick():
                pass
            case e.ZygoteReady() | e.ZygoteFailed() | e.ZygoteGone():
                self._zygote_event(event)
            case e.ListenersClosed():
                self._listeners_closed = True
            case e.Scale():
                self._scale(event)
            case e.Stop():
                self._stop(event.now)
            case _:
                worker = self._workers.get(event.worker)
                if worker is not None:  # else it is an answer for one that is gone: late, and of no use
                    self._worker_event(worker, event)

    def _worker_event(
        self,
        worker: Worker,
        event: e.Spawned | e.SpawnFailed | e.Online | e.BootFailed | e.Ready | e.Leaving | e.Exited,
    ) -> None:
        match event:
            case e.Spawned():
                self._facts.append(f.WorkerSpawned(worker.id, worker.pool, worker.slot))
                self._step(worker, Input.SPAWNED)
            case e.SpawnFailed():
                self._spawn_failed(worker, event)
            case e.Online():
                self._facts.append(f.WorkerOnline(worker.id, worker.pool, worker.slot))
            case e.BootFailed():
                self._facts.append(f.WorkerBootFailed(worker.id, worker.pool, worker.slot, event.stage, event.report))
            case e.Ready():
                self._worker_ready(worker)
            case e.Leaving():
                self._worker_leaves(worker)
            case e.Exited():
                self._worker_exited(worker, event)

    def _worker_ready(self, worker: Worker) -> None:
        if worker.state is not State.BOOTING:
            return  # a second word, or too late: it is draining or being killed
        self._step(worker, Input.READY)
        worker.ready_at = self._now
        worker.until = None
        pool, slot = self._place(worker)
        pool.ever_ready = True
        vacant = None if slot.vacant_since is None else self._now - slot.vacant_since
        slot.vacant_since = None
        self._facts.append(
            f.WorkerReady(worker.id, worker.pool, worker.slot, worker.generation, self._now - worker.started_at, vacant)
        )

    def _worker_leaves(self, worker: Worker) -> None:
        if worker.state not in (State.BOOTING, State.READY):
            return  # it was told to go: closing its channel is how it does that
        worker.left = True
        # It is counted now and not at its exit, so that its successor need not wait for a long drain.
        self._count_end(worker)
        self._drain(worker, f.ExitReason.VOLUNTARY)

    def _worker_exited(self, worker: Worker, event: e.Exited) -> None:
        self._step(worker, Input.EXITED)
        asked = worker.asked is not None and worker.asked is not f.ExitReason.VOLUNTARY
        if not asked:
            self._count_end(worker)
        pool, slot = self._place(worker)
        reason = worker.exit_reason(event.code)
        slot.ends += 1
        slot.last_reason = reason
        self._facts.append(
            f.WorkerExited(
                worker=worker.id,
                pool=worker.pool,
                slot=worker.slot,
                generation=worker.generation,
                code=event.code,
                signal=event.signal,
                reason=reason,
                asked=asked,
                uptime=self._now - worker.started_at,
                ready_for=None if worker.ready_at is None else self._now - worker.ready_at,
                drained=None if worker.drained_at is None else self._now - worker.drained_at,
            )
        )
        self._forget(worker, pool, slot)

    def _spawn_failed(self, worker: Worker, event: e.SpawnFailed) -> None:
        if worker.state not in (State.SPAWNING, State.CANCELLED):
            return
        timed_out = worker.killed is f.KillReason.START_TIMEOUT
        self._step(worker, Input.SPAWN_FAILED)
        pool, slot = self._place(worker)
        self._facts.append(f.WorkerSpawnFailed(worker.id, worker.pool, worker.slot, event.report))
        if worker.asked is None and (timed_out or not event.zygote_gone):
            self._count_end(worker)
        self._forget(worker, pool, slot)

    def _forget(self, worker: Worker, pool: Pool, slot: Slot) -> None:
        del self._workers[worker.id]
        if slot.worker == worker.id:
            slot.worker = None
        if pool.probe == worker.id:
            pool.probe = None
            pool.probe_at = self._now + self._pause(pool)

    # -- how an end counts ---------------------------------------------------------------------------------------

    def _count_end(self, worker: Worker) -> None:
        """An unasked end: it lengthens its slot's row unless the worker had been healthy. Counted once."""
        if worker.counted:
            return
        worker.counted = True
        pool, slot = self._place(worker)
        policy = pool.policy.restart
        ready_for = None if worker.ready_at is None else self._now - worker.ready_at
        rapid = ready_for is None or ready_for < policy.rapid_exit
        healthy = ready_for is not None and ready_for >= policy.healthy_after
        if slot.worker == worker.id:
            slot.worker = None
            if worker.ready_at is not None:
                slot.vacant_since = self._now
        self._lengthen(pool, slot, rapid, healthy)
        self._judge(pool)

    def _lengthen(self, pool: Pool, slot: Slot, rapid: bool, healthy: bool) -> None:
        policy = pool.policy.restart
        slot.row = 0 if healthy else slot.row + 1
        slot.rapid = slot.rapid + 1 if rapid else 0
        if slot.given_up:
            return  # a probe that failed: the pool's clock decides when the next one tries
        if policy.give_up_after and slot.rapid >= policy.give_up_after:
            slot.given_up = True
            pool.probe_at = max(pool.probe_at, self._now + self._pause(pool))
            self._facts.append(f.SlotGaveUp(pool.policy.name, slot.index, slot.rapid))
            return
        delay = backoff(policy, slot.row, self._seed, pool.policy.name, slot.index)
        slot.next_start = self._now + delay
        if slot.index < pool.wanted:
            self._facts.append(f.RestartScheduled(pool.policy.name, slot.index, delay, slot.row, slot.next_start))

    def _judge(self, pool: Pool) -> None:
        """Has the pool as a whole given up, and what follows?"""
        if pool.gave_up or pool.wanted == 0 or not all(slot.given_up for slot in pool.wanted_slots()):
            return
        pool.gave_up = True
        policy = pool.policy.restart
        probing = policy.on_give_up is OnGiveUp.PROBE and pool.ever_ready
        self._facts.append(
            f.PoolGaveUp(
                pool.policy.name,
                policy.on_give_up.value,
                pool.ever_ready,
                max(0.0, pool.probe_at - self._now) if probing else None,
            )
        )
        if not pool.ever_ready:
            self._fail(f"pool {pool.policy.name}: no worker ever became ready in {policy.give_up_after} attempts")
        elif policy.on_give_up is OnGiveUp.EXIT:
            self._fail(f"pool {pool.policy.name} has given up, and on_give_up is exit")
        elif policy.on_give_up is OnGiveUp.STOP:
            pool.halted = True

    def _healthy_at(self, worker: Worker) -> float | None:
        """When a ready worker will have been so long enough for its slot to start again at zero, if that matters."""
        if worker.ready_at is None or worker.state is not State.READY:
            return None
        pool, slot = self._place(worker)
        if not (slot.row or slot.rapid or slot.given_up or pool.probe == worker.id):
            return None
        return worker.ready_at + pool.policy.restart.healthy_after

    def _healthy(self, worker: Worker) -> None:
        pool, slot = self._place(worker)
        slot.row = slot.rapid = 0
        slot.given_up = False
        self._facts.append(f.SlotHealthy(pool.policy.name, slot.index))
        if pool.probe == worker.id:
            pool.probe = None
            # What the probe could do the others can: the cause was shared, as its removal is.
            for other in pool.slots:
                if other.given_up:
                    other.row = other.rapid = 0
                    other.given_up = False
                    other.next_start = self._now
        if pool.gave_up:
            pool.gave_up = False
            self._facts.append(f.PoolRecovered(pool.policy.name))

    def _pause(self, pool: Pool) -> float:
        """From one probe to the next, with jitter, so that a fleet does not knock in step."""
        policy = pool.policy.restart
        return policy.max_delay * (1.0 + 0.2 * jitter(self._seed, pool.policy.name, self._last_id))

    # -- zygotes -------------------------------------------------------------------------------------------------

    def _zygote_event(self, event: e.ZygoteReady | e.ZygoteFailed | e.ZygoteGone) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or event.generation != pool.generation:
            return
        zygote = pool.zygote
        if isinstance(event, e.ZygoteReady):
            if zygote.state is ZygoteState.STARTING:
                zygote.state, zygote.until, zygote.had = ZygoteState.READY, None, True
                zygote.ready_at, zygote.preloaded = self._now, event.preloaded
                self._facts.append(
                    f.ZygoteIsReady(pool.policy.name, pool.generation, event.preloaded, self._now - zygote.started_at)
                )
            return
        if zygote.state is ZygoteState.ABSENT:
            return
        # It failed if it never was ready and we did not take it down for another reason than its lateness.
        failed = zygote.state is ZygoteState.STARTING or (zygote.state is ZygoteState.STOPPING and zygote.late)
        was_ready = zygote.state is ZygoteState.READY
        zygote.state, zygote.until = ZygoteState.ABSENT, None
        report = event.report
        if zygote.late:
            report = f"it had not imported the app within {pool.policy.start_timeout:g}s\n{report}".rstrip()
        zygote.late = False
        if pool.wanted == 0:
            return
        retry = None
        if was_ready or zygote.had:
            healthy = was_ready and self._now - zygote.ready_at >= pool.policy.restart.healthy_after
            zygote.row = 0 if healthy else zygote.row + 1
            retry = backoff(pool.policy.restart, zygote.row, self._seed, pool.policy.name, "zygote")
            zygote.next_start = self._now + retry
        self._facts.append(f.ZygoteEnded(pool.policy.name, pool.generation, was_ready, report, retry))
        if failed:
            # One crash of the whole pool: every slot that waits for it, once.
            for slot in pool.wanted_slots():
                probing = slot.given_up and self._now >= pool.probe_at
                if slot.worker is None and (not slot.given_up or probing):
                    self._lengthen(pool, slot, rapid=True, healthy=False)
            if any(slot.given_up for slot in pool.slots):
                pool.probe_at = max(pool.probe_at, self._now + self._pause(pool))
            self._judge(pool)

    # -- operators -----------------------------------------------------------------------------------------------

    def _scale(self, event: e.Scale) -> None:
        pool = self._pools.get(event.pool)
        if pool is None or self._phase is not Phase.RUNNING:
            return
        was, pool.wanted = pool.wanted, max(1, pool.wanted + event.by)
        if pool.wanted != was:
            self._facts.append(f.Scaled(pool.policy.name, pool.wanted, was))
            for slot in pool.slots[pool.wanted :]:
                slot.row = slot.rapid = 0
                slot.given_up, slot.next_start, slot.vacant_since = False, self._now, None

    def _stop(self, now_: bool) -> None:
        if self._phase is Phase.RUNNING:
            self._stop_asked = True
            self._begin_stop(0, "asked to stop", now_)
        elif now_ or self._stop_asked:
            if self._phase is not Phase.ENDING:
                self._facts.append(f.StopBegan(True, self._reason))
                self._end_by_force()
        else:
            self._stop_asked = True  # the service was failing by itself; the operator joins in, and asks for no haste

    def _fail(self, reason: str) -> None:
        if self._phase is Phase.RUNNING:
            self._begin_stop(1, reason, now_=False)

    def _begin_stop(self, code: int, reason: str, now_: bool) -> None:
        self._code, self._reason = code, reason
        self._facts.append(f.StopBegan(now_, reason))
        if now_:
            self._end_by_force()
        elif self.policy.stop.lame_duck and any(ready_count(pool, self._workers) for pool in self._pools.values()):
            self._enter(Phase.LAME_DUCK, self._now + self.policy.stop.lame_duck)
        else:
            self._close_listeners()

    def _close_listeners(self) -> None:
        self._drain_deadline = self.policy.stop.drain_deadline(self._now)
        self._enter(Phase.CLOSING, self._drain_deadline)
        hand_on = any(ready_count(pool, self._workers) for pool in self._pools.values())
        self._commands.append(c.CloseListeners(hand_on))

    def _end_by_force(self) -> None:
        closing = self._phase in (Phase.CLOSING, Phase.DRAINING)
        self._enter(Phase.ENDING, None)
        if not closing or not self._listeners_closed:
            self._commands.append(c.CloseListeners(hand_on=False))
        for pool in self._pools.values():
            pool.wanted = 0
        for worker in list(self._workers.values()):
            worker.asked = worker.asked or f.ExitReason.STOP
            self._kill(worker, f.KillReason.STOP_NOW)

    def _enter(self, phase: Phase, until: float | None) -> None:
        self._phase, self._stop_at = phase, until
        self._facts.append(f.PhaseChanged(phase.value))

    # -- after every event ---------------------------------------------------------------------------------------

    def _forgive(self, now: float) -> None:
        """A primary that was late itself blames nobody: running timers get the time back that it slept."""
        due = self.deadline()
        if due is None or now - due <= LATE:
            return
        late = now - max(due, self._now)
        for worker in self._workers.values():
            if worker.until is not None:
                worker.until += late
        for pool in self._pools.values():
            if pool.zygote.until is not None:
                pool.zygote.until += late
        if self._drain_deadline is not None:
            self._drain_deadline += late
            if self._phase is Phase.CLOSING:
                self._stop_at = self._drain_deadline

    def _expire(self) -> None:
        for worker in list(self._workers.values()):
            if worker.until is not None and worker.until <= self._now:
                self._timed_out(worker)
            elif (time := self._healthy_at(worker)) is not None and time <= self._now:
                self._healthy(worker)
        for pool in self._pools.values():
            zygote = pool.zygote
            if zygote.until is not None and zygote.until <= self._now:
                zygote.late = True
                self._stop_zygote(pool)
        if self._stop_at is not None and self._stop_at <= self._now:
            if self._phase is Phase.LAME_DUCK:
                self._close_listeners()
            elif self._phase is Phase.CLOSING:
                self._commands.append(c.CloseListeners(hand_on=False))
                self._drain_all()

    def _timed_out(self, worker: Worker) -> None:
        if worker.state is State.DRAINING:
            self._kill(worker, f.KillReason.DRAIN_TIMEOUT, Input.TIMEOUT)
        else:
            self._kill(worker, f.KillReason.START_TIMEOUT, Input.TIMEOUT)

    def _settle(self) -> None:
        if self._phase is Phase.CLOSING and self._listeners_closed:
            self._drain_all()
        if self._started:
            for pool in self._pools.values():
                for step in converge(pool, self._now):
                    self._take(pool, step)
        self._judge_readiness()
        if self._phase in (Phase.DRAINING, Phase.ENDING):
            self._finish()

    def _drain_all(self) -> None:
        self._enter(Phase.DRAINING, None)
        for pool in self._pools.values():
            pool.wanted = 0

    def _finish(self) -> None:
        if any(not worker.abandoned for worker in self._workers.values()):
            return
        for pool in self._pools.values():
            if pool.zygote.state in (ZygoteState.STARTING, ZygoteState.READY):
                self._stop_zygote(pool)
        if not self._listeners_closed or any(p.zygote.state is not ZygoteState.ABSENT for p in self._pools.values()):
            return
        self._phase = Phase.ENDED
        self._facts.append(f.Stopped(self._code, self._reason, tuple(self._workers)))
        self._commands.append(c.Exit(self._code, self._reason))

    def _judge_readiness(self) -> None:
        lacking = tuple(
            pool.policy.name
            for pool in self._pools.values()
            if ready_count(pool, self._workers) < min(pool.policy.min_ready, pool.wanted)
        )
        stopping = self._phase is not Phase.RUNNING
        ready = self._started and not lacking and not stopping
        if ready and not self._ready:
            self._facts.append(f.ServiceReady(first=not self._was_ready))
            self._was_ready = True
        elif self._ready and not ready:
            self._facts.append(f.ServiceUnready(() if stopping else lacking))
        self._ready = ready

    # -- steps and edges -----------------------------------------------------------------------------------------

    def _take(self, pool: Pool, step: StartZygoteStep | StopZygoteStep | StartWorkerStep | DrainWorkerStep) -> None:
        match step:
            case StartZygoteStep():
                zygote = pool.zygote
                zygote.state, zygote.started_at = ZygoteState.STARTING, self._now
                zygote.until = self._start_deadline(pool)
                self._commands.append(c.StartZygote(pool.policy.name, pool.generation))
                self._facts.append(f.ZygoteStarted(pool.policy.name, pool.generation))
            case StopZygoteStep():
                self._stop_zygote(pool)
            case StartWorkerStep(slot, probe):
                self._spawn(pool, slot, probe)
            case DrainWorkerStep(worker):
                reason = f.ExitReason.SCALE if self._phase is Phase.RUNNING else f.ExitReason.STOP
                self._drain(self._workers[worker], reason)

    def _spawn(self, pool: Pool, slot: Slot, probe: bool) -> None:
        self._last_id += 1
        worker = Worker(self._last_id, pool.policy.name, slot.index, pool.generation, self._now)
        worker.until = self._start_deadline(pool)
        self._workers[worker.id] = worker
        slot.worker = worker.id
        slot.starts += 1
        if probe:
            pool.probe = worker.id
        self._commands.append(c.Spawn(worker.id, worker.pool, worker.slot, worker.generation))
        self._facts.append(f.WorkerStarting(worker.id, worker.pool, worker.slot, worker.generation, probe))

    def _stop_zygote(self, pool: Pool) -> None:
        if pool.zygote.state in (ZygoteState.STARTING, ZygoteState.READY):
            pool.zygote.state, pool.zygote.until = ZygoteState.STOPPING, None
            self._commands.append(c.StopZygote(pool.policy.name, pool.generation))

    def _drain(self, worker: Worker, reason: f.ExitReason) -> None:
        """The worker is to leave: it gives up its slot at once, and its process when it has finished."""
        slot = self._place(worker)[1]
        if slot.worker == worker.id:
            slot.worker = None
        worker.asked = worker.asked or reason
        self._step(worker, Input.DRAIN)

    def _kill(self, worker: Worker, reason: f.KillReason, what: Input = Input.KILL) -> None:
        worker.killed = worker.killed or reason
        self._step(worker, what)

    def _step(self, worker: Worker, what: Input) -> None:
        """One edge, and what it asks for."""
        match worker.step(what):
            case Do.DRAIN:
                stopping = self._phase is not Phase.RUNNING
                worker.drained_at = self._now
                worker.until = self._drain_deadline if stopping else self.policy.stop.drain_deadline(self._now)
                within = None if worker.until is None else max(0.0, worker.until - self._now)
                self._commands.append(c.Drain(worker.id, within))
                reason = worker.asked or f.ExitReason.VOLUNTARY
                self._facts.append(f.WorkerDraining(worker.id, worker.pool, worker.slot, reason, within))
            case Do.KILL:
                worker.until = self._now + UNKILLABLE_AFTER
                worker.killed = worker.killed or f.KillReason.STOP_NOW
                self._commands.append(c.Kill(worker.id))
                self._facts.append(f.WorkerKilled(worker.id, worker.pool, worker.slot, worker.killed))
            case Do.STOP_ZYGOTE:
                worker.until = None
                self._stop_zygote(self._pools[worker.pool])
            case Do.ABANDON:
                worker.until = None
                worker.abandoned = True
            case Do.NOTHING:
                pass

    # -- small helpers -------------------------------------------------------------------------------------------

    def _place(self, worker: Worker) -> tuple[Pool, Slot]:
        pool = self._pools[worker.pool]
        return pool, pool.slots[worker.slot]

    def _start_deadline(self, pool: Pool) -> float | None:
        return self._now + pool.policy.start_timeout if pool.policy.start_timeout else None

    def _pool_view(self, pool: Pool) -> f.PoolView:
        workers = [worker for worker in self._workers.values() if worker.pool == pool.policy.name]
        held = {worker.slot for worker in workers}
        return f.PoolView(
            name=pool.policy.name,
            generation=pool.generation,
            wanted=pool.wanted,
            ready=ready_count(pool, self._workers),
            min_ready=pool.policy.min_ready,
            given_up=pool.gave_up,
            zygote=pool.zygote.state.value,
            preloaded=pool.zygote.preloaded if pool.zygote.state is ZygoteState.READY else None,
            slots=tuple(
                self._slot_view(pool, slot) for slot in pool.slots if slot.index < pool.wanted or slot.index in held
            ),
            workers=tuple(
                f.WorkerView(w.id, w.pool, w.slot, w.generation, w.state.value, w.started_at, w.ready_at)
                for w in workers
            ),
        )

    def _slot_view(self, pool: Pool, slot: Slot) -> f.SlotView:
        waiting = slot.worker is None and slot.index < pool.wanted
        next_start = (pool.probe_at if slot.given_up else slot.next_start) if waiting else None
        return f.SlotView(
            slot.index,
            slot.worker,
            slot.row,
            slot.given_up,
            next_start if next_start is not None and next_start > self._now else None,
            slot.starts,
            slot.ends,
            slot.last_reason,
        )
