"""The table of workers, and what an event, an order or the clock does to one of them.

The edges stand in :mod:`.lifecycle`; here is what they ask for: commands, facts, timers, and an end that counts.
"""

from collections.abc import Mapping

from . import commands as c
from . import events as e
from . import facts as f
from . import restarts, vitals, zygotes
from .converge import StartWorkerStep
from .lifecycle import LIVING, SPARE, UNBORN, Do, Input, State, Worker
from .moment import Moment
from .pool import Pool, Role, Slot, ZygoteState
from .reload import Reloads
from .shutdown import Shutdown

#: How long SIGKILL may take to show before nobody waits for it any longer (a process in uninterruptible sleep).
UNKILLABLE_AFTER = 5.0

#: How long the stacks of a worker that hangs may take. It serves nobody meanwhile, and its mail goes to others.
STACKS_WITHIN = 2.0

WorkerEvent = (
    e.Spawned
    | e.SpawnFailed
    | e.Online
    | e.BootFailed
    | e.Ready
    | e.Leaving
    | e.Exited
    | e.StacksTaken
    | e.Unwell
    | e.Recycle
    | e.MemoryKill
)


class Workers:
    """All workers that are not gone, by id.

    Args:
        pools: where they have their slots.
        shutdown: what dates a drain.
        reloads: what an end means where a generation is being tried out.
    """

    def __init__(self, pools: Mapping[str, Pool], shutdown: Shutdown, reloads: Reloads) -> None:
        self.table: dict[int, Worker] = {}
        self._pools = pools
        self._shutdown = shutdown
        self._reloads = reloads
        self._last_id = 0
        self._looked_at: float | None = None

    # -- events --------------------------------------------------------------------------------------------------

    def handle(self, event: WorkerEvent, moment: Moment) -> None:
        """Something happened to a worker. One that is gone is none of ours: the word comes late and is of no use."""
        worker = self.table.get(event.worker)
        if worker is None:
            return
        match event:
            case e.Spawned() | e.SpawnFailed():
                if worker.state in UNBORN:
                    self._answered(worker, event, moment)
            case e.Online() | e.BootFailed():
                if worker.state in LIVING:
                    self._spoke(worker, event, moment)
            case e.Ready():
                if worker.state is State.BOOTING:  # else a second word, or too late: it drains or is being killed
                    self._ready(worker, moment)
            case e.Leaving():
                if worker.state in (State.BOOTING, State.READY):  # else it was told to: closing its channel is how
                    self._leaves(worker, moment)
            case e.Exited():
                self._exited(worker, event, moment)
            case e.StacksTaken(_, report):
                if worker.state is State.HUNG:
                    moment.facts.append(f.StacksReported(worker.id, worker.pool, worker.slot, report))
                    self._step(worker, Input.STACKS_TAKEN, moment)
            case e.Unwell() | e.Recycle() | e.MemoryKill():
                self._complained_of(worker, event, moment)

    def _complained_of(self, worker: Worker, event: e.Unwell | e.Recycle | e.MemoryKill, moment: Moment) -> None:
        match event:
            case e.Unwell(_, why):
                self._hangs(worker, why, moment)
            case e.Recycle(_, why):
                self.recycle(worker, why, moment)
            case e.MemoryKill():
                if worker.state in LIVING:
                    self._kill(worker, f.KillReason.MEMORY, Input.KILL, moment)

    def _answered(self, worker: Worker, event: e.Spawned | e.SpawnFailed, moment: Moment) -> None:
        if isinstance(event, e.SpawnFailed):
            self._spawn_failed(worker, event, moment)
        else:
            moment.facts.append(f.WorkerSpawned(worker.id, worker.pool, worker.slot))
            self._step(worker, Input.SPAWNED, moment)

    def _spoke(self, worker: Worker, event: e.Online | e.BootFailed, moment: Moment) -> None:
        if isinstance(event, e.BootFailed):
            if worker.ready_at is None:
                worker.report = f"{event.stage}: {event.report}"
                fact = f.WorkerBootFailed(worker.id, worker.pool, worker.slot, event.stage, event.report)
                moment.facts.append(fact)
        elif not worker.online:
            worker.online = True
            moment.facts.append(f.WorkerOnline(worker.id, worker.pool, worker.slot))

    def look(self, event: e.Vitals, moment: Moment) -> None:
        """All were looked at: who hangs, who has done its work, and how a generation that is tried out fares."""
        listened = vitals.listened(self._looked_at, moment.now)
        self._looked_at = moment.now
        for vital in event.of:
            worker = self.table.get(vital.worker)
            if worker is not None and worker.state is State.READY:
                pool = self._pools[worker.pool]
                vitals.note(pool, worker, vital, listened)
                if (hang := vitals.hangs(pool, worker)) is not None:
                    self._hangs(worker, hang, moment)
                elif (why := vitals.worn(pool, worker)) is not None:
                    self.recycle(worker, why, moment)
        for pool in list(self._pools.values()):
            self._reloads.weigh(pool, moment)

    def _hangs(self, worker: Worker, why: str, moment: Moment) -> None:
        if worker.state is State.READY:
            worker.killed = f.KillReason.HANG
            moment.facts.append(f.WorkerHung(worker.id, worker.pool, worker.slot, why))
            self._step(worker, Input.HANG, moment)

    def _spawn_failed(self, worker: Worker, event: e.SpawnFailed, moment: Moment) -> None:
        self._step(worker, Input.SPAWN_FAILED, moment)
        pool = self._pools[worker.pool]
        zygote = pool.zygote_of(worker.generation)
        moment.facts.append(f.WorkerSpawnFailed(worker.id, worker.pool, worker.slot, event.report))
        if event.zygote_gone:
            zygotes.stop(pool, zygote, moment)  # nobody else is to be asked for from it
        if worker.asked is None and zygote.state is ZygoteState.READY:
            worker.report = event.report
            self._count_end(worker, "it could not be forked", moment)  # else it is the zygote's end that counts
        self._forget(worker)

    def _ready(self, worker: Worker, moment: Moment) -> None:
        self._step(worker, Input.READY, moment)
        pool = self._pools[worker.pool]
        worker.ready_at, worker.until = moment.now, None
        pool.ever_ready = True
        zygotes.prove(pool.zygote_of(worker.generation), worker.started_at)
        took, vacant = moment.now - worker.started_at, None
        slot = pool.slot_of(worker)
        if slot is not None:
            vacant = None if slot.vacant_since is None else moment.now - slot.vacant_since
            slot.vacant_since = None
            moment.commands.append(c.Admit(worker.id, worker.slot))
        moment.facts.append(f.WorkerReady(worker.id, worker.pool, worker.slot, worker.generation, took, vacant))
        self._reloads.ready(pool, worker, moment)

    def _leaves(self, worker: Worker, moment: Moment) -> None:
        worker.left = True
        # It is counted now and not at its exit, so that its successor need not wait for a long drain.
        self._count_end(worker, "it left by its own will", moment)
        self._step(worker, Input.LEAVING, moment)

    def _exited(self, worker: Worker, event: e.Exited, moment: Moment) -> None:
        self._step(worker, Input.EXITED, moment)
        now, slot = moment.now, self._pools[worker.pool].slot_of(worker)
        reason = worker.exit_reason(event.code, event.oom)
        if slot is not None:
            slot.ends += 1
            slot.last_reason = reason
        moment.facts.append(
            f.WorkerExited(
                worker=worker.id,
                pool=worker.pool,
                slot=worker.slot,
                generation=worker.generation,
                code=event.code,
                signal=event.signal,
                reason=reason,
                asked=worker.asked is not None,
                uptime=now - worker.started_at,
                ready_for=None if worker.ready_at is None else now - worker.ready_at,
                drained=None if worker.drained_at is None else now - worker.drained_at,
            )
        )
        if worker.asked is None:
            self._count_end(worker, _how(reason, event), moment)
        self._forget(worker)

    def _count_end(self, worker: Worker, how: str, moment: Moment) -> None:
        """An unasked end: its place is vacant from now on, so that a second word of it counts for nothing.

        Args:
            how: in a few words.
        """
        pool = self._pools[worker.pool]
        slot, role = pool.slot_of(worker), pool.role(worker)
        ready_for = None if worker.ready_at is None else moment.now - worker.ready_at
        tried_out = pool.tries_out(worker.generation)
        pool.vacate(worker)
        if slot is not None and role is Role.SUCCESSOR and slot.worker is None and not tried_out:
            role = Role.HOLDER  # who held the slot has ended before: its place is the one that is vacant now
        counts = slot is not None and slot.index < pool.wanted and not tried_out
        if role is Role.HOLDER and slot is not None:
            if ready_for is not None:
                slot.vacant_since = moment.now
            if counts:
                moment.facts += restarts.count(pool, slot, ready_for, moment.now)
        elif role is Role.SUCCESSOR and slot is not None and counts:
            moment.facts += restarts.count_successor(pool, slot, moment.now)
        elif role is Role.SPARE:
            moment.facts += restarts.count_spare(pool, ready_for, moment.now)
        if tried_out:
            when = "before it was ready" if ready_for is None else f"{ready_for:.1f} s after it was ready"
            self._reloads.failed(pool, f"the new code's worker {worker.id} ended {when}: {how}", worker.report, moment)

    def _forget(self, worker: Worker) -> None:
        self._pools[worker.pool].vacate(worker)
        del self.table[worker.id]

    # -- orders --------------------------------------------------------------------------------------------------

    def spawn(self, pool: Pool, step: StartWorkerStep, moment: Moment) -> None:
        """Have a new worker forked."""
        self._last_id += 1
        now, slot, generation = moment.now, step.slot, step.generation
        place = SPARE if slot is None else slot.index
        until = pool.start_deadline(generation, now)
        worker = Worker(self._last_id, pool.name, place, generation, now, until=until)
        self.table[worker.id] = worker
        if slot is None:
            pool.spares.append(worker.id)
        else:
            slot.starts += 1
            if step.successor:
                slot.successor = worker.id
            else:
                slot.worker = worker.id
        if step.successor and pool.candidate is not None and not pool.candidate.rolling:
            pool.candidate.canary = worker.id
        if step.probe:
            pool.probe = worker.id
            pool.probe_at = now + pool.policy.restart.max_delay
        moment.commands.append(c.Spawn(worker.id, worker.pool, worker.slot, worker.generation))
        moment.facts.append(f.WorkerStarting(worker.id, worker.pool, worker.slot, worker.generation, step.probe))

    def admit(self, pool: Pool, id_: int, slot: Slot, moment: Moment) -> None:
        """A spare takes a vacant slot. The start that the slot was owed, with its delay, is the next spare's."""
        worker = self.table[id_]
        pool.vacate(worker)
        worker.slot, slot.worker = slot.index, id_
        pool.spare_start = max(pool.spare_start, slot.next_start)
        vacant = None if slot.vacant_since is None else moment.now - slot.vacant_since
        slot.next_start, slot.vacant_since = float("-inf"), None
        moment.commands.append(c.Admit(id_, slot.index))
        moment.facts.append(f.SpareAdmitted(id_, pool.name, slot.index, vacant))

    def succeed(self, slot: Slot, reason: f.ExitReason, moment: Moment) -> None:
        """The slot's successor takes it, and who held it is to leave."""
        leaving, slot.worker, slot.successor = slot.worker, slot.successor, None
        slot.tries, slot.next_try = 0, float("-inf")
        if leaving is not None:
            self.drain(leaving, reason, moment)

    def recycle(self, worker: Worker, why: str, moment: Moment) -> None:
        """The worker is to be replaced, for a reason of its own."""
        if worker.recycle is None and worker.state is State.READY:
            worker.recycle = why
            moment.facts.append(f.WorkerRecycled(worker.id, worker.pool, worker.slot, why))

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
        times: list[float | None] = []
        for worker in self.table.values():
            pool = self._pools[worker.pool]
            times += [worker.until, restarts.credit_at(pool, worker), vitals.old_at(pool, worker)]
        return times

    def expire(self, moment: Moment) -> None:
        """Those whose time is up; and those that have been ready long enough to undo something."""
        for worker in self.table.values():
            pool = self._pools[worker.pool]
            credit_at, old_at = restarts.credit_at(pool, worker), vitals.old_at(pool, worker)
            if worker.until is not None and worker.until <= moment.now:
                reason = f.KillReason.START_TIMEOUT
                if worker.drained_at is not None:
                    reason = f.KillReason.DRAIN_TIMEOUT
                self._kill(worker, reason, Input.TIMEOUT, moment)
            elif credit_at is not None and credit_at <= moment.now:
                moment.facts += restarts.credit(pool, worker, moment.now)
            elif old_at is not None and old_at <= moment.now:
                self.recycle(worker, "max_age", moment)

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
                pool = self._pools[worker.pool]
                zygotes.stop(pool, pool.zygote_of(worker.generation), moment)
            case Do.TAKE_STACKS:
                worker.until = moment.now + STACKS_WITHIN
                moment.commands.append(c.TakeStacks(worker.id))
            case Do.ABANDON:
                worker.until, worker.abandoned = None, True
                if worker.asked is None:
                    self._count_end(worker, "SIGKILL did not end it", moment)
            case Do.NOTHING:
                pass


def _how(reason: f.ExitReason, event: e.Exited) -> str:
    """An end in a few words, for a verdict."""
    if reason is f.ExitReason.HUNG:
        return "it did not answer"
    if reason is f.ExitReason.OOM:
        return "memory ran out"
    return f"signal {event.signal}" if event.signal is not None else f"exit code {event.code}"
