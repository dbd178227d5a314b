"""A world that is watched over time: besides the laws of single moments (``tests/laws.py``), those of starts and hangs.

* Nobody is started before its time: a delay that was announced is kept, also by the spare that takes its slot over.
* Starts a minute are bounded in any pattern of crashes, per slot.
* A pool that has given up has one process at a time try.
* A generation rolls when the canaries of all its pools have been ready for their time.
* Nobody is taken to hang whose loop was seen to turn within the time.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection
from math import ceil, log2

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.facts import ExitReason
from clusterd.core.lifecycle import SPARE
from clusterd.core.policy import OnGiveUp, PoolPolicy, RestartPolicy
from clusterd.core.vitals import LISTENED
from tests import laws
from tests.world import World, pool_policy

Place = tuple[str, int, str]
"""Pool, slot, and the role of who is started for it."""


def pool(name: str, workers: int, **numbers: object) -> PoolPolicy:
    """A pool with delays so short that a history of forty steps can see them all."""
    given = {"min_ready": min(workers, 2), "start_timeout": 10.0, "healthy_after": 5.0, "give_up_after": 3, **numbers}
    return pool_policy(name, workers, initial_delay=0.5, max_delay=4.0, **given)  # type: ignore[arg-type]


def most_starts(policy: RestartPolicy) -> int:
    """How often a slot may be started in a minute, whatever its workers do.

    A row begins anew only when a worker has been healthy. It has a first start at once and then its doublings; what
    follows is ``max_delay`` apart, as are the probes of a pool that has given up, and the release that one brings.
    """
    rows = 60.0 / policy.healthy_after + 1
    return ceil(rows * (2 + ceil(log2(policy.max_delay / policy.initial_delay))) + 3 * (60.0 / policy.max_delay + 1))


class Watched(World):
    """See the module."""

    due: dict[Place, float]
    starts: defaultdict[Place, deque[float]]
    watched_until: dict[str, float]
    """When the canary of each pool will have proved itself."""
    turns: dict[int, tuple[int, int]]
    """What each worker's beat was in the last look, and for how many looks it has been the same."""

    def look(
        self,
        silent: Collection[int] = (),
        error_share: Callable[[int], float] = lambda generation: 0.0,
        rate: int = 20,
    ) -> None:
        """All are looked at; the loops of ``silent`` did not turn, ``error_share`` is by generation."""
        vitals = []
        for process in self.processes.values():
            if not (process.alive and process.spoken):
                continue
            if process.worker not in silent:
                process.beat += 1
                process.responses += rate
            errors = int(process.responses * error_share(process.generation))
            vitals.append(e.Vital(process.worker, process.beat, process.responses, errors))
        self.give(e.Vitals(tuple(vitals)))

    def check(self, event: e.Event) -> None:
        super().check(event)
        self.due = getattr(self, "due", {})
        self.starts = getattr(self, "starts", defaultdict(deque))
        before = {pool.name: pool for pool in self.before.pools}
        after = {pool.name: pool for pool in self.after.pools}
        self._check_hangs(event)
        for name, now in after.items():
            self._forget_what_is_over(before.get(name), now)
        self.watched_until = getattr(self, "watched_until", {})
        for fact in self.facts:
            match fact:
                case f.ReloadBegan():
                    self.watched_until = {}
                case f.CanaryBegan(name, _, _, watched_for):
                    self.watched_until[name] = self.now + watched_for
                case f.RollBegan(generation):
                    tried = [
                        one
                        for one in after.values()
                        if generation in (one.candidate, one.generation) and not self._empty(before.get(one.name), one)
                    ]
                    for one in tried:
                        assert self.now >= self.watched_until[one.name], "it rolls before its canary's time is over"
                case f.RestartScheduled(name, slot, delay, row, at):
                    restart = self.policies[name].restart
                    assert delay <= 1.2 * restart.max_delay
                    assert row == 0 or delay >= min(restart.initial_delay * 2 ** (row - 1), restart.max_delay)
                    self.due[name, slot, _for_whom(before[name], after[name], slot)] = at
                case f.SlotGaveUp(name, slot):
                    self.due.pop((name, slot, "holder"), None)
                case f.SpareAdmitted(_, name, slot):
                    owed = self.due.pop((name, slot, "holder"), 0.0)
                    spare = name, SPARE, "spare"
                    self.due[spare] = max(self.due.get(spare, 0.0), owed)
                case f.PoolStarted(name) | f.PoolRecovered(name) | f.PoolRemoved(name):
                    self._forget(name)
                case f.Scaled(name, wanted, was):
                    self._forget(name, beyond=min(wanted, was))
                case f.SlotReleased(name, slot):
                    for role in ("holder", "successor"):
                        self.due.pop((name, slot, role), None)
                        self.starts.pop((name, slot, role), None)
        for command in self.commands:
            if isinstance(command, c.Spawn):
                self._check_start(command, before.get(command.pool), after[command.pool])

    def _check_hangs(self, event: e.Event) -> None:
        self.turns = getattr(self, "turns", {})
        if isinstance(event, e.Vitals):
            seen = {}
            for vital in event.of:
                beat, looks = self.turns.get(vital.worker, (-1, 0))
                seen[vital.worker] = (vital.beat, looks + 1 if beat == vital.beat else 0)
            self.turns = seen
            for fact in self.facts:
                if isinstance(fact, f.WorkerHung):
                    timeout = min(policy.heartbeat_timeout for policy in self._policies(fact.pool))
                    _, looks = self.turns[fact.worker]
                    assert looks * LISTENED >= timeout, "taken to hang though its loop had turned"
        for fact in self.facts:
            if isinstance(fact, f.WorkerExited) and fact.reason is ExitReason.HUNG:
                assert fact.ready_for is not None, "one that never was ready cannot hang"

    def _empty(self, was: f.PoolView | None, now: f.PoolView) -> bool:
        """It is to have no workers, or was not when it rolled: every slot was held, after what was just ordered."""
        if was is None or not now.wanted:
            return not now.wanted
        held, wanted = {slot.index for slot in was.slots if slot.held}, was.wanted
        for fact in self.facts:
            match fact:
                case f.SlotHeld(was.name, slot):
                    held.add(slot)
                case f.Scaled(was.name, scaled, _):
                    wanted = scaled
        return held >= set(range(wanted))

    def _policies(self, name: str) -> list[PoolPolicy]:
        return [one for view in self.before.pools if view.name == name for one in self.may_go_by(view)]

    def _forget(self, name: str, beyond: int = SPARE) -> None:
        """What slots have been through is no guide any more."""
        for place in [place for place in {*self.due, *self.starts} if place[0] == name and place[1] >= beyond]:
            self.due.pop(place, None)
            self.starts.pop(place, None)

    def _forget_what_is_over(self, before: f.PoolView | None, after: f.PoolView) -> None:
        """New code does not wait for what the old one has been through, nor one successor for those before the last."""
        if before is None or before.generation != after.generation:
            self._forget(after.name)
            return
        holders = {slot.index: slot.worker for slot in before.slots}
        for slot in after.slots:
            if slot.worker is not None and holders.get(slot.index) != slot.worker:
                self.due.pop((after.name, slot.index, "successor"), None)

    def _check_start(self, spawn: c.Spawn, before: f.PoolView | None, after: f.PoolView) -> None:
        if spawn.generation != after.generation:
            return  # the successors of a reload, and what they leave vacant: it ends with its first failure
        (role,) = [worker.role for worker in after.workers if worker.id == spawn.worker]
        place = spawn.pool, spawn.slot, role
        assert self.now >= self.due.get(place, 0.0), "started before its time"
        starts = self.starts[place]
        starts.append(self.now)
        while starts[0] < self.now - 60.0:
            starts.popleft()
        if role == "holder":
            assert len(starts) <= most_starts(self.policies[spawn.pool].restart), "too many starts in a minute"
        if before is not None and before.given_up and after.given_up and after.candidate is None:
            trying = [  # what a reload that failed has left serves on, and tries nothing
                worker
                for worker in after.workers
                if worker.role == "holder" and worker.state in laws.WANTED and worker.generation == after.generation
            ]
            assert len(trying) <= 1, "a pool that has given up tries with more than one"


