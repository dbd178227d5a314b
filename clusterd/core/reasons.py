"""Why things end, as records and metrics name it."""

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


class Verdict(StrEnum):
    """How a reload ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    SUPERSEDED = "superseded"  # by another reload
    STOPPED = "stopped"  # by the service's end
    REFUSED = "refused"  # it could not even be tried
