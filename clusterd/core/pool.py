"""One pool as it is: its slots, its zygote, what it has been through. Levels, no rules.

How an end counts stands in :mod:`.restarts`, what a zygote does in :mod:`.zygotes`, what ought to be in
:mod:`.converge`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .facts import ExitReason
from .lifecycle import State, Worker
from .policy import PoolPolicy


class ZygoteState(StrEnum):
    """Where a pool's zygote is in its life."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class Zygote:
    """The present zygote of a pool, or the lack of one. Times in seconds on the core's clock.

    Attributes:
        until: when a start that is not answered is given up.
        ready_at: when the present one became ready, ``None`` if it has not.
        next_start: not before this.
        row: ends in a row of zygotes that had not been healthy.
        had: one was ready in this generation, so the next is built before anybody needs it.
        proved: a worker forked from the present one became ready.
        overdue: it is being stopped because its start took too long.
    """

    state: ZygoteState = ZygoteState.ABSENT
    until: float | None = None
    started_at: float = 0.0
    ready_at: float | None = None
    next_start: float = float("-inf")
    row: int = 0
    had: bool = False
    proved: bool = False
    overdue: bool = False
    preloaded: bool = True


@dataclass(slots=True)
class Slot:
    """A place in a pool. Times in seconds on the core's clock.

    Attributes:
        worker: who holds it. One that was asked to leave, or said that it does, holds it no longer.
        row: unexpected ends in a row; ``rapid`` those of them that count for giving up.
        next_start: not before this. While it has given up: when it was last tried.
        vacant_since: when its last ready holder ended unasked.
        starts: over the primary's life, as ``ends`` and ``last_reason`` are.
    """

    index: int
    worker: int | None = None
    row: int = 0
    rapid: int = 0
    given_up: bool = False
    next_start: float = float("-inf")
    vacant_since: float | None = None
    starts: int = 0
    ends: int = 0
    last_reason: ExitReason | None = None

    def renew(self, given_up: bool) -> None:
        """It is wanted again after a time in which it was not: what it has been through is no guide."""
        self.row = self.rapid = 0
        self.given_up, self.next_start, self.vacant_since = given_up, float("-inf"), None


@dataclass(slots=True)
class Pool:
    """One pool. Times in seconds on the core's clock.

    Attributes:
        seed: what the jitter of its delays depends on.
        wanted: how many slots are to be held, the lowest first; 0 while the service drains.
        slots: all that there ever were; those from ``wanted`` on are history.
        probe: the worker that tries for slots that gave up; ``probe_at`` when the next one may.
        gave_up: all its slots have.
        halted: it gave up and is to stay down.
        ever_ready: one of its workers was ready in the primary's life.
    """

    policy: PoolPolicy
    seed: str = ""
    wanted: int = 0
    generation: int = 1
    zygote: Zygote = field(default_factory=Zygote)
    slots: list[Slot] = field(default_factory=list)
    probe: int | None = None
    probe_at: float = float("-inf")
    gave_up: bool = False
    halted: bool = False
    ever_ready: bool = False

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def wanted_slots(self) -> list[Slot]:
        return self.slots[: self.wanted]

    def resize(self, wanted: int) -> None:
        """Want so many slots. New ones share the fate of a pool that has given up: whatever ails it ails them."""
        for slot in self.slots[self.wanted : wanted]:
            slot.renew(self.gave_up)
        for index in range(len(self.slots), wanted):
            self.slots.append(Slot(index, given_up=self.gave_up))
        self.wanted = wanted

    def vacate(self, worker: Worker) -> None:
        """The worker holds its slot no longer, if it did."""
        slot = self.slots[worker.slot]
        if slot.worker == worker.id:
            slot.worker = None
        if self.probe == worker.id:
            self.probe = None

    def ready_count(self, workers: Mapping[int, Worker]) -> int:
        """How many slots are held by a ready worker."""
        return sum(slot.worker is not None and workers[slot.worker].state is State.READY for slot in self.slots)

    def start_deadline(self, now: float) -> float | None:
        """When a start that begins at ``now`` has taken too long; ``None`` is never."""
        return now + self.policy.start_timeout if self.policy.start_timeout else None
