"""When is the mail of a living worker taken back and given to others? A rule over what is seen, not over guesses.

Lateness alone does not say that a worker is blocked: on a busy machine, or one throttled by its control group,
everybody is late, and mail that is moved about then only gets later (measured: p99 doubled). So mail is moved only
while somebody is seen to work: their box is empty, and they have taken something since the late mail was posted. And
what is late is measured by how long mail has to wait that *is* taken: who has to wait for a processor as long as the
others is not blocked.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BoxView:
    """One worker's mailbox of one listener, at one moment. Times in seconds on one clock.

    Attributes:
        untaken: when each message in it was posted, oldest first; probes count.
        taken_at: when it was last seen that a message had been taken.
        robbed: mail was taken back, and the worker has not shown since that it takes any.
        steal_after: how long mail may lie; 0 is for ever.
    """

    worker: int
    untaken: tuple[float, ...]
    taken_at: float
    robbed: bool
    steal_after: float


@dataclass(frozen=True, slots=True)
class Steal:
    """Take the oldest message of ``victim`` back and post it to ``taker``."""

    victim: int
    taker: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Post a message without a connection to ``worker``, to see whether it takes any."""

    worker: int


PATIENCE = 3.0
"""How many times as long as mail that is taken usually lies has mail to lie before it counts as late."""


def steals(boxes: Sequence[BoxView], now: float, usual: float = 0.0) -> list[Steal | Probe]:
    """What is to be moved now.

    Args:
        usual: seconds that mail has lain lately that was taken then, the longest.

    Returns:
        At most one message for each box that is empty; a probe for an empty box where nobody's work is evidence yet,
        and for each robbed box that has become empty.
    """
    moves: list[Steal | Probe] = []
    free = [box for box in boxes if not box.untaken and not box.robbed]
    late = sorted(
        (box for box in boxes if box.untaken and is_late(box, box.untaken[0], now, usual)),
        key=lambda box: box.untaken[0],
    )
    for victim in late:
        for posted in victim.untaken:
            if not is_late(victim, posted, now, usual) or not free:
                break
            taker = next((box for box in free if box.taken_at > posted), None)
            if taker is None:
                # Nobody was given anything since, so nobody could show that it works: ask one.
                moves.append(Probe(free.pop(0).worker))
                break
            free.remove(taker)
            moves.append(Steal(victim.worker, taker.worker))
    moves += [Probe(box.worker) for box in boxes if box.robbed and not box.untaken]
    return moves


def is_late(box: BoxView, posted: float, now: float, usual: float) -> bool:
    """Whether mail has lain in a box for too long."""
    return bool(box.steal_after) and now - posted >= max(box.steal_after, PATIENCE * usual)
