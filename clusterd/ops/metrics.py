"""The metrics page: what the facts and the workers' rows add up to, in Prometheus' formats."""

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from time import monotonic

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from clusterd.core import facts as f
from clusterd.ops.metrics_table import BY_NAME, METRICS
from clusterd.ops.source import Source
from clusterd.ops.tally import Tally

__all__ = ["METRICS", "Metrics"]

STATES = ("spawning", "cancelled", "booting", "ready", "draining", "killing")
"""States of a worker that are always exposed, also with no worker in them."""

SHARE = 0.1
"""Of the primary's time that making the page may take. Whoever asks more often gets the last page again, which is
older by a few milliseconds; else a client that scrapes without pause would take the loop for itself."""

RECLAIM_REASONS = ("dead", "blocked")

BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
"""Upper bounds in seconds, for starts and drains alike: from a fork of a preloaded app to a long drain."""

CODE_CLASSES = {f"{digit}xx": f"requests_{digit}xx" for digit in range(1, 6)}

_ROW_GAUGES = {
    "connections_open": "connections_open",
    "requests_in_flight": "http_requests_in_flight",
    "open_fds": "worker_open_fds",
    "max_fds": "worker_max_fds",
    "resident_bytes": "worker_resident_memory_bytes",
    "proportional_bytes": "worker_proportional_memory_bytes",
    "unique_bytes": "worker_unique_memory_bytes",
}


