"""What becomes of a pool's zygote: absent, starting, ready, stopping, and what its end costs the pool.

One that ends before a worker of its was ready (it could not import the app, hung, or died at its first fork) is one
crash of the whole pool. One that had proved itself is rebuilt with back-off, and the slots are not blamed. One of a
generation that is being tried out is the reload's affair.
"""

from . import commands as c
from . import facts as f
from .moment import Moment
from .policy import backoff
from .pool import Pool, Zygote, ZygoteState
from .restarts import count


def start(pool: Pool, zygote: Zygote, moment: Moment) -> None:
    """There is none, and it is time to have one."""
    zygote.state, zygote.started_at = ZygoteState.STARTING, moment.now
    zygote.until = pool.start_deadline(zygote.generation, moment.now)
    zygote.ready_at, zygote.proved, zygote.overdue = None, False, False
    zygote.reborn = pool.candidate is not None and not pool.tries_out(zygote.generation)
    moment.commands.append(c.StartZygote(pool.name, zygote.generation))
    moment.facts.append(f.ZygoteStarted(pool.name, zygote.generation))


def stop(pool: Pool, zygote: Zygote, moment: Moment, overdue: bool = False) -> None:
    """It is not wanted, or not to be trusted, any more."""
    if zygote.state in (ZygoteState.STARTING, ZygoteState.READY):
        zygote.state, zygote.until, zygote.overdue = ZygoteState.STOPPING, None, overdue
        moment.commands.append(c.StopZygote(pool.name, zygote.generation))


def ready(pool: Pool, zygote: Zygote, preloaded: bool, moment: Moment) -> None:
    """It can fork; unless it is being stopped, then its word comes too late."""
    if zygote.state is ZygoteState.STARTING:
        zygote.state, zygote.until, zygote.ready_at = ZygoteState.READY, None, moment.now
        zygote.had, zygote.preloaded = True, preloaded
        took = moment.now - zygote.started_at
        moment.facts.append(f.ZygoteIsReady(pool.name, zygote.generation, preloaded, took))


def prove(zygote: Zygote, forked_at: float) -> None:
    """A worker that was asked for at ``forked_at`` is ready: whoever forked it is sound."""
    zygote.proved = zygote.proved or (zygote.ready_at is not None and forked_at >= zygote.ready_at)


def expire(pool: Pool, moment: Moment) -> None:
    """A start that is not answered is given up."""
    for zygote in pool.zygotes.values():
        if zygote.until is not None and zygote.until <= moment.now:
            stop(pool, zygote, moment, overdue=True)


def postpone(pool: Pool, late: float, least: float) -> None:
    """The primary was late itself: a start that runs may take longer by so much, and is not over before ``least``."""
    for zygote in pool.zygotes.values():
        if zygote.until is not None:
            zygote.until = max(zygote.until + late, least)


def ended(pool: Pool, zygote: Zygote, report: str, moment: Moment) -> str | None:
    """It has ended: by itself, or because it was stopped. Returns why, if the end is one that counts."""
    if zygote.state is ZygoteState.ABSENT:
        return None
    by_itself = zygote.state is not ZygoteState.STOPPING
    zygote.state, zygote.until = ZygoteState.ABSENT, None
    if zygote.overdue:
        timeout = pool.policy_of(zygote.generation).start_timeout
        report = f"it had not imported the app within {timeout:g}s\n{report}".rstrip()
    ready_for = None if zygote.ready_at is None else moment.now - zygote.ready_at
    uptime = moment.now - zygote.started_at
    if pool.tries_out(zygote.generation):
        moment.facts.append(f.ZygoteEnded(pool.name, zygote.generation, ready_for is not None, report, None, uptime))
        return report
    if zygote.generation != pool.generation:
        del pool.zygotes[zygote.generation]
        return None
    if not pool.wanted or pool.halted:
        return None  # as it should be
    policy = pool.policy.restart
    # One that had to be stopped had lived for nothing, however long it hung in its fork.
    healthy = by_itself and ready_for is not None and ready_for >= policy.healthy_after
    zygote.row = 0 if healthy else zygote.row + 1
    delay = backoff(policy, zygote.row, pool.seed, pool.name, "zygote")
    zygote.next_start = moment.now + delay
    counted: list[f.Fact] = []
    if not zygote.proved:
        for slot in pool.open_slots:
            if slot.worker is None and not slot.given_up:
                counted += count(pool, slot, None, moment.now)
        pool.probe_at = max(pool.probe_at, zygote.started_at + policy.max_delay)
    if pool.open_slots and all(slot.given_up for slot in pool.open_slots):
        retry = max(0.0, pool.probe_at - moment.now) if pool.ever_ready else None
    else:
        retry = delay
    moment.facts += [
        f.ZygoteEnded(pool.name, zygote.generation, ready_for is not None, report, retry, uptime),
        *counted,
    ]
    return report
