"""One worker in full: what ``GET /v1/workers/{worker}`` answers and ``clusterd describe`` shows."""

from typing import Annotated

import msgspec
from msgspec import Meta

from clusterd.core.facts import PoolView, WorkerView
from clusterd.ops.document import Worker
from clusterd.ops.journal import Journal
from clusterd.ops.recent import Choice, Shown, instant
from clusterd.ops.source import Rated, Source
from clusterd.ops.status import worker_status

LINES = 20
"""Lines of its output that are shown."""


class Described(msgspec.Struct, frozen=True):
    """One worker, and its place."""

    pool: Annotated[str, Meta(description="its pool")]
    worker: Annotated[Worker, Meta(description="as in the status")]
    restarts: Annotated[int | None, Meta(description="workers started in its slot after the first")] = None
    last_reason: Annotated[str | None, Meta(description="why its predecessor ended; null if there was none")] = None
    connections_handed: Annotated[dict[str, int], Meta(description="connections handed to it so far, by listener")] = {}
    requests_by_class: Annotated[dict[str, int], Meta(description="responses begun, by class of their status")] = {}
    cpu_seconds: Annotated[float | None, Meta(description="CPU used so far; null if unknown")] = None
    resident: Annotated[int | None, Meta(description="bytes resident (RSS); null if unknown")] = None
    unique: Annotated[int | None, Meta(description="bytes that its end would free (USS); null if unknown")] = None
    open_fds: Annotated[int | None, Meta(description="open descriptors; null if unknown")] = None
    max_fds: Annotated[int | None, Meta(description="descriptors it may open; null if unknown")] = None
    cpus: Annotated[tuple[int, ...] | None, Meta(description="CPUs that it may run on; null if unknown")] = None
    unread: Annotated[int | None, Meta(description="connections taken and not read from yet; null if unknown")] = None
    output: Annotated[tuple[Shown, ...], Meta(description="the last lines of its output")] = ()


def describe(worker: int, source: Source, journal: Journal, rates: Rated | None) -> Described | None:
    """A living worker by its id; ``None``: there is none."""
    view = source.view()
    found: tuple[PoolView, WorkerView] | None = next(
        ((pool, one) for pool in view.pools for one in pool.workers if one.id == worker), None
    )
    if found is None:
        return None
    pool, one = found
    sample = source.samples().get(worker)
    row = sample.row if sample is not None else {}
    slot = next((slot for slot in pool.slots if slot.index == one.slot), None)
    lines = journal.recent.last(LINES, Choice(worker=worker))
    return Described(
        pool=pool.name,
        worker=worker_status(one, view, sample, rates),
        restarts=None if slot is None else max(0, slot.starts - 1),
        last_reason=None if slot is None or slot.last_reason is None else slot.last_reason.value,
        connections_handed={name: count for (whose, name), count in source.handed().items() if whose == worker},
        requests_by_class={f"{digit}xx": row.get(f"requests_{digit}xx", 0) for digit in range(1, 6)},
        cpu_seconds=round(row["cpu_ns"] / 1e9, 3) if row.get("cpu_ns") else None,
        resident=row.get("resident_bytes") or None,
        unique=row.get("unique_bytes") or None,
        open_fds=row.get("open_fds") or None,
        max_fds=row.get("max_fds") or None,
        cpus=None if (cpus := source.cpus(worker)) is None else tuple(cpus),
        unread=row.get("connections_unread") if row.get("heartbeat_ns") else None,
        output=tuple(Shown(instant(line.at), *line[2:]) for line in lines),
    )
