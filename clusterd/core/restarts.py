"""How an unasked end counts, when its successor may start, and when a pool has given up.

An end lengthens its slot's row, and the row the delay, unless the worker had been healthy. Rapid ends in a row make a
slot give up. From then on one worker at a time tries for all such slots of the pool, every ``max_delay``: the cause is
taken to be shared. So is its removal, but what came back may be weak yet, and a thousand pools may have waited for it:
one that lives frees its own slot, and the next tries a :func:`pace` later. When the first one tries is drawn by lot
between the slot's delay and ``max_delay``: pools that fell together do not ask together. The successors of healthy
workers start at once, but not all in step: a pool has a budget of as many such starts as it has slots in every
``initial_delay``.
"""

from .facts import Fact, PoolGaveUp, PoolRecovered, RestartScheduled, SlotGaveUp, SlotHealthy
from .lifecycle import SPARE, State, Worker
from .policy import OnGiveUp, RestartPolicy, backoff, jitter
from .pool import Pool, Role, Slot

#: A pool in which every start succeeds again is whole after so many ``max_delay``, however many slots it has.
RECOVERY = 5


def steady_after(policy: RestartPolicy) -> float:
    """Seconds after ready from which an end is not rapid any more."""
    return min(policy.rapid_exit, policy.healthy_after)


def count(pool: Pool, slot: Slot, ready_for: float | None, now: float) -> list[Fact]:
    """The slot's holder, or an attempt to have one, ended unasked.

    Args:
        ready_for: how many seconds it had been ready, ``None`` if it never was.
    """
    policy = pool.policy.restart
    slot.row = 0 if ready_for is not None and ready_for >= policy.healthy_after else slot.row + 1
    slot.rapid = slot.rapid + 1 if ready_for is None or ready_for < steady_after(policy) else 0
    if slot.given_up:
        slot.next_start = now  # a probe that failed: the pool's clock decides when the next one tries
        return []
    if policy.give_up_after and slot.rapid >= policy.give_up_after:
        if not any(other.given_up for other in pool.wanted_slots):
            least = min(backoff(policy, slot.row, pool.seed, pool.name, slot.index), policy.max_delay)
            lot = jitter(pool.seed, pool.name, slot.index, "first probe")
            pool.probe_at = now + least + lot * (policy.max_delay - least)
        slot.given_up, slot.next_start = True, now
        return [SlotGaveUp(pool.name, slot.index, slot.rapid)]
    slot.next_start = now + backoff(policy, slot.row, pool.seed, pool.name, slot.index)
    if slot.next_start == now:
        slot.next_start = max(now, pool.paced)
        pool.paced = slot.next_start + policy.initial_delay / pool.wanted if pool.wanted else now
    return [RestartScheduled(pool.name, slot.index, slot.next_start - now, slot.row, slot.next_start)]


def count_successor(pool: Pool, slot: Slot, now: float) -> list[Fact]:
    """Who was to replace the slot's holder ended. The holder goes on; the next attempt is made later each time."""
    slot.tries += 1
    delay = backoff(pool.policy.restart, slot.tries, pool.seed, pool.name, slot.index, "successor")
    slot.next_try = now + delay
    return [RestartScheduled(pool.name, slot.index, delay, slot.tries, slot.next_try)]


def count_spare(pool: Pool, ready_for: float | None, now: float) -> list[Fact]:
    """A spare ended; ``ready_for`` as in :func:`count`."""
    policy = pool.policy.restart
    pool.spare_row = 0 if ready_for is not None and ready_for >= policy.healthy_after else pool.spare_row + 1
    delay = backoff(policy, pool.spare_row, pool.seed, pool.name, "spare")
    pool.spare_start = now + delay
    return [RestartScheduled(pool.name, SPARE, delay, pool.spare_row, pool.spare_start)]


def judge(pool: Pool, now: float) -> tuple[list[Fact], str | None]:
    """Has the pool as a whole given up, and must the service end for it? Then the second value says why."""
    given_up = all(slot.given_up and slot.worker is None for slot in pool.open_slots)
    if pool.gave_up or not pool.open_slots or not given_up or pool.candidate is not None or not pool.generation:
        return [], None  # of a pool that is being reloaded the verdict decides first
    policy = pool.policy.restart
    pool.gave_up = True
    pool.halted = not pool.ever_ready or policy.on_give_up is not OnGiveUp.PROBE
    retry_in = None if pool.halted else max(0.0, pool.probe_at - now)
    then = policy.on_give_up if pool.ever_ready else OnGiveUp.EXIT
    facts: list[Fact] = [PoolGaveUp(pool.name, then.value, pool.ever_ready, retry_in)]
    if not pool.ever_ready:
        return facts, f"pool {pool.name}: no worker ever became ready in {policy.give_up_after} attempts"
    if policy.on_give_up is OnGiveUp.EXIT:
        return facts, f"pool {pool.name} has given up, and its on_give_up is exit"
    return facts, None


def credit_at(pool: Pool, worker: Worker) -> float | None:
    """When a worker will have been ready long enough for :func:`credit`; ``None`` if there is nothing to undo."""
    if worker.state is not State.READY or worker.ready_at is None or pool.role(worker) is not Role.HOLDER:
        return None
    if _doubted(pool, worker):
        return worker.ready_at + steady_after(pool.policy.restart)
    return worker.ready_at + pool.policy.restart.healthy_after if pool.slots[worker.slot].row else None


def credit(pool: Pool, worker: Worker, now: float) -> list[Fact]:
    """:func:`credit_at` has come: what the worker's life disproves is undone."""
    slot = pool.slots[worker.slot]
    if _doubted(pool, worker):
        slot.rapid = 0
        return _release(pool, slot, now) if slot.given_up else []
    slot.row = 0
    return [SlotHealthy(pool.name, slot.index)]


def _doubted(pool: Pool, worker: Worker) -> bool:
    """Its end would still count for giving up, or would confirm that its slot has."""
    slot = pool.slots[worker.slot]
    return slot.rapid > 0 or slot.given_up


def pace(pool: Pool, index: int) -> float:
    """Seconds from a probe that lived until the next tries, with 0 to 20 % of jitter: never more often than probes that
    fail, but that the whole pool is tried within :data:`RECOVERY`.
    """
    share = min(1.0, RECOVERY / max(1, pool.wanted - 1))
    return pool.policy.restart.max_delay * share * (1.0 + 0.2 * jitter(pool.seed, pool.name, index, "recovery"))


def _release(pool: Pool, slot: Slot, now: float) -> list[Fact]:
    """What one could do the others may try, each in its turn; spares after them. Rows stay until a slot is healthy."""
    if pool.probe == slot.worker:
        pool.probe = None
    pool.probe_at = now + pace(pool, slot.index)
    slot.given_up = False
    if not pool.gave_up:
        return []
    pool.gave_up = False
    pool.spare_start = max(pool.spare_start, now + RECOVERY * pool.policy.restart.max_delay)
    return [PoolRecovered(pool.name)]
