"""The metrics page: what the facts and the workers' rows add up to, in Prometheus' formats."""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from time import monotonic
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from clusterd.core import facts as f
from clusterd.ops.aggregate import Warn
from clusterd.ops.appmetrics import AppMetrics
from clusterd.ops.asking import Asking
from clusterd.ops.exposition import Encoder, Steps, Timed, at_once, in_turns
from clusterd.ops.metrics_table import BY_NAME, METRICS
from clusterd.ops.readings import LastReload, Now, Readings
from clusterd.ops.source import Source
from clusterd.ops.tally import Tally

__all__ = ["METRICS", "Metrics"]

SHARE = 0.1
"""Of the primary's time that making the page may take. Whoever asks more often gets the last page again, which is
older by a few milliseconds; else a client that scrapes without pause would take the loop for itself."""

BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
"""Upper bounds in seconds, for starts and drains alike: from a fork of a preloaded app to a long drain."""

BOOKS = ("starts", "exits", "kills", "reloads", "reclaimed", "histograms")
"""What is counted here, by the attributes' names without their underscore."""

Labels = tuple[str, ...]


class _Histogram:
    """Observations of one pool. Not prometheus_client's own: that one needs a global switch to leave out ``_created``,
    and the process may belong to a program that uses the library for itself."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.sum += max(value, 0.0)


class Metrics:
    """Keeps the books over facts, and adds what is so now when somebody asks.

    Args:
        source: where the present state is read, at each scrape and at the end of a worker.
        version: clusterd's own.
        config_sha256: of the configuration in force.
        warn: told a metric's name and why the app's of that name is refused; once for each name.
        histograms: of the workers' rows, by name: the words of the buckets and then of the sum, and the buckets'
            upper bounds in seconds, of which the last bucket has none.
        share: see :data:`SHARE`; 1 makes every page anew.
        clock: the core's clock, and that of the workers' heartbeats.
        wall: Unix time now.
    """

    def __init__(
        self,
        source: Source,
        version: str,
        config_sha256: str = "",
        *,
        warn: Warn = lambda name, why: None,
        histograms: Mapping[str, tuple[tuple[str, ...], tuple[float, ...]]] | None = None,
        share: float = SHARE,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = lambda: datetime.now(UTC).timestamp(),
    ) -> None:
        self.config_sha256 = config_sha256
        self._source = source
        self._version = version
        self._share = share
        self._pages: dict[str, tuple[float, bytes]] = {}
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._clock = clock
        self._wall = wall
        of_rows = histograms or {}
        self._bounds = {f"{name}_seconds": bounds for name, (_, bounds) in of_rows.items()}
        self._tally = Tally({f"{name}_seconds": words for name, (words, _) in of_rows.items()})
        self._starts: Counter[str] = Counter()
        self._exits: Counter[tuple[str, str]] = Counter()
        self._kills: Counter[tuple[str, str]] = Counter()
        self._reloads: Counter[tuple[str, str]] = Counter()
        self._reloading: tuple[str, ...] = ()
        self._last_reload = LastReload(successful=True, success_at=wall())  # the start loaded it
        self._reclaimed: dict[tuple[str, str], int] = {}
        self._histograms: dict[tuple[str, str], _Histogram] = {}
        # Of the primary itself, from an own registry: the default one has what the program registered, if it is one.
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.app = AppMetrics([metric.name for metric in self.registry.collect()], warn)
        self.asking = Asking(source, self.app)

    def books(self) -> dict[str, object]:
        """What has been counted so far, for another that goes on counting."""
        return {name: getattr(self, f"_{name}") for name in BOOKS} | {
            "tally": self._tally.books(),
            "last_reload": [self._last_reload.successful, self._last_reload.success_at],
            "app": msgspec.json.encode(self.app.books()),  # one value, of what may be a hundred thousand
        }

    def go_on(self, books: dict[str, Any]) -> None:
        """Go on from another's books."""
        for name in BOOKS:
            getattr(self, f"_{name}").update(books.get(name, {}))
        self._tally.go_on(books.get("tally", {}))
        if "last_reload" in books:
            self._last_reload = LastReload(*books["last_reload"])
        self.app.go_on(msgspec.json.decode(books.get("app", b"{}")))

    def fact(self, fact: f.Fact) -> None:
        """Count what a fact says."""
        self._pages.clear()
        match fact:
            case f.WorkerStarting():
                self._tally.begin(fact.worker, fact.pool, fact.slot, self._clock())
            case f.WorkerSpawned():
                self._starts[fact.pool] += 1
            case f.SpareAdmitted():
                self._tally.move(fact.worker, fact.slot)
                if fact.vacant_for is not None:
                    self._observe("worker_replacement_duration_seconds", fact.pool, fact.vacant_for)
                self.app.move(fact.worker, fact.slot)
            case f.ReloadBegan():
                self._reloading = fact.pools
            case f.ReloadEnded():
                self._reloaded(fact)
            case f.WorkerSpawnFailed():
                self._tally.end(fact.worker)
            case f.WorkerReady():
                self._observe("worker_start_duration_seconds", fact.pool, fact.took)
                if fact.vacant_for is not None:
                    self._observe("worker_replacement_duration_seconds", fact.pool, fact.vacant_for)
            case f.WorkerKilled():
                self._kills[fact.pool, fact.reason.value] += 1
            case f.WorkerExited():
                self._exits[fact.pool, fact.reason.value] += 1
                if fact.drained is not None:
                    self._observe("drain_duration_seconds", fact.pool, fact.drained)
                self._last_words(fact.worker)

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: Prometheus' text format, or OpenMetrics where ``accept`` asks for it."""
        encoder = Encoder(accept)
        page = self._fresh(encoder)
        return at_once(self._make(encoder)) if page is None else page, encoder.content_type

    async def page_in_turns(self, accept: str = "") -> tuple[bytes, str]:
        """As :meth:`page`, made a slice a turn of the loop. Who asks while one is made waits for that one."""
        encoder = Encoder(accept)
        page = self._fresh(encoder)
        if page is None:
            making = self._making.get(encoder.content_type)
            if making is None:
                making = asyncio.ensure_future(self._asked(encoder))
                self._making[encoder.content_type] = making
                making.add_done_callback(lambda _: self._making.pop(encoder.content_type, None))
            page = await asyncio.shield(making)  # the client that began it may go; others wait for it too
        return page, encoder.content_type

    async def _asked(self, encoder: Encoder) -> bytes:
        await self.asking.ask()
        return await in_turns(self._make(encoder))

    def _fresh(self, encoder: Encoder) -> bytes | None:
        until, page = self._pages.get(encoder.content_type, (0.0, b""))
        return page if monotonic() < until else None

    def _make(self, encoder: Encoder) -> Steps[bytes]:
        work = Timed(self._pieces(encoder))
        began = monotonic()
        page = yield from work
        self._pages = {encoder.content_type: (began + work.spent / self._share, page)}
        return page

    def _pieces(self, encoder: Encoder) -> Steps[bytes]:
        yield from self._read()
        page = []
        for metric, samples in self.families():
            for piece in encoder.pieces(metric, samples):
                page.append(piece)
                yield
        return b"".join([*page, encoder.end])

    def _read(self) -> Steps[None]:
        samples = self._source.samples()
        for worker in list(samples):
            sample = samples.get(worker)  # it may have ended since the last turn, and is read by then
            if sample is not None:
                self._tally.read(worker, sample.row, self._clock())
            yield
        self._tally.hand(self._source.handed())
        yield
        for key, count in self._source.reclaimed().items():
            self._reclaimed[key] = max(count, self._reclaimed.get(key, 0))
        yield from self.app.read(self._source.segments())

    def _reloaded(self, ended: f.ReloadEnded) -> None:
        tried = ended.generation is not None
        for pool in self._reloading if tried else [pool.name for pool in self._source.view().pools]:
            self._reloads[pool, ended.verdict.value] += 1
            if tried:
                self._observe("reload_duration_seconds", pool, ended.took)
        if ended.verdict is f.Verdict.PROMOTED:
            self._last_reload = LastReload(successful=True, success_at=self._wall())
        elif ended.verdict in (f.Verdict.ROLLED_BACK, f.Verdict.REFUSED):
            self._last_reload = replace(self._last_reload, successful=False)

    def _observe(self, name: str, pool: str, value: float) -> None:
        self._histograms.setdefault((name, pool), _Histogram()).observe(value)

    def _last_words(self, worker: int) -> None:
        """Read a dead worker's row once more."""
        sample = self._source.samples().get(worker)
        if sample is not None:
            self._tally.read(worker, sample.row, self._clock())
        self._tally.hand({key: count for key, count in self._source.handed().items() if key[0] == worker})
        self._tally.end(worker)
        self.asking.forget(worker)
        self.app.end(worker, self._source.segments().get(worker))

    # -- the page ------------------------------------------------------------------------------------------------

    def families(self) -> Iterator[tuple[Metric, Iterable[Sample]]]:
        """Every family of the page with its samples: those of :data:`METRICS`, the app's, and the primary's own."""
        view = self._source.view()
        now = Now(view, self._clock(), self._wall() - self._clock())
        pools = list(dict.fromkeys([pool.name for pool in view.pools] + list(self._starts)))
        readings = Readings(
            self._source,
            self._tally,
            now,
            pools,
            self._starts,
            self._exits,
            self._kills,
            self._reclaimed,
            self._reloads,
            self._last_reload,
        )
        for name, row in BY_NAME.items():
            metric = Metric(row.name.removesuffix("_total"), row.help, row.type)
            if row.type == "histogram":
                yield metric, [sample for pool in pools for sample in self._histogram(name, row.name, pool)]
            elif name == "build_info":
                yield metric, [_sample(row.name, row.labels, (self._version, readings.python), 1)]
            elif name == "config_info":
                yield metric, [_sample(row.name, row.labels, (self.config_sha256,), 1)]
            else:
                read = getattr(readings, name.removesuffix("_total"))
                yield metric, (_sample(row.name, row.labels, labels, value) for labels, value in read())
        for family in self.app.families():
            yield family.metric(), family.samples()
        for own in self.registry.collect():
            yield own, own.samples

    def _histogram(self, name: str, full_name: str, pool: str) -> Iterator[Sample]:
        if name in self._bounds:
            bounds, (counts, total_ns) = self._bounds[name], self._tally.observed(name, pool)
            total = total_ns / 1e9
        else:
            kept = self._histograms.setdefault((name, pool), _Histogram())
            bounds, counts, total = BUCKETS, list(kept.counts), kept.sum
        labels = {"pool": pool}
        rising = list(accumulate(counts))
        for bound, count in zip((*bounds, float("inf")), rising, strict=True):
            yield Sample(
                f"{full_name}_bucket", {**labels, "le": "+Inf" if bound == float("inf") else str(bound)}, float(count)
            )
        yield Sample(f"{full_name}_count", labels, float(rising[-1]))
        yield Sample(f"{full_name}_sum", labels, total)


def _sample(name: str, names: Labels, labels: Labels, value: float) -> Sample:
    return Sample(name, dict(zip(names, labels, strict=True)), value)
