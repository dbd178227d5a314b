"""The table of workers, and what an event, an order or the clock does to one of them.

The edges stand in :mod:`.lifecycle`; here is what they ask for: commands, facts, timers, and an end that counts.
"""

from collections.abc import Mapping

from . import commands as c
from . import events as e
from . import facts as f
from . import restarts, zygotes
from .lifecycle import LIVING, UNBORN, Do, Input, State, Worker
from .moment import Moment
from .pool import Pool, Slot, ZygoteState
from .shutdown import Shutdown

#: How long SIGKILL may take to show before nobody waits for it any longer (a process in uninterruptible sleep).
UNKILLABLE_AFTER = 5.0

WorkerEvent = e.Spawned | e.SpawnFailed | e.Online | e.BootFailed | e.Ready | e.Leaving | e.Exited


class Workers:
    """All workers that are not gone, by id.

    Args:
        pools: where they have their slots.
        shutdown: what dates a drain.
    """

    def __init__(self, pools: Mapping[str, Pool], shutdown: Shutdown) -> None:
        self.table: dict[int, Worker] = {}
        self._pools = pools
        self._shutdown = shutdown
        self._last_id = 0

    # -- events --------------------------------------------------------------------------------------------------

    def handle(self, event: WorkerEvent, moment: Moment) -> None:
        """Something happened to a worker. One that is gone is none of ours: the word comes late and is of no use."""
        worker = self.table.get(event.worker)
        if worker is None:
            return
        match event:
            case e.Spawned():
                if worker.state in UNBORN:
                    moment.facts.append(f.WorkerSpawned(worker.id, worker.pool, worker.slot))
                    self._step(worker, Input.SPAWNED, moment)
            case e.SpawnFailed():
                if worker.state in UNBORN:
                    self._spawn_failed(worker, event, moment)
            case e.Online():
                if worker.state in LIVING and not worker.online:
                    worker.online = True
                    moment.facts.append(f.WorkerOnline(worker.id, worker.pool, worker.slot))
            case e.BootFailed(_, stage, report):
                if worker.state in LIVING and worker.ready_at is None:
                    moment.facts.append(f.WorkerBootFailed(worker.id, worker.pool, worker.slot, stage, report))
            case e.Ready():
                if worker.state is State.BOOTING:  # else a second word, or too late: it drains or is being killed
                    self._ready(worker, moment)
            case e.Leaving():
                if worker.state in (State.BOOTING, State.READY):  # else it was told to: closing its channel is how
                    self._leaves(worker, moment)
            case e.Exited():
                self._exited(worker, event, moment)

    def _spawn_failed(self, worker: Worker, event: e.SpawnFailed, moment: Moment) -> None:
        self._step(worker, Input.SPAWN_FAILED, moment)
        pool = self._pools[worker.pool]
        moment.facts.append(f.WorkerSpawnFailed(worker.id, worker.pool, worker.slot, event.report))
        if event.zygote_gone:
            zygotes.stop(pool, moment)  # nobody else is to be asked for from it
        if worker.asked is None and pool.zygote.state is ZygoteState.READY:
            self._count_end(worker, moment)  # else it is the zygote's end that counts
        self._forget(worker)

    def _ready(self, worker: Worker, moment: Moment) -> None:
        self._step(worker, Input.READY, moment)
        pool, slot = self._place(worker)
        worker.ready_at, worker.until = moment.now, None
        pool.ever_ready = True
        zygotes.prove(pool, worker.started_at)
        took = moment.now - worker.started_at
        vacant = None if slot.vacant_since is None else moment.now - slot.vacant_since
        slot.vacant_since = None
        moment.facts.append(f.WorkerReady(worker.id, worker.pool, worker.slot, worker.generation, took, vacant))

    def _leaves(self, worker: Worker, moment: Moment) -> None:
        worker.left = True
        # It is counted now and not at its exit, so that its successor need not wait for a long drain.
        self._count_end(worker, moment)
        self._step(worker, Input.LEAVING, moment)

    def _exited(self, worker: Worker, event: e.Exited, moment: Moment) -> None:
        self._step(worker, Input.EXITED, moment)
        now, slot = moment.now, self._place(worker)[1]
        slot.ends += 1
        slot.last_reason = worker.exit_reason(event.code)
        moment.facts.append(
            f.WorkerExited(
                worker=worker.id,
                pool=worker.pool,
                slot=worker.slot,
                generation=worker.generation,
                code=event.code,
                signal=event.signal,
                reason=slot.last_reason,
                asked=worker.asked is not None,
                uptime=now - worker.started_at,
                ready_for=None if worker.ready_at is None else now - worker.ready_at,
                drained=None if worker.drained_at is None else now - worker.drained_at,
            )
        )
        if worker.asked is None:
            self._count_end(worker, moment)
        self._forget(worker)

    def _count_end(self, worker: Worker, moment: Moment) -> None:
        """An unasked end, once: its slot is vacant from now on."""
        if worker.counted:
            return
        worker.counted = True
        pool, slot = self._place(worker)
        pool.vacate(worker)
        ready_for = None if worker.ready_at is None else moment.now - worker.ready_at
        if ready_for is not None:
            slot.vacant_since = moment.now
        moment.facts += restarts.count(pool, slot, ready_for, moment.now)

    def _forget(self, worker: Worker) -> None:
        self._pools[worker.pool].vacate(worker)
        del self.table[worker.id]

    # -- orders --------------------------------------------------------------------------------------------------

    def spawn(self, pool: Pool, slot: Slot, probe: bool, moment: Moment) -> None:
        """Have a new worker forked for the slot."""
        self._last_id += 1
        now = moment.now
        worker = Worker(self._last_id, pool.name, slot.index, pool.generation, now, until=pool.start_deadline(now))
        self.table[worker.id] = worker
        slot.worker = worker.id
        slot.starts += 1
        if probe:
            pool.probe = worker.id
            pool.probe_at = now + pool.policy.restart.max_delay
        moment.commands.append(c.Spawn(worker.id, worker.pool, worker.slot, worker.generation))
        moment.facts.append(f.WorkerStarting(worker.id, worker.pool, worker.slot, worker.generation, probe))

    def drain(self, id_: int, reason: f.ExitReason, moment: Moment) -> None:
        """The worker is to leave: it gives up its slot at once, and its process when it has finished."""
        worker = self.table[id_]
        self._pools[worker.pool].vacate(worker)
        worker.asked = worker.asked or reason
        self._step(worker, Input.DRAIN, moment)

    def kill_all(self, moment: Moment) -> None:
        """The service ends by force."""
        for worker in self.table.values():
            worker.asked = worker.asked or f.ExitReason.STOP
            self._kill(worker, f.KillReason.STOP_NOW, Input.KILL, moment)

    # -- time ----------------------------------------------------------------------------------------------------

    def deadlines(self) -> list[float | None]:
        """When :meth:`expire` has something to do, for each worker; ``None`` for never."""
        return [time for w in self.table.values() for time in (w.until, restarts.credit_at(self._pools[w.pool], w))]

    def expire(self, moment: Moment) -> None:
        """Those whose time is up; and those that have been ready long enough to undo something."""
        for worker in self.table.values():
            pool = self._pools[worker.pool]
            credit_at = restarts.credit_at(pool, worker)
            if worker.until is not None and worker.until <= moment.now:
                draining = worker.drained_at is not None
                reason = f.KillReason.DRAIN_TIMEOUT if draining else f.KillReason.START_TIMEOUT
                self._kill(worker, reason, Input.TIMEOUT, moment)
            elif credit_at is not None and credit_at <= moment.now:
                moment.facts += restarts.credit(pool, worker, moment.now)

    def postpone(self, late: float, least: float) -> None:
        """The primary was late itself: running timers end later by so much, and not before ``least``."""
        for worker in self.table.values():
            if worker.until is not None:
                worker.until = max(worker.until + late, least)

    # -- edges ---------------------------------------------------------------------------------------------------

    def _kill(self, worker: Worker, reason: f.KillReason, what: Input, moment: Moment) -> None:
        worker.killed = worker.killed or reason
        self._step(worker, what, moment)

    def _step(self, worker: Worker, what: Input, moment: Moment) -> None:
        """One edge, and what it asks for."""
        match worker.step(what):
            case Do.CANCEL:
                # Nobody can drain a fork that is not known yet; if it stays unknown, its zygote hangs.
                times = (worker.until, self._shutdown.drain_by(moment.now))
                worker.until = min((time for time in times if time is not None), default=None)
            case Do.DRAIN:
                worker.drained_at, worker.until = moment.now, self._shutdown.drain_by(moment.now)
                within = None if worker.until is None else max(0.0, worker.until - moment.now)
                reason = worker.asked or f.ExitReason.VOLUNTARY
                moment.commands.append(c.Drain(worker.id, within))
                moment.facts.append(f.WorkerDraining(worker.id, worker.pool, worker.slot, reason, within))
            case Do.KILL:
                worker.until = moment.now + UNKILLABLE_AFTER
                worker.killed = worker.killed or f.KillReason.STOP_NOW
                moment.commands.append(c.Kill(worker.id))
                moment.facts.append(f.WorkerKilled(worker.id, worker.pool, worker.slot, worker.killed))
            case Do.STOP_ZYGOTE:
                worker.until = None
                zygotes.stop(self._pools[worker.pool], moment)
            case Do.ABANDON:
                worker.until, worker.abandoned = None, True
                if worker.asked is None:
                    self._count_end(worker, moment)
            case Do.NOTHING:
                pass

    def _place(self, worker: Worker) -> tuple[Pool, Slot]:
        pool = self._pools[worker.pool]
        return pool, pool.slots[worker.slot]
