"""What is now true, for eyes only: logs, metrics, ``sd_notify``, the event stream. Nothing here steers anything.

:class:`View`, from :mod:`.seen`, is the whole state at one moment; what is true of slots and pools stands in
:mod:`.pool_facts`.
"""

from dataclasses import dataclass

from .pool_facts import (
    PoolGaveUp,
    PoolRecovered,
    PoolRemoved,
    PoolStarted,
    PoolStopped,
    RestartScheduled,
    Scaled,
    SlotGaveUp,
    SlotHealthy,
    SlotHeld,
    SlotReleased,
)
from .reasons import ExitReason, KillReason, Verdict
from .seen import PoolView, ReloadView, SlotView, View, WorkerView


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
class WorkerHung:
    """A ready worker does not answer: its stacks are being taken, then it is killed. ``why``: one sentence."""

    worker: int
    pool: str
    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class StacksReported:
    """The stacks of a worker that hangs; they belong into its crash report."""

    worker: int
    pool: str
    slot: int
    report: str


@dataclass(frozen=True, slots=True)
class WorkerRecycled:
    """A worker is to be replaced, and goes when its successor is ready. ``why``: for people."""

    worker: int
    pool: str
    slot: int
    why: str


@dataclass(frozen=True, slots=True)
class SpareAdmitted:
    """A spare has taken a vacant place. ``vacant_for``: seconds since the unasked end of who had it, if that is why."""

    worker: int
    pool: str
    slot: int
    vacant_for: float | None


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
class ReloadBegan:
    """``pools``: those that get the new generation."""

    generation: int
    pools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CanaryBegan:
    """The first worker of a new generation is ready. ``watched_for``: seconds for which it must stay so."""

    pool: str
    worker: int
    generation: int
    watched_for: float


@dataclass(frozen=True, slots=True)
class RollBegan:
    """All canaries have stayed well: the rest follows."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReloadEnded:
    """A reload has its verdict.

    ``generation``: what was tried, ``None`` where nothing was. ``reason``: one sentence; ``report``: what there is to
    read, a traceback as a rule. ``took``: seconds.
    """

    generation: int | None
    verdict: Verdict
    reason: str
    report: str
    took: float


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
    | WorkerHung
    | StacksReported
    | WorkerRecycled
    | SpareAdmitted
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
    | PoolStopped
    | PoolStarted
    | SlotHeld
    | SlotReleased
    | PoolRemoved
    | ReloadBegan
    | CanaryBegan
    | RollBegan
    | ReloadEnded
    | ServiceReady
    | ServiceUnready
    | StopBegan
    | PhaseChanged
    | Stopped
)

__all__ = [
    "CanaryBegan",
    "ExitReason",
    "Fact",
    "KillReason",
    "PhaseChanged",
    "PoolGaveUp",
    "PoolRecovered",
    "PoolRemoved",
    "PoolStarted",
    "PoolStopped",
    "PoolView",
    "ReloadBegan",
    "ReloadEnded",
    "ReloadView",
    "RestartScheduled",
    "RollBegan",
    "Scaled",
    "ServiceReady",
    "ServiceUnready",
    "SlotGaveUp",
    "SlotHealthy",
    "SlotHeld",
    "SlotReleased",
    "SlotView",
    "SpareAdmitted",
    "StacksReported",
    "StopBegan",
    "Stopped",
    "Verdict",
    "View",
    "WorkerBootFailed",
    "WorkerDraining",
    "WorkerExited",
    "WorkerHung",
    "WorkerKilled",
    "WorkerOnline",
    "WorkerReady",
    "WorkerRecycled",
    "WorkerSpawnFailed",
    "WorkerSpawned",
    "WorkerStarting",
    "WorkerView",
    "ZygoteEnded",
    "ZygoteIsReady",
    "ZygoteStarted",
]
