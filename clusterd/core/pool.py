"""One pool as it is: its slots, its zygotes, what it has been through. Levels, no rules.

How an end counts stands in :mod:`.restarts`, what a zygote does in :mod:`.zygotes`, how a generation follows another
in :mod:`.reload`, what ought to be in :mod:`.converge`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto

from .facts import ExitReason
from .lifecycle import SPARE, State, Worker
from .policy import PoolPolicy


class ZygoteState(StrEnum):
    """Where a pool's zygote is in its life."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(slots=True)
class Zygote:
    """The present zygote of a pool's generation, or the lack of one. Times in seconds on the core's clock.

    Attributes:
        until: when a start that is not answered is given up.
        ready_at: when the present one became ready, ``None`` if it has not.
        next_start: not before this.
        row: ends in a row of zygotes that had not been healthy.
        had: one was ready in this generation, so the next is built before anybody needs it.
        proved: a worker forked from the present one became ready.
        overdue: it is being stopped because its start took too long.
        reborn: it was started while the pool was being reloaded, so what it has imported may be the new code.
    """

    generation: int
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
    reborn: bool = False


class Role(Enum):
    """What a worker is to its pool."""

    HOLDER = auto()  # it has its slot
    SUCCESSOR = auto()  # it is to have it from the one that holds it
    SPARE = auto()
    NONE = auto()  # it was asked to leave, or says that it does


@dataclass(slots=True)
class Slot:
    """A place in a pool. Times in seconds on the core's clock.

    Attributes:
        worker: who holds it. One that was asked to leave, or said that it does, holds it no longer.
        successor: who is to hold it next; it serves as soon as it is ready.
        row: unexpected ends in a row; ``rapid`` those of them that count for giving up.
        next_start: not before this. While it has given up: when it was last tried.
        tries: successors in a row that ended before they had it; ``next_try``: not another one before this.
        vacant_since: when its last ready holder ended unasked.
        starts: over the primary's life, as ``ends`` and ``last_reason`` are.
        held: an operator has it empty; whoever is in it is to go.
    """

    index: int
    worker: int | None = None
    successor: int | None = None
    row: int = 0
    rapid: int = 0
    given_up: bool = False
    next_start: float = float("-inf")
    tries: int = 0
    next_try: float = float("-inf")
    vacant_since: float | None = None
    starts: int = 0
    ends: int = 0
    last_reason: ExitReason | None = None
    held: bool = False

    def renew(self, given_up: bool = False) -> None:
        """It is wanted again after a time in which it was not: what it has been through is no guide."""
        self.row = self.rapid = self.tries = 0
        self.given_up, self.vacant_since = given_up, None
        self.next_start = self.next_try = float("-inf")


@dataclass(slots=True)
class Tally:
    """Responses begun, and those of them with a status of 500 or more."""

    responses: int = 0
    errors: int = 0

    def add(self, responses: int, errors: int) -> None:
        self.responses += responses
        self.errors += errors

    @property
    def share(self) -> float:
        return self.errors / self.responses if self.responses else 0.0


