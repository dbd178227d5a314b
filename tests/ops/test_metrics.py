import asyncio
import platform
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from clusterd.cli.sight import HISTOGRAM_WORDS
from clusterd.core import facts as f
from clusterd.ops.metrics import METRICS, Metrics
from clusterd.ops.metrics_table import MetricRow
from clusterd.ops.readings import STATES
from tests.ops.staged import Staged, healthy_view, pool_view, slot_view, worker_view

Labels = frozenset[tuple[str, str]]

NOW = 100.0
WALL = 1_800_000_000.0


def metrics_of(source: Staged) -> Metrics:
    return Metrics(
        source,
        "1.2.3",
        "abc",
        histograms=HISTOGRAM_WORDS,
        share=1,
        clock=lambda: source.now_view.now,
        wall=lambda: WALL,
    )


def read(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    """The page as Prometheus reads it: (sample's name, labels) to value."""
    page, content_type = metrics.page()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(page.decode())
        for sample in family.samples
    }


def value(page: Mapping[tuple[str, Labels], float], name: str, **labels: str) -> float | None:
    return page.get((f"clusterd_{name}", frozenset(labels.items())))


def start(metrics: Metrics, worker: int, slot: int = 0) -> None:
    metrics.fact(f.WorkerStarting(worker, "web", slot, 1, False))
    metrics.fact(f.WorkerSpawned(worker, "web", slot))


def exited(worker: int, slot: int = 0, reason: f.ExitReason = f.ExitReason.CRASH) -> f.WorkerExited:
    return f.WorkerExited(worker, "web", slot, 1, 1, None, reason, False, 5.0, 4.0, None)


def busy_row(**words: int) -> dict[str, int]:
    return {"heartbeat_ns": int(99.5e9), **words}


def everything() -> Staged:
    """A source of which every metric has a sample."""
    slots = [slot_view(0, 1), slot_view(1, None, next_start=101.5, last_reason=f.ExitReason.CRASH)]
    return Staged(
        now_view=replace(healthy_view(1), pools=(pool_view(slots, healthy_view(1).pools[0].workers),)),
        rows={
            1: busy_row(
                connections_open=3, requests_in_flight=2, requests_2xx=7, requests_5xx=1, cpu_ns=1_500_000_000,
                open_fds=20, max_fds=1024, resident_bytes=1 << 20, proportional_bytes=1 << 19, unique_bytes=1 << 18,
                handover_duration_0=3, handover_duration_2=1, handover_duration_sum_ns=500_000,
            )
        },
        given={(1, "http"): 12},
        read_back={("web", "dead"): 2},
    )  # fmt: skip


def test_every_metric_of_the_table_is_on_the_page_and_no_other() -> None:
    source = everything()
    metrics = metrics_of(source)
    start(metrics, 1)
    families = {family.name: family for family in parse(metrics.page()[0].decode())}
    ours = {name for name in families if name.startswith("clusterd_")}
    assert ours == {row.name.removesuffix("_total") for row in METRICS}
    for row in METRICS:
        family = families[row.name.removesuffix("_total")]
        assert family.type == row.type
        assert family.documentation == row.help
        assert family.samples, f"{row.name} has no sample"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(row.labels)
    assert families["process_cpu_seconds"].samples
    assert families["python_info"].samples


@pytest.mark.parametrize("row", METRICS, ids=lambda row: row.name)
def test_a_metric_keeps_the_rules_of_names_and_says_what_a_rise_means(row: MetricRow) -> None:
    assert row.name.startswith("clusterd_")
    assert row.name.endswith("_total") == (row.type == "counter")
    assert not {"pid", "worker"} & set(row.labels)
    assert "rise" in row.help or row.name.endswith("_info") or row.name == "clusterd_ready"


