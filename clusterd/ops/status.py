"""The status document: what ``GET /v1/status`` answers and ``clusterd status --json`` prints.

Within a major version it only grows: readers ignore members they do not know, and new members have defaults.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from clusterd.core.facts import PoolView, SlotView, View, WorkerView
from clusterd.ops.source import Rated, Sample, Source, responses

API = 1
"""Version of the document, the ``v1`` of its path."""


class Listener(msgspec.Struct, frozen=True):
    """A listening socket."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    address: Annotated[str, Meta(description="where it is bound, with the real port")]
    backlog: Annotated[int | None, Meta(description="connections waiting in the kernel's queue; null is untold")] = 0
    backlog_limit: Annotated[int | None, Meta(description="connections that may wait there; null is untold")] = 0


class Worker(msgspec.Struct, frozen=True):
    """A worker: a process, or the attempt to have one."""

    id: Annotated[int, Meta(description="worker.id, never used twice")]
    slot: Annotated[int, Meta(description="the slot it is in")]
    state: Annotated[str, Meta(description="spawning, cancelled, booting, ready, draining or killing")]
    generation: Annotated[int, Meta(description="the generation of code and configuration it runs")]
    uptime: Annotated[float, Meta(description="seconds since it was decided to start it")]
    pid: Annotated[int | None, Meta(description="its process; null while there is none")] = None
    ready_for: Annotated[float | None, Meta(description="seconds since it was ready; null if it is not yet")] = None
    connections: Annotated[int | None, Meta(description="connections it holds open, as it says; null if unknown")] = (
        None
    )
    requests: Annotated[int | None, Meta(description="responses it has begun, as it says; null if unknown")] = None
    in_flight: Annotated[int | None, Meta(description="requests it works on, as it says; null if unknown")] = None
    memory: Annotated[int | None, Meta(description="bytes, shared pages in proportion (PSS); null if unknown")] = None
    heartbeat_age: Annotated[float | None, Meta(description="seconds since its event loop turned; null if unknown")] = (
        None
    )
    requests_per_second: Annotated[
        float | None, Meta(description="responses begun a second, over the last five; null if unknown")
    ] = None
    cpu: Annotated[
        float | None, Meta(description="CPU, 1.0 is one core, over the last five seconds; null if unknown")
    ] = None
    latency: Annotated[
        float | None, Meta(description="mean seconds of a request, over the last five seconds; null if there was none")
    ] = None
    loop_lag: Annotated[
        float | None, Meta(description="seconds that its event loop's last beat was late; null if unknown")
    ] = None


class Slot(msgspec.Struct, frozen=True):
    """A place in a pool."""

    index: Annotated[int, Meta(description="its number, from 0")]
    worker: Annotated[Worker | None, Meta(description="who holds it; null while it is vacant")] = None
    restarts: Annotated[int, Meta(description="workers started in it after the first")] = 0
    row: Annotated[int, Meta(description="unexpected ends in a row")] = 0
    given_up: Annotated[bool, Meta(description="ended too often too soon to be tried further by itself")] = False
    last_reason: Annotated[str | None, Meta(description="why its last worker ended; null if none has")] = None
    next_start_in: Annotated[float | None, Meta(description="seconds until its next start; null if none is due")] = None


class Pool(msgspec.Struct, frozen=True):
    """A set of identical workers."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    generation: Annotated[int, Meta(description="the generation that new workers get")]
    wanted: Annotated[int, Meta(description="workers it should have")]
    ready: Annotated[int, Meta(description="workers that are ready")]
    min_ready: Annotated[int, Meta(description="ready workers the service needs of it")]
    given_up: Annotated[bool, Meta(description="all its slots have given up")]
    zygote: Annotated[str, Meta(description="absent, starting, ready or stopping")]
    preloaded: Annotated[bool | None, Meta(description="workers share the imported app; null without a zygote")]
    slots: Annotated[tuple[Slot, ...], Meta(description="its slots, in order")]
    stopped: Annotated[bool, Meta(description="an operator stopped it")] = False
    leaving: Annotated[tuple[Worker, ...], Meta(description="workers that drain or are being killed")] = ()


class Reload(msgspec.Struct, frozen=True):
    """A reload that is under way."""

    generation: Annotated[int, Meta(description="what is tried out")]
    pools: Annotated[tuple[str, ...], Meta(description="the pools that get it")]
    stage: Annotated[str, Meta(description="importing, canary or rolling")]
    took: Annotated[float, Meta(description="seconds since it began")]
    left: Annotated[float | None, Meta(description="seconds that the canary must still stay well; null if none")]
    replaced: Annotated[int, Meta(description="workers of the new generation that are ready")]
    of: Annotated[int, Meta(description="workers that are to be")]


class Service(msgspec.Struct, frozen=True):
    """The service and its primary."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    pid: Annotated[int, Meta(description="the primary's process")]
    version: Annotated[str, Meta(description="clusterd's version")]
    state: Annotated[str, Meta(description="running, lame_duck, closing, draining or ending")]
    ready: Annotated[bool, Meta(description="every pool has its min_ready ready workers and nothing stops")]
    uptime: Annotated[float, Meta(description="seconds since the primary started")]
    run_dir: Annotated[str, Meta(description="the directory of its control socket")]
    monitoring: Annotated[str | None, Meta(description="address of /metrics and the health checks; null if off")] = None
    listeners: Annotated[tuple[Listener, ...], Meta(description="the sockets its pools share")] = ()


