"""How a generation follows another: tried out, then promoted or rolled back. A verdict for every reload.

In each pool the new generation first gets a zygote, then one worker, the *canary*, beside the first slot's holder. When
the canaries of all pools have been ready for their time the generation *rolls*: slot by slot a successor becomes ready
and the holder drains (:mod:`.converge`). When every slot has a ready worker of it, it is promoted. Whatever happens to
one of its workers or zygotes before is held against it: it is rolled back, in all pools, and what it had replaced is
forked anew from the old zygotes, which stay until the verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from . import commands as c
from . import events as e
from . import facts as f
from .facts import Verdict
from .lifecycle import Worker
from .moment import Moment
from .policy import ServicePolicy
from .pool import Candidate, Pool, Tally, ZygoteState, is_ready
from .shutdown import Phase, Shutdown

ENOUGH: Final = 20
"""Responses from which on a share of errors says something."""

WORSE: Final = 0.05
"""By how much the share of the new generation's errors may exceed the old one's."""

WATCHED: Final = 1.0
"""Seconds between two looks at the clock, at most, while a canary is watched."""


@dataclass(slots=True)
class Reload:
    """One that is under way. Times in seconds on the core's clock."""

    generation: int
    policy: ServicePolicy
    pools: tuple[str, ...]
    began: float
    rolling: bool = False


