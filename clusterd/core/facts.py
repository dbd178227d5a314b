"""What is now true, for eyes only: logs, metrics, ``sd_notify``, the event stream. Nothing here steers anything.

:class:`View` is the whole state at one moment.
"""

from dataclasses import dataclass
from enum import StrEnum


class ExitReason(StrEnum):
    """Why a worker ended, as the metrics name it."""

    CRASH = "crash"
    BOOT = "boot"
    OOM = "oom"
    HUNG = "hung"
    RECYCLED = "recycled"
    RELOAD = "reload"
    SCALE = "scale"
    STOP = "stop"
    VOLUNTARY = "voluntary"


class KillReason(StrEnum):
    """Why a worker was killed by us."""

    DRAIN_TIMEOUT = "drain_timeout"
    START_TIMEOUT = "start_timeout"
    STOP_NOW = "stop_now"
    HANG = "hang"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class ZygoteStarted:
    pool: str
    generation: int


@dataclass(frozen=True, slots=True)
class ZygoteIsReady:
    pool: str
    generation: int
    preloaded: bool
    took: float


@dataclass(frozen=True, slots=True)
class ZygoteEnded:
    """A zygote failed or died; ``was_ready`` tells which. ``retry_in`` and ``uptime`` are in seconds."""

    pool: str
    generation: int
    was_ready: bool
    report: str
    retry_in: float | None
    uptime: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerStarting:
    worker: int
    pool: str
    slot: int
    generation: int
    probe: bool


@dataclass(frozen=True, slots=True)
class WorkerSpawned:
    worker: int
    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class WorkerOnline:
    worker: int
    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """``took``: seconds from the command to start it; ``vacant_for``: seconds since its predecessor's unasked end."""

    worker: int
    pool: str
    slot: int
    generation: int
    took: float
    vacant_for: float | None


@dataclass(frozen=True, slots=True)
class WorkerBootFailed:
    worker: int
    pool: str
    slot: int
    stage: str
    report: str


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """``within``: seconds until it is killed, ``None`` for never."""

    worker: int
    pool: str
    slot: int
    reason: ExitReason
    within: float | None


@dataclass(frozen=True, slots=True)
class WorkerKilled:
    worker: int
    pool: str
    slot: int
    reason: KillReason


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """``uptime`` and ``ready_for`` in seconds; ``ready_for`` is ``None`` if it never was ready.

    ``drained``: seconds since it had been told to drain, ``None`` if it had not.
    """

    worker: int
    pool: str
    slot: int
    generation: int
    code: int | None
    signal: int | None
    reason: ExitReason
    asked: bool
    uptime: float
    ready_for: float | None
    drained: float | None


@dataclass(frozen=True, slots=True)
class WorkerSpawnFailed:
    worker: int
    pool: str
    slot: int
    report: str


@dataclass(frozen=True, slots=True)
class RestartScheduled:
    """``row``: unexpected ends in a row; ``delay`` in seconds."""

    pool: str
    slot: int
    delay: float
    row: int
    at: float


@dataclass(frozen=True, slots=True)
class SlotHealthy:
    """The slot's row of unexpected ends starts again at zero."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class SlotGaveUp:
    pool: str
    slot: int
    rapid: int


@dataclass(frozen=True, slots=True)
class PoolGaveUp:
    """All slots have. ``then``: ``probe``, ``stop`` or ``exit``; ``retry_in`` in seconds where it is ``probe``."""

    pool: str
    then: str
    ever_ready: bool
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class PoolRecovered:
    pool: str


@dataclass(frozen=True, slots=True)
class Scaled:
    pool: str
    wanted: int
    was: int


@dataclass(frozen=True, slots=True)
class ServiceReady:
    """Every pool has its ``min_ready`` ready workers. ``first`` is true once in the primary's life."""

    first: bool


@dataclass(frozen=True, slots=True)
class ServiceUnready:
    """``lacking``: the pools below their ``min_ready``; empty because the service is stopping."""

    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopBegan:
    now: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """``phase``: ``running``, ``lame_duck``, ``closing``, ``draining``, ``ending``."""

    phase: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last fact. ``unkillable``: workers that SIGKILL had not ended."""

    code: int
    reason: str
    unkillable: tuple[int, ...]


Fact = (
    ZygoteStarted
    | ZygoteIsReady
    | ZygoteEnded
    | WorkerStarting
    | WorkerSpawned
    | WorkerOnline
    | WorkerReady
    | WorkerBootFailed
    | WorkerDraining
    | WorkerKilled
    | WorkerExited
    | WorkerSpawnFailed
    | RestartScheduled
    | SlotHealthy
    | SlotGaveUp
    | PoolGaveUp
    | PoolRecovered
    | Scaled
    | ServiceReady
    | ServiceUnready
    | StopBegan
    | PhaseChanged
    | Stopped
)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One living worker. Times are on the core's clock; ``state`` is a name of :class:`lifecycle.State`."""

    id: int
    pool: str
    slot: int
    generation: int
    state: str
    started_at: float
    ready_at: float | None


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot. ``starts`` and ``ends`` count over the primary's life; ``next_start`` is on the core's clock."""

    index: int
    worker: int | None
    row: int
    given_up: bool
    next_start: float | None
    starts: int
    ends: int
    last_reason: ExitReason | None


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool. ``zygote``: ``absent``, ``starting``, ``ready`` or ``stopping``; ``preloaded`` while it is ready."""

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


@dataclass(frozen=True, slots=True)
class View:
    """The service at one moment. ``now`` is the core's clock then."""

    now: float
    phase: str
    ready: bool
    was_ready: bool
    pools: tuple[PoolView, ...]