@dataclass(slots=True)
class Candidate:
    """A generation that a reload tries out in a pool.

    Attributes:
        canary: its first worker; ``until`` when it will have stayed well for long enough, once it is ready.
        rolling: it has proved itself, as the others of the same reload have, and takes over slot by slot.
        new, old: what its workers and the old ones have answered since the canary was ready.
    """

    policy: PoolPolicy
    generation: int
    canary: int | None = None
    until: float | None = None
    rolling: bool = False
    new: Tally = field(default_factory=Tally)
    old: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Pool:
    """One pool. Times in seconds on the core's clock.

    Attributes:
        seed: what the jitter of its delays depends on.
        wanted: how many slots are to be held, the lowest first; 0 while the service drains.
        generation: what it runs; 0 in a pool that a reload adds and that has not proved itself.
        zygotes: by generation; those of earlier ones stay until the last worker that they forked is gone.
        slots: all that there ever were; those from ``wanted`` on are history.
        spares: workers without a slot, ready or about to be; ``spare_row`` and ``spare_start`` are as a slot's.
        candidate: what a reload tries out in it.
        tally: what workers of the present generation have answered.
        settling: a generation has just taken over, and an old worker stays until the shell has done with what only
            the old one had.
        leaving: the new configuration does not have it.
        stopped: the number of workers that it had when an operator stopped it.
        paced: the next start at once, without a delay, not before this.
        probe: the worker that tries for slots that gave up; ``probe_at`` when the next one may.
        gave_up: all its slots have.
        halted: it gave up and is to stay down.
        ever_ready: one of its workers was ready in the primary's life.
    """

    policy: PoolPolicy
    seed: str = ""
    wanted: int = 0
    generation: int = 1
    zygotes: dict[int, Zygote] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    spares: list[int] = field(default_factory=list)
    spare_row: int = 0
    spare_start: float = float("-inf")
    candidate: Candidate | None = None
    tally: Tally = field(default_factory=Tally)
    settling: bool = False
    leaving: bool = False
    stopped: int | None = None
    paced: float = float("-inf")
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

    @property
    def open_slots(self) -> list[Slot]:
        """Those of the wanted ones that are to have a worker: all but the held."""
        return [slot for slot in self.slots[: self.wanted] if not slot.held]

    @property
    def filling(self) -> int:
        """The generation that vacant slots are filled with; 0 is none yet."""
        return self.candidate.generation if self.candidate is not None and self.candidate.rolling else self.generation

    @property
    def zygote(self) -> Zygote:
        """The one that workers are forked from as a rule."""
        return self.zygote_of(self.filling)

    def zygote_of(self, generation: int) -> Zygote:
        return self.zygotes.setdefault(generation, Zygote(generation))

    @property
    def on_its_way_out(self) -> bool:
        """The configuration in force does not have it, or the reload that was to add it has failed."""
        return self.leaving or (not self.generation and self.candidate is None)

    def forget_zygotes(self) -> None:
        """Those that are gone and will not come back: of generations that are neither the pool's nor tried out."""
        for generation in [*self.zygotes]:
            absent = self.zygotes[generation].state is ZygoteState.ABSENT
            if absent and generation not in (self.generation, self.filling) and not self.tries_out(generation):
                del self.zygotes[generation]

    def tries_out(self, generation: int) -> bool:
        """A reload has yet to find out whether this generation works here."""
        return self.candidate is not None and self.candidate.generation == generation

    def policy_of(self, generation: int) -> PoolPolicy:
        return self.candidate.policy if self.candidate is not None and self.tries_out(generation) else self.policy

    def resize(self, wanted: int) -> None:
        """Want so many slots. New ones share the fate of a pool that has given up: whatever ails it ails them."""
        for slot in self.slots[self.wanted : wanted]:
            slot.renew(self.gave_up)
        for slot in self.slots[wanted:]:
            slot.held = False
        for index in range(len(self.slots), wanted):
            self.slots.append(Slot(index, given_up=self.gave_up))
        self.wanted = wanted

    def slot_of(self, worker: Worker) -> Slot | None:
        """The worker's place, whether it holds it or not; ``None`` for one that never had any."""
        return None if worker.slot == SPARE else self.slots[worker.slot]

    def role(self, worker: Worker) -> Role:
        """What the worker is to the pool now."""
        slot = self.slot_of(worker)
        if slot is None:
            return Role.SPARE if worker.id in self.spares else Role.NONE
        if slot.worker == worker.id:
            return Role.HOLDER
        return Role.SUCCESSOR if slot.successor == worker.id else Role.NONE

    def vacate(self, worker: Worker) -> None:
        """The worker has its place no longer, if it had one."""
        slot = self.slot_of(worker)
        if slot is None:
            self.spares = [spare for spare in self.spares if spare != worker.id]
        elif slot.worker == worker.id:
            slot.worker = None
        elif slot.successor == worker.id:
            slot.successor = None
        if self.probe == worker.id:
            self.probe = None
        if self.candidate is not None and self.candidate.canary == worker.id and not self.candidate.rolling:
            self.candidate.canary, self.candidate.until = None, None

    def ready_count(self, workers: Mapping[int, Worker]) -> int:
        """How many slots have a ready worker."""
        return sum(is_ready(slot.worker, workers) or is_ready(slot.successor, workers) for slot in self.slots)

    def start_deadline(self, generation: int, now: float) -> float | None:
        """When a start that begins at ``now`` has taken too long; ``None`` is never."""
        timeout = self.policy_of(generation).start_timeout
        return now + timeout if timeout else None


def is_ready(worker: int | None, workers: Mapping[int, Worker]) -> bool:
    """There is such a worker, and it is ready."""
    return worker is not None and workers[worker].state is State.READY
