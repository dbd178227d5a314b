"""What workers say that is no event for the rules, on its way to those who look."""

import os
from typing import Any

from ..ops.logs import Log
from ..ops.metrics import Metrics
from ..wire.reports import Collected, SlowRequest
from .sight import Sight


def message(log: Log, worker: int, said: Any, fd: int | None) -> None:
    """A message of the app's to the primary: nobody listens in this version, and nothing is kept of it."""
    if fd is not None:
        os.close(fd)
    log.emit("debug", "message", worker=worker, kind=type(said).__name__)


def report(sight: Sight, metrics: Metrics, log: Log, worker: int, told: Collected | SlowRequest) -> None:
    """What a worker tells of itself."""
    if isinstance(told, Collected):
        metrics.asking.answered(worker, told.round, told.families)
        return
    child = sight.primary.children.by_id[worker]
    log.slow_request(
        told.stack,
        pool=child.pool,
        slot=child.slot,
        worker=worker,
        method=told.method,
        path=told.path,
        seconds=told.seconds,
        where=told.where,
    )
