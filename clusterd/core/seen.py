"""The whole state at one moment, as people and machines look at it: :class:`View`. Values that nobody can change."""

from dataclasses import dataclass

from .reasons import ExitReason


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One living worker. Times are on the core's clock; ``state`` is a name of :class:`lifecycle.State`.

    ``role``: ``holder`` of its slot, ``successor`` of the one that holds it, ``spare``, or ``leaving``.
    """

    id: int
    pool: str
    slot: int
    generation: int
    state: str
    started_at: float
    ready_at: float | None
    role: str = "holder"


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot. ``starts`` and ``ends`` count over the primary's life; ``next_start`` is on the core's clock.

    ``held``: an operator has it empty.
    """

    index: int
    worker: int | None
    row: int
    given_up: bool
    next_start: float | None
    starts: int
    ends: int
    last_reason: ExitReason | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool. ``zygote``: ``absent``, ``starting``, ``ready`` or ``stopping``; ``preloaded`` while it is ready.

    ``candidate``: the generation that a reload tries out in it. ``stopped``: by an operator.
    """

    name: str
    generation: int
    wanted: int
    ready: int
    min_ready: int
    given_up: bool
    zygote: str
    preloaded: bool | None
    slots: tuple[SlotView, ...]
    workers: tuple[WorkerView, ...]
    candidate: int | None = None
    stopped: bool = False
    spares: int = 0


@dataclass(frozen=True, slots=True)
class ReloadView:
    """One under way. ``stage``: ``importing``, ``canary`` or ``rolling``; ``until``: when the canary's time ends."""

    generation: int
    pools: tuple[str, ...]
    began: float
    stage: str
    until: float | None


@dataclass(frozen=True, slots=True)
class View:
    """The service at one moment. ``now`` is the core's clock then."""

    now: float
    phase: str
    ready: bool
    was_ready: bool
    pools: tuple[PoolView, ...]
    reload: ReloadView | None = None
