"""What becomes of a pool's zygote: absent, starting, ready, stopping, and what its end costs the pool.

One that ends before a worker of its was ready (it could not import the app, hung, or died at its first fork) is one
crash of the whole pool. One that had proved itself is rebuilt with back-off, and the slots are not blamed.
"""

from . import commands as c
from . import facts as f
from .moment import Moment
from .policy import backoff
from .pool import Pool, ZygoteState
from .restarts import count


def start(pool: Pool, moment: Moment) -> None:
    """There is none, and it is time to have one."""
    zygote = pool.zygote
    zygote.state, zygote.started_at, zygote.until = ZygoteState.STARTING, moment.now, pool.start_deadline(moment.now)
    zygote.ready_at, zygote.proved, zygote.overdue = None, False, False
    moment.commands.append(c.StartZygote(pool.name, pool.generation))
    moment.facts.append(f.ZygoteStarted(pool.name, pool.generation))


def stop(pool: Pool, moment: Moment, overdue: bool = False) -> None:
    """It is not wanted, or not to be trusted, any more."""
    zygote = pool.zygote
    if zygote.state in (ZygoteState.STARTING, ZygoteState.READY):
        zygote.state, zygote.until, zygote.overdue = ZygoteState.STOPPING, None, overdue
        moment.commands.append(c.StopZygote(pool.name, pool.generation))


def ready(pool: Pool, preloaded: bool, moment: Moment) -> None:
    """It can fork; unless it is being stopped, then its word comes too late."""
    zygote = pool.zygote
    if zygote.state is ZygoteState.STARTING:
        zygote.state, zygote.until, zygote.ready_at = ZygoteState.READY, None, moment.now
        zygote.had, zygote.preloaded = True, preloaded
        took = moment.now - zygote.started_at
        moment.facts.append(f.ZygoteIsReady(pool.name, pool.generation, preloaded, took))


def prove(pool: Pool, forked_at: float) -> None:
    """A worker that was asked for at ``forked_at`` is ready: whoever forked it is sound."""
    zygote = pool.zygote
    zygote.proved = zygote.proved or (zygote.ready_at is not None and forked_at >= zygote.ready_at)


def expire(pool: Pool, moment: Moment) -> None:
    """A start that is not answered is given up."""
    if pool.zygote.until is not None and pool.zygote.until <= moment.now:
        stop(pool, moment, overdue=True)


def postpone(pool: Pool, late: float, least: float) -> None:
    """The primary was late itself: a start that runs may take longer by so much, and is not over before ``least``."""
    if pool.zygote.until is not None:
        pool.zygote.until = max(pool.zygote.until + late, least)


def ended(pool: Pool, report: str, moment: Moment) -> None:
    """It has ended: by itself, or because it was stopped."""
    zygote = pool.zygote
    if zygote.state is ZygoteState.ABSENT:
        return
    by_itself = zygote.state is not ZygoteState.STOPPING
    zygote.state, zygote.until = ZygoteState.ABSENT, None
    if not pool.wanted or pool.halted:
        return  # as it should be
    policy = pool.policy.restart
    if zygote.overdue:
        report = f"it had not imported the app within {pool.policy.start_timeout:g}s\n{report}".rstrip()
    ready_for = None if zygote.ready_at is None else moment.now - zygote.ready_at
    # One that had to be stopped had lived for nothing, however long it hung in its fork.
    healthy = by_itself and ready_for is not None and ready_for >= policy.healthy_after
    zygote.row = 0 if healthy else zygote.row + 1
    delay = backoff(policy, zygote.row, pool.seed, pool.name, "zygote")
    zygote.next_start = moment.now + delay
    counted: list[f.Fact] = []
    if not zygote.proved:
        for slot in pool.wanted_slots:
            if slot.worker is None and not slot.given_up:
                counted += count(pool, slot, None, moment.now)
        pool.probe_at = max(pool.probe_at, zygote.started_at + policy.max_delay)
    if all(slot.given_up for slot in pool.wanted_slots):
        retry = max(0.0, pool.probe_at - moment.now) if pool.ever_ready else None
    else:
        retry = delay
    moment.facts += [
        f.ZygoteEnded(pool.name, pool.generation, ready_for is not None, report, retry, moment.now - zygote.started_at),
        *counted,
    ]