def test_the_values_are_those_of_the_view_the_rows_and_the_primary() -> None:
    metrics = metrics_of(everything())
    start(metrics, 1)
    page = read(metrics)
    assert value(page, "build_info", version="1.2.3", python_version=platform.python_version()) == 1
    assert value(page, "config_info", sha256="abc") == 1
    assert value(page, "ready") == 1
    assert value(page, "pool_workers", pool="web", state="ready") == 1
    assert value(page, "pool_workers_desired", pool="web") == 2
    assert value(page, "pool_slots_held", pool="web") == 0
    assert value(page, "connections_total", pool="web", slot="0", listener="http") == 12
    assert value(page, "connections_open", pool="web", slot="0") == 3
    assert value(page, "connections_reclaimed_total", pool="web", reason="dead") == 2
    assert value(page, "connections_reclaimed_total", pool="web", reason="blocked") == 0
    assert value(page, "http_requests_total", pool="web", slot="0", code_class="2xx") == 7
    assert value(page, "worker_cpu_seconds_total", pool="web", slot="0") == 1.5
    assert value(page, "worker_heartbeat_age_seconds", pool="web", slot="0") == 0.5
    assert value(page, "handover_duration_seconds_bucket", pool="web", le="0.0001") == 3
    assert value(page, "handover_duration_seconds_bucket", pool="web", le="0.00025") == 4
    assert value(page, "handover_duration_seconds_count", pool="web") == 4
    assert value(page, "handover_duration_seconds_sum", pool="web") == 0.0005
    assert value(page, "event_loop_lag_seconds_count", pool="web") == 0
    assert value(page, "pool_saturation_ratio", pool="web") == 0.25
    assert value(page, "cgroup_cpu_throttled_seconds_total") == 1.5
    assert value(page, "cgroup_oom_kills_total") == 2
    assert value(page, "listener_backlog_connections", listener="http") == 3
    # On the core's clock 1.5 s from now, on the page in Unix time.
    assert value(page, "worker_next_start_timestamp_seconds", pool="web", slot="1") == WALL + 1.5
    assert value(page, "worker_next_start_timestamp_seconds", pool="web", slot="0") is None


def test_slots_that_an_operator_holds_are_counted() -> None:
    pool = pool_view([slot_view(0, 1), slot_view(1, None, held=True)], [worker_view(1, 0)])
    page = read(metrics_of(Staged(replace(healthy_view(1), pools=(pool,)))))
    assert value(page, "pool_slots_held", pool="web") == 1


def test_what_can_happen_is_there_with_zero_before_it_happens() -> None:
    page = read(metrics_of(Staged()))
    for reason in f.ExitReason:
        assert value(page, "worker_exits_total", pool="web", reason=reason.value) == 0
    for kill in f.KillReason:
        assert value(page, "worker_kills_total", pool="web", reason=kill.value) == 0
    for state in STATES:
        assert value(page, "pool_workers", pool="web", state=state) == (2 if state == "ready" else 0)
    assert value(page, "worker_start_duration_seconds_count", pool="web") == 0


def test_facts_are_counted() -> None:
    metrics = metrics_of(Staged())
    start(metrics, 1)
    metrics.fact(f.WorkerReady(1, "web", 0, 1, 0.3, None))
    metrics.fact(exited(1))
    start(metrics, 2)
    metrics.fact(f.WorkerReady(2, "web", 0, 1, 0.3, 0.5))
    metrics.fact(f.WorkerKilled(2, "web", 0, f.KillReason.DRAIN_TIMEOUT))
    metrics.fact(replace(exited(2, reason=f.ExitReason.STOP), asked=True, drained=25.0))
    page = read(metrics)
    assert value(page, "worker_starts_total", pool="web") == 2
    assert value(page, "worker_exits_total", pool="web", reason="crash") == 1
    assert value(page, "worker_exits_total", pool="web", reason="stop") == 1
    assert value(page, "worker_kills_total", pool="web", reason="drain_timeout") == 1
    assert value(page, "worker_start_duration_seconds_bucket", pool="web", le="0.5") == 2
    assert value(page, "worker_start_duration_seconds_bucket", pool="web", le="0.25") == 0
    assert value(page, "worker_start_duration_seconds_sum", pool="web") == pytest.approx(0.6)
    assert value(page, "worker_replacement_duration_seconds_count", pool="web") == 1
    assert value(page, "drain_duration_seconds_bucket", pool="web", le="25.0") == 1


