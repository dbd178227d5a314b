"""The status document as of now, made of what the primary knows and its workers say."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from clusterd.core.facts import PoolView, SlotView, View, WorkerView
from clusterd.ops.document import API, Listener, Pool, Reload, Service, Slot, Status, Worker
from clusterd.ops.source import Rated, Sample, Source, responses


class About(msgspec.Struct, frozen=True):
    """What the status tells of the service that is in no view: fixed for the primary's life.

    Attributes:
        started_at: on the core's clock.
        monitoring: the bound address, ``None`` where it is off.
        upgrades: how often this process became other code.
    """

    name: str
    pid: int
    version: str
    run_dir: str
    started_at: float
    monitoring: str | None = None
    upgrades: int = 0


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
            upgrades=about.upgrades,
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
        of=sum(pool.wanted - sum(slot.held for slot in pool.slots) for pool in pools),
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
        held=slot.held,
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