def _for_whom(before: f.PoolView, after: f.PoolView, slot: int) -> str:
    """Whose end a delay follows: the holder's, unless that is still there."""
    if slot == SPARE:
        return "spare"
    held = [one.worker for pool in (before, after) for one in pool.slots if one.index == slot]
    return "successor" if len(held) == 2 and held[0] == held[1] is not None else "holder"


def behave(world: World) -> None:
    """The next thing that happens in a world that behaves: whatever can, and the clock when nothing else can."""
    options = [option for option in world.options() if option.kind in ("good", "owed")]
    # A worker that was told to drain ends only when nothing else is to be done, and it is never the clock's turn first.
    for option in options:
        if option.name != "tick":
            option.act()
            return
    if options:
        options[0].act()


def down_for_good(world: World) -> bool:
    """What is not ready has given up and stays down, as its policy wants."""
    view = world.supervisor.view()
    down = [
        pool for pool in view.pools if pool.given_up and world.policies[pool.name].restart.on_give_up is OnGiveUp.STOP
    ]
    whole = all(
        pool in down or pool.ready == pool.wanted - sum(slot.held for slot in pool.slots) for pool in view.pools
    )
    return bool(down) and view.reload is None and whole


def end(world: World) -> None:
    """An operator stops it, and nobody does anything but what is owed: it ends by its deadline all the same."""
    stop, began = world.policy.stop, world.now
    world.give(e.Stop())
    while not world.ended():
        next(option for option in world.options() if option.kind == "owed").act()
    unkillable = 5.0
    assert world.now - began <= stop.lame_duck + stop.linger + stop.drain_timeout + unkillable