def test_reloads_are_counted_for_the_pools_they_were_for_and_the_last_one_is_known() -> None:
    source = Staged()
    metrics = metrics_of(source)
    page = read(metrics)
    assert value(page, "config_last_reload_successful") == 1
    assert value(page, "config_last_reload_success_timestamp_seconds") == WALL
    metrics.fact(f.ReloadBegan(2, ("web",)))
    metrics.fact(f.ReloadEnded(2, f.Verdict.ROLLED_BACK, "it crashed", "", 3.0))
    page = read(metrics)
    assert value(page, "reloads_total", pool="web", verdict="rolled_back") == 1
    assert value(page, "reload_duration_seconds_sum", pool="web") == 3
    assert value(page, "config_last_reload_successful") == 0
    metrics.fact(f.ReloadBegan(3, ("web",)))
    metrics.fact(f.ReloadEnded(3, f.Verdict.SUPERSEDED, "another", "", 1.0))
    assert value(read(metrics), "config_last_reload_successful") == 0
    metrics.fact(f.ReloadBegan(4, ("web",)))
    metrics.fact(f.ReloadEnded(4, f.Verdict.PROMOTED, "ready", "", 1.0))
    assert value(read(metrics), "config_last_reload_successful") == 1
    metrics.fact(f.ReloadEnded(None, f.Verdict.REFUSED, "no such key", "", 0.0))
    page = read(metrics)
    assert value(page, "reloads_total", pool="web", verdict="refused") == 1
    assert value(page, "reload_duration_seconds_count", pool="web") == 3
    assert value(page, "config_last_reload_successful") == 0


def test_what_a_worker_counted_outlives_it() -> None:
    source = Staged(rows={1: busy_row(requests_2xx=5)}, given={(1, "http"): 9})
    metrics = metrics_of(source)
    start(metrics, 1)
    read(metrics)
    source.rows[1]["requests_2xx"] = 8  # after the last scrape, before its end
    metrics.fact(exited(1))
    source.rows.clear()
    source.given.clear()
    start(metrics, 2)
    source.rows[2] = busy_row(requests_2xx=1)
    source.given[2, "http"] = 1
    page = read(metrics)
    assert value(page, "http_requests_total", pool="web", slot="0", code_class="2xx") == 9
    assert value(page, "connections_total", pool="web", slot="0", listener="http") == 10


def test_what_cannot_be_true_is_not_believed() -> None:
    source = Staged(rows={1: busy_row(requests_2xx=5, connections_open=3, heartbeat_ns=int(99e9))})
    metrics = metrics_of(source)
    start(metrics, 1)
    read(metrics)
    source.rows[1] = dict.fromkeys(source.rows[1], 2**64 - 1) | {"heartbeat_ns": int(99e9)}
    page = read(metrics)
    assert value(page, "http_requests_total", pool="web", slot="0", code_class="2xx") == 5
    assert value(page, "connections_open", pool="web", slot="0") is None
    source.rows[1] = busy_row(requests_2xx=6, connections_open=2, heartbeat_ns=2**63)
    page = read(metrics)
    assert value(page, "http_requests_total", pool="web", slot="0", code_class="2xx") == 6
    assert value(page, "worker_heartbeat_age_seconds", pool="web", slot="0") is None  # a beat in the future


def test_a_worker_that_has_not_written_yet_has_no_gauges() -> None:
    metrics = metrics_of(Staged(rows={1: dict.fromkeys(busy_row(open_fds=0, connections_open=0), 0)}))
    start(metrics, 1)
    page = read(metrics)
    assert value(page, "worker_open_fds", pool="web", slot="0") is None
    assert value(page, "http_requests_total", pool="web", slot="0", code_class="2xx") == 0


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
        ("text/html,*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=garbage", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=1.0.0\x00\xff", "text/plain; version=0.0.4"),
    ],
)
def test_the_format_is_the_one_that_is_accepted(accept: str, content_type: str) -> None:
    metrics = metrics_of(everything())
    start(metrics, 1)
    page, given = metrics.page(accept)
    assert given.startswith(content_type)
    if "openmetrics" in content_type:
        assert page.endswith(b"# EOF\n")
        assert any(family.name == "clusterd_http_requests" for family in parse_openmetrics(page.decode()))


def test_who_scrapes_without_pause_gets_the_same_page_for_a_while_but_every_fact() -> None:
    source = everything()
    metrics = Metrics(source, "1.2.3", share=1e-6)
    start(metrics, 1)
    assert metrics.page() is not None
    source.rows[1]["requests_2xx"] += 1
    assert metrics.page()[0] is metrics.page()[0]
    before = value(read(metrics), "worker_exits_total", pool="web", reason="crash")
    metrics.fact(exited(1))
    assert value(read(metrics), "worker_exits_total", pool="web", reason="crash") == before + 1


