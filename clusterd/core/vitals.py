"""What workers say of themselves, and what follows: who hangs, who is worn, how a generation fares.

A worker's silence is counted only while the primary itself listened, about once a second: a primary that was suspended,
or starved, has heard nobody and blames nobody.
"""

from typing import Final

from .events import Vital
from .lifecycle import State, Worker
from .policy import jitter
from .pool import Pool

LISTENED: Final = 2.0
"""Seconds of silence, at most, that one look can find: two looks are about one second apart."""

BEAT: Final = 1.0
"""Seconds between two beats of a worker that is well: silence begins when the next one is missing."""

YOUNGER: Final = 0.1
"""Up to this share of ``max_age`` earlier, a different one for each: workers that are born together do not go so."""


def listened(last: float | None, now: float) -> float:
    """Seconds for which the primary has listened since it last looked."""
    return 0.0 if last is None else min(now - last, LISTENED)


def note(pool: Pool, worker: Worker, vital: Vital, listened: float) -> None:
    """Take down what a ready worker says."""
    last = worker.vital
    if last is None or vital.beat != last.beat or not vital.beat:
        worker.silent = 0.0
    else:
        worker.silent += listened
    responses = max(0, vital.responses - (0 if last is None else last.responses))
    errors = max(0, vital.errors - (0 if last is None else last.errors))
    if worker.generation == pool.generation:
        pool.tally.add(responses, errors)
    if pool.candidate is not None:
        tally = pool.candidate.new if pool.tries_out(worker.generation) else pool.candidate.old
        tally.add(responses, errors)
    worker.vital = vital


def hangs(pool: Pool, worker: Worker) -> str | None:
    """Why it is taken to hang; ``None`` if it is not."""
    timeout = pool.policy_of(worker.generation).heartbeat_timeout
    if not timeout or worker.silent < timeout + BEAT:
        return None
    return f"its event loop has not turned for {worker.silent:.0f} s"


def worn(pool: Pool, worker: Worker) -> str | None:
    """Why it has done its work, by what it says; ``None`` if it has not."""
    policy, vital = pool.policy_of(worker.generation).recycle, worker.vital
    if vital is None or worker.recycle is not None:
        return None
    most = policy.max_requests * (1.0 + policy.jitter * jitter(pool.seed, pool.name, worker.id, "requests"))
    if most and vital.responses >= most:
        return f"max_requests: {vital.responses} served"
    if policy.max_memory and vital.memory > policy.max_memory:
        return f"max_memory: {vital.memory} bytes"
    return None


def old_at(pool: Pool, worker: Worker) -> float | None:
    """When it will have been ready for its ``max_age``; ``None`` for never."""
    age = pool.policy_of(worker.generation).recycle.max_age
    if not age or worker.state is not State.READY or worker.ready_at is None or worker.recycle is not None:
        return None
    return worker.ready_at + age * (1.0 - YOUNGER * jitter(pool.seed, pool.name, worker.id, "age"))