class Reloads:
    """The reload that is under way, if one is.

    Args:
        pools: all pools by name; a reload adds to them, and takes away.
        shutdown: a service that ends is not reloaded.
        seed: see :class:`~clusterd.core.supervisor.Supervisor`.
    """

    def __init__(self, pools: dict[str, Pool], shutdown: Shutdown, seed: str) -> None:
        self.current: Reload | None = None
        self._pools = pools
        self._shutdown = shutdown
        self._seed = seed
        self._settling = 0

    # -- events --------------------------------------------------------------------------------------------------

    def begin(self, event: e.Reload, moment: Moment) -> None:
        """Try out a generation; one that is being tried out is given up for it."""
        if self._shutdown.phase is not Phase.RUNNING:
            self._say(None, Verdict.REFUSED, "the service is ending", "", 0.0, moment)
            moment.commands.append(c.Settle(event.generation, promoted=False))
            return
        self._give_up(Verdict.SUPERSEDED, "another reload was asked for", "", moment)
        policies = {policy.name: policy for policy in event.policy.pools}
        for name, policy in policies.items():
            pool = self._pools.get(name) or Pool(policy, self._seed, generation=0)
            if name not in self._pools or (not pool.wanted and pool.stopped is None):  # new, or not quite gone yet
                pool.generation = 0
                pool.resize(policy.workers)
            self._pools[name], pool.leaving = pool, False
            if name in event.pools or not pool.generation:
                pool.candidate = Candidate(policy, event.generation)
        tried = tuple(name for name, pool in self._pools.items() if pool.candidate is not None)
        self.current = Reload(event.generation, event.policy, tried, moment.now)
        moment.facts.append(f.ReloadBegan(event.generation, tried))

    def refused(self, event: e.ReloadRefused, moment: Moment) -> None:
        """It could not even be tried."""
        self._say(None, Verdict.REFUSED, event.reason, event.report, 0.0, moment)

    def failed(self, pool: Pool, reason: str, report: str, moment: Moment) -> None:
        """Something that is held against the generation that is tried out."""
        self._give_up(Verdict.ROLLED_BACK, f"pool {pool.name}: {reason}", report, moment)

    def stopped(self, moment: Moment) -> None:
        """The service is to end: that wins."""
        self._give_up(Verdict.STOPPED, "the service was asked to stop", "", moment)

    def settled(self, event: e.Settled) -> None:
        """The shell has done with what only the old generation had: the last old workers may go."""
        if event.generation == self._settling:
            for pool in self._pools.values():
                pool.settling = False
                if pool.leaving:
                    pool.resize(0)

    def ready(self, pool: Pool, worker: Worker, moment: Moment) -> None:
        """A worker is ready; the first of its generation is watched from now on."""
        candidate = pool.candidate
        if candidate is not None and candidate.canary == worker.id:
            watched = candidate.policy.reload.canary
            candidate.until, candidate.new, candidate.old = moment.now + watched, Tally(), Tally()
            moment.facts.append(f.CanaryBegan(pool.name, worker.id, worker.generation, watched))

    def weigh(self, pool: Pool, moment: Moment) -> None:
        """Responses have been counted: are those of the new generation worse?"""
        candidate = pool.candidate
        if candidate is None or candidate.new.responses < ENOUGH:
            return
        old = candidate.old if candidate.old.responses >= ENOUGH else pool.tally
        if candidate.new.share > old.share + WORSE:
            reason = (
                f"{candidate.new.share:.0%} of {candidate.new.responses} responses of the new code were errors (5xx),"
                f" against {old.share:.0%} of the old code's"
            )
            self.failed(pool, reason, "", moment)

    # -- levels --------------------------------------------------------------------------------------------------

    def proceed(self, workers: Mapping[int, Worker], moment: Moment) -> None:
        """Go on to the stage that is due; look for what is over."""
        reload = self.current
        if reload is not None:
            tried = [pool for pool in self._pools.values() if pool.candidate is not None]
            if not reload.rolling and all(_proved(pool, workers, moment.now) for pool in tried):
                reload.rolling = True
                for pool in tried:
                    assert pool.candidate is not None
                    pool.candidate.rolling = True
                moment.facts.append(f.RollBegan(reload.generation))
            if reload.rolling and all(_complete(pool, workers) for pool in tried):
                self._promote(reload, moment)
        for pool in list(self._pools.values()):
            if not pool.wanted and pool.on_its_way_out:
                living = any(worker.pool == pool.name for worker in workers.values())
                if not living and all(zygote.state is ZygoteState.ABSENT for zygote in pool.zygotes.values()):
                    del self._pools[pool.name]
                    moment.facts.append(f.PoolRemoved(pool.name))

    def deadlines(self, now: float) -> list[float]:
        """When :meth:`proceed` may find something that it does not find now.

        While a canary is watched the clock is looked at once a second, or a primary that slept would not know for how
        long it did not watch: how late it is is measured from the time at which it should have looked.
        """
        candidates = [pool.candidate for pool in self._pools.values() if pool.candidate is not None]
        return [
            min(one.until, now + WATCHED)
            for one in candidates
            if one.until is not None and one.until > now and not one.rolling
        ]

    def postpone(self, late: float, least: float) -> None:
        """The primary was late itself: a canary was not watched meanwhile, and is watched for so much longer."""
        for pool in self._pools.values():
            if pool.candidate is not None and pool.candidate.until is not None:
                pool.candidate.until = max(pool.candidate.until + late, least)

    def view(self) -> f.ReloadView | None:
        """The reload under way."""
        if self.current is None:
            return None
        candidates = [self._pools[name].candidate for name in self.current.pools]
        times = [one.until for one in candidates if one is not None and one.until is not None]
        stage = "rolling" if self.current.rolling else "canary" if times else "importing"
        until = max(times) if stage == "canary" else None
        return f.ReloadView(self.current.generation, self.current.pools, self.current.began, stage, until)

    # -- verdicts ------------------------------------------------------------------------------------------------

    def _promote(self, reload: Reload, moment: Moment) -> None:
        self.current = None
        self._settling = reload.generation
        self._shutdown.policy = reload.policy.stop
        staying = {policy.name for policy in reload.policy.pools}
        for name, pool in self._pools.items():
            candidate, pool.candidate = pool.candidate, None
            pool.settling, pool.leaving = True, name not in staying
            if candidate is None:
                continue
            if pool.gave_up:
                moment.facts.append(f.PoolRecovered(pool.name))
            before, pool.policy = pool.policy, candidate.policy
            pool.generation, pool.tally = candidate.generation, candidate.new
            pool.gave_up = pool.halted = False
            pool.probe, pool.spare_row, pool.spare_start = None, 0, float("-inf")
            for slot in pool.slots:
                slot.renew()
            if before.workers != pool.policy.workers:  # else a number that an operator has chosen is kept
                if pool.stopped is None:
                    pool.resize(pool.policy.workers)
                else:
                    pool.stopped = pool.policy.workers
        moment.commands.append(c.Settle(reload.generation, promoted=True))
        reason = "every worker of it is ready"
        self._say(reload.generation, Verdict.PROMOTED, reason, "", moment.now - reload.began, moment)

    def _give_up(self, verdict: Verdict, reason: str, report: str, moment: Moment) -> None:
        reload, self.current = self.current, None
        if reload is None:
            return
        for pool in self._pools.values():
            pool.candidate = None
            zygote = pool.zygotes.get(reload.generation)
            if zygote is not None and zygote.state is ZygoteState.ABSENT:
                del pool.zygotes[reload.generation]
            if not pool.generation:
                pool.resize(0)
        moment.commands.append(c.Settle(reload.generation, promoted=False))
        self._say(reload.generation, verdict, reason, report, moment.now - reload.began, moment)

    def _say(
        self, generation: int | None, verdict: Verdict, reason: str, report: str, took: float, moment: Moment
    ) -> None:
        moment.facts.append(f.ReloadEnded(generation, verdict, reason, report, took))


def _proved(pool: Pool, workers: Mapping[int, Worker], now: float) -> bool:
    """Its canary has stayed well for its time, or it is to have no workers at all."""
    candidate = pool.candidate
    assert candidate is not None
    watched = candidate.until is not None and candidate.until <= now and is_ready(candidate.canary, workers)
    return watched or not pool.open_slots


def _complete(pool: Pool, workers: Mapping[int, Worker]) -> bool:
    """Every slot that is to have a worker has a ready one of the generation that is tried out."""
    candidate = pool.candidate
    assert candidate is not None
    return all(
        any(
            id_ is not None and is_ready(id_, workers) and workers[id_].generation == candidate.generation
            for id_ in (slot.worker, slot.successor)
        )
        for slot in pool.open_slots
    )