class Status(msgspec.Struct, frozen=True):
    """The whole document."""

    api: Annotated[int, Meta(description="version of this document: 1")]
    service: Annotated[Service, Meta(description="the service and its primary")]
    pools: Annotated[tuple[Pool, ...], Meta(description="its pools, in the order of the configuration")]
    leftovers: Annotated[
        tuple[int, ...], Meta(description="pids of an earlier primary's workers that are still there")
    ] = ()
    time: Annotated[str, Meta(description="when this was true: ISO 8601, UTC")] = ""
    reload: Annotated[Reload | None, Meta(description="the reload that is under way; null if none is")] = None


class About(msgspec.Struct, frozen=True):
    """What the status tells of the service that is in no view: fixed for the primary's life.

    Attributes:
        started_at: on the core's clock.
        monitoring: the bound address, ``None`` where it is off.
    """

    name: str
    pid: int
    version: str
    run_dir: str
    started_at: float
    monitoring: str | None = None


def status(about: About, source: Source, rates: Rated | None = None) -> Status:
    """The document, as of now.

    Args:
        rates: where requests a second and CPU are known.
    """
    view = source.view()
    samples = source.samples()
    return Status(
        api=API,
        service=Service(
            name=about.name,
            pid=about.pid,
            version=about.version,
            state=view.phase,
            ready=view.ready,
            uptime=_span(view.now - about.started_at),
            run_dir=about.run_dir,
            monitoring=about.monitoring,
            listeners=tuple(
                Listener(one.name, one.address, one.backlog, one.backlog_limit) for one in source.listeners()
            ),
        ),
        pools=tuple(_pool(pool, view, samples, rates) for pool in view.pools),
        leftovers=tuple(source.leftovers()),
        reload=_reload(view),
        time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )


def _reload(view: View) -> Reload | None:
    found = view.reload
    if found is None:
        return None
    pools = [pool for pool in view.pools if pool.name in found.pools]
    return Reload(
        generation=found.generation,
        pools=found.pools,
        stage=found.stage,
        took=_span(view.now - found.began),
        left=None if found.until is None else _span(found.until - view.now),
        replaced=sum(
            one.generation == found.generation and one.ready_at is not None for pool in pools for one in pool.workers
        ),
        of=sum(pool.wanted for pool in pools),
    )


def encode(document: Status) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document) + b"\n"


def _span(value: float) -> float:
    return round(max(0.0, value), 3)


def _pool(pool: PoolView, view: View, samples: Mapping[int, Sample], rates: Rated | None) -> Pool:
    workers = {worker.id: worker_status(worker, view, samples.get(worker.id), rates) for worker in pool.workers}
    holders = {slot.worker for slot in pool.slots}
    return Pool(
        name=pool.name,
        generation=pool.generation,
        wanted=pool.wanted,
        ready=pool.ready,
        min_ready=pool.min_ready,
        given_up=pool.given_up,
        zygote=pool.zygote,
        preloaded=pool.preloaded,
        slots=tuple(_slot(slot, view, workers) for slot in pool.slots),
        stopped=pool.stopped,
        leaving=tuple(worker for worker in workers.values() if worker.id not in holders),
    )


def _slot(slot: SlotView, view: View, workers: Mapping[int, Worker]) -> Slot:
    vacant = slot.worker is None and slot.next_start is not None
    return Slot(
        index=slot.index,
        worker=None if slot.worker is None else workers.get(slot.worker),
        restarts=max(0, slot.starts - 1),
        row=slot.row,
        given_up=slot.given_up,
        last_reason=None if slot.last_reason is None else slot.last_reason.value,
        next_start_in=_span(slot.next_start - view.now) if vacant and slot.next_start is not None else None,
    )


def worker_status(worker: WorkerView, view: View, sample: Sample | None, rates: Rated | None) -> Worker:
    """One worker, as of the view."""
    rate = None if rates is None else rates.of(worker.id)
    row = sample.row if sample is not None else {}
    beat = row.get("heartbeat_ns", 0)
    return Worker(
        id=worker.id,
        slot=worker.slot,
        state=worker.state,
        generation=worker.generation,
        uptime=_span(view.now - worker.started_at),
        pid=None if sample is None else sample.pid,
        ready_for=None if worker.ready_at is None else _span(view.now - worker.ready_at),
        connections=row.get("connections_open") if beat else None,
        requests=responses(row) if beat else None,
        in_flight=row.get("requests_in_flight") if beat else None,
        memory=(row.get("proportional_bytes") or None) if beat else None,
        heartbeat_age=_span(view.now - beat / 1e9) if beat else None,
        requests_per_second=round(rate.requests, 2) if beat and rate is not None else None,
        cpu=round(rate.cpu, 4) if beat and rate is not None else None,
        latency=round(rate.latency, 6) if beat and rate is not None and rate.latency is not None else None,
        loop_lag=round(row.get("loop_lag_ns", 0) / 1e9, 4) if beat else None,
    )