class _Histogram:
    """Observations of one pool. Not prometheus_client's own: that one needs a global switch to leave out ``_created``,
    and the process may belong to a program that uses the library for itself."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.sum += max(value, 0.0)

    def buckets(self) -> list[tuple[str, float]]:
        total, pairs = 0, []
        for bound, count in zip((*BUCKETS, float("inf")), self.counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return pairs


class Metrics(Collector):
    """Keeps the books over facts, and adds what is so now when somebody asks.

    Args:
        source: where the present state is read, at each scrape and at the end of a worker.
        version: clusterd's own.
        config_sha256: of the configuration in force.
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
        share: float = SHARE,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = lambda: datetime.now(UTC).timestamp(),
    ) -> None:
        self.config_sha256 = config_sha256
        self._source = source
        self._version = version
        self._share = share
        self._pages: dict[str, tuple[float, bytes]] = {}
        self._clock = clock
        self._wall = wall
        self._tally = Tally()
        self._starts: Counter[str] = Counter()
        self._exits: Counter[tuple[str, str]] = Counter()
        self._kills: Counter[tuple[str, str]] = Counter()
        self._reclaimed: dict[tuple[str, str], int] = {}
        self._histograms: dict[tuple[str, str], _Histogram] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        # Of the primary itself, from an own registry: the default one has what the program registered, if it is one.
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def fact(self, fact: f.Fact) -> None:
        """Count what a fact says."""
        self._pages.clear()
        match fact:
            case f.WorkerStarting():
                self._tally.begin(fact.worker, fact.pool, fact.slot, self._clock())
            case f.WorkerSpawned():
                self._starts[fact.pool] += 1
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
        try:
            encode, content_type = choose_encoder(accept if accept.isascii() and accept.isprintable() else "")
        except (ValueError, TypeError):  # a version that is no number
            encode, content_type = choose_encoder("")
        began = monotonic()
        until, page = self._pages.get(content_type, (0.0, b""))
        if began >= until:
            page = encode(self.registry)
            took = monotonic() - began
            self._pages = {content_type: (began + took / self._share, page)}
        return page, content_type

    def collect(self) -> Iterator[Metric]:
        """Every metric of :data:`METRICS` in its order (what the registry calls at a scrape)."""
        now = self._clock()
        samples = self._source.samples()
        self._tally.read({worker: sample.row for worker, sample in samples.items()}, self._source.handed(), now)
        view = self._source.view()
        families = {name: _family(name) for name in BY_NAME}
        self._fill_service(families, view)
        self._fill_pools(families, view)
        self._fill_slots(families, now)
        self._fill_listeners(families)
        yield from families.values()

    def _observe(self, name: str, pool: str, value: float) -> None:
        self._histograms.setdefault((name, pool), _Histogram()).observe(value)

    def _last_words(self, worker: int) -> None:
        """Read a dead worker's row once more and fold it into its slot's base."""
        sample = self._source.samples().get(worker)
        rows = {} if sample is None else {worker: sample.row}
        handed = {key: count for key, count in self._source.handed().items() if key[0] == worker}
        self._tally.read(rows, handed, self._clock())
        self._tally.end(worker)

    def _fill_service(self, families: dict[str, Metric], view: f.View) -> None:
        _add(families, "build_info", (self._version, platform.python_version()), 1)
        _add(families, "config_info", (self.config_sha256,), 1)
        _add(families, "ready", (), int(view.ready))

    def _fill_pools(self, families: dict[str, Metric], view: f.View) -> None:
        offset = self._wall() - self._clock()
        for pool in view.pools:
            states = Counter(dict.fromkeys(STATES, 0))
            states.update(worker.state for worker in pool.workers)
            for state, count in states.items():
                _add(families, "pool_workers", (pool.name, state), count)
            _add(families, "pool_workers_desired", (pool.name,), pool.wanted)
            _add(families, "pool_generation", (pool.name,), pool.generation)
            for slot in pool.slots:
                if slot.worker is None and slot.next_start is not None:
                    at = round(slot.next_start + offset, 3)
                    _add(families, "worker_next_start_timestamp_seconds", (pool.name, str(slot.index)), at)
        pools = dict.fromkeys([pool.name for pool in view.pools] + list(self._starts))
        for key, count in self._source.reclaimed().items():
            self._reclaimed[key] = max(count, self._reclaimed.get(key, 0))
        for name in pools:
            _add(families, "worker_starts_total", (name,), self._starts[name])
            for exit_reason in f.ExitReason:
                _add(families, "worker_exits_total", (name, exit_reason.value), self._exits[name, exit_reason.value])
            for kill_reason in f.KillReason:
                _add(families, "worker_kills_total", (name, kill_reason.value), self._kills[name, kill_reason.value])
            for reason in RECLAIM_REASONS:
                _add(families, "connections_reclaimed_total", (name, reason), self._reclaimed.get((name, reason), 0))
            for metric, row in BY_NAME.items():
                if row.type == "histogram":
                    histogram = self._histograms.setdefault((metric, name), _Histogram())
                    family = families[metric]
                    assert isinstance(family, HistogramMetricFamily)
                    family.add_metric((name,), histogram.buckets(), histogram.sum)

    def _fill_slots(self, families: dict[str, Metric], now: float) -> None:
        counts = self._tally.counts()
        for pool, slot in sorted({(pool, slot) for pool, slot, _ in counts}):
            for code_class, word in CODE_CLASSES.items():
                _add(families, "http_requests_total", (pool, str(slot), code_class), counts[pool, slot, word])
            _add(families, "worker_cpu_seconds_total", (pool, str(slot)), counts[pool, slot, "cpu_ns"] / 1e9)
        for (pool, slot, listener), count in self._tally.handed().items():
            _add(families, "connections_total", (pool, str(slot), listener), count)
        for pool, slot, word, value in self._tally.gauges():
            _add(families, _ROW_GAUGES[word], (pool, str(slot)), value)
        for (pool, slot), age in self._tally.heartbeat_ages(now).items():
            _add(families, "worker_heartbeat_age_seconds", (pool, str(slot)), round(max(age, 0.0), 3))

    def _fill_listeners(self, families: dict[str, Metric]) -> None:
        for listener in self._source.listeners():
            if listener.backlog is not None:  # else absent: 0 would be a lie
                _add(families, "listener_backlog_connections", (listener.name,), listener.backlog)
            if listener.backlog_limit is not None:
                _add(families, "listener_backlog_limit", (listener.name,), listener.backlog_limit)


_FAMILIES: dict[str, Callable[..., Metric]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _family(name: str) -> Metric:
    row = BY_NAME[name]
    return _FAMILIES[row.type](row.name, row.help, labels=row.labels)


def _add(families: dict[str, Metric], name: str, labels: tuple[str, ...], value: float) -> None:
    family = families[name]
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
    family.add_metric(labels, value)