def test_a_page_made_in_turns_is_the_same_and_holds_up_nobody() -> None:
    source = Staged(now_view=healthy_view(500))
    metrics = Metrics(source, "1.2.3", share=1)
    for worker in range(1, 501):
        start(metrics, worker, worker - 1)
        source.rows[worker] = {"requests_2xx": worker, "open_fds": 3, "heartbeat_ns": 1}
        source.given[worker, "http"] = worker

    async def scrape() -> tuple[int, bytes, bytes]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        watching = asyncio.create_task(others())
        pages = await asyncio.gather(metrics.page_in_turns(), metrics.page_in_turns())
        watching.cancel()
        return turns, pages[0][0], pages[1][0]

    turns, first, second = asyncio.run(scrape())
    assert first is second  # who asks while one is made gets that one
    assert turns >= 5
    told = {line for line in first.splitlines() if line.startswith(b"clusterd_http")}
    assert told == {line for line in metrics.page()[0].splitlines() if line.startswith(b"clusterd_http")}
    assert b'clusterd_http_requests_total{code_class="2xx",pool="web",slot="499"} 500.0' in told
    assert first.count(b"# TYPE clusterd_http_requests_total counter") == 1


class Histories(RuleBasedStateMachine):
    """Workers are born, write what they like into their rows, and die; whatever they do, no counter falls."""

    def __init__(self) -> None:
        super().__init__()
        self.source = Staged(rows={}, given={})
        self.clock = NOW
        self.metrics = Metrics(self.source, "1", share=1, clock=lambda: self.clock, wall=lambda: WALL + self.clock)
        self.seen: dict[tuple[str, Labels], float] = {}
        self.living: list[int] = []
        self.born = 0
        self.true_2xx: dict[int, int] = defaultdict(int)
        self.honest: set[int] = set()

    @rule(slot=st.integers(0, 2))
    def born_in(self, slot: int) -> None:
        self.born += 1
        start(self.metrics, self.born, slot)
        self.living.append(self.born)
        self.honest.add(self.born)
        self.source.rows[self.born] = {}

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9), more=st.integers(0, 1000))
    def works(self, which: int, more: int) -> None:
        worker = self.living[which % len(self.living)]
        self.true_2xx[worker] += more
        row = self.source.rows[worker]
        row["requests_2xx"] = self.true_2xx[worker]
        row["heartbeat_ns"] = int(self.clock * 1e9)
        self.source.given[worker, "http"] = self.true_2xx[worker]

    @precondition(lambda self: self.living)
    @rule(
        which=st.integers(0, 9),
        words=st.dictionaries(
            st.sampled_from(["requests_2xx", "cpu_ns", "connections_open", "heartbeat_ns", "resident_bytes"]),
            st.integers(0, 2**64 - 1) | st.integers(0, 5),
        ),
    )
    def lies(self, which: int, words: dict[str, int]) -> None:
        worker = self.living[which % len(self.living)]
        self.honest.discard(worker)
        self.source.rows[worker].update(words)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 9), reason=st.sampled_from(f.ExitReason), seen=st.booleans())
    def dies(self, which: int, reason: f.ExitReason, seen: bool) -> None:
        worker = self.living.pop(which % len(self.living))
        if not seen:  # its board was gone already
            self.honest.discard(worker)
            del self.source.rows[worker]
        self.metrics.fact(exited(worker, worker % 3, reason))
        self.source.rows.pop(worker, None)
        self.source.given.pop((worker, "http"), None)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds

    @invariant()
    def no_counter_falls(self) -> None:
        page = read(self.metrics)
        for key, old in self.seen.items():
            if key[0].endswith(("_total", "_bucket", "_count")):
                assert page.get(key, -1.0) >= old, key
        self.seen = {key: new for key, new in page.items() if key[0].startswith("clusterd_")}
        total = sum(
            new
            for (name, labels), new in page.items()
            if name == "clusterd_http_requests_total" and ("code_class", "2xx") in labels
        )
        assert total >= sum(self.true_2xx[worker] for worker in self.honest)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
