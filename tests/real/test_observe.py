"""What a service tells of itself while it works: metrics that add up, log records, the output of its workers."""

import signal
from http.client import HTTPException
from itertools import pairwise

import pytest

from tests.procfs import wait_for
from tests.real.clients import Metrics, ask
from tests.real.harness import IN_TURN, Launcher, Record, Service, kill, merged
from tests.real.playground import LIVES, Load, read_until, up


def test_the_metrics_say_what_the_traffic_was(launcher: Launcher) -> None:
    service = up(launcher, IN_TURN, workers=2)
    with service.client() as one, service.client() as two:
        for client in (one, two):
            for code in (200, 201, 302, 404, 404, 503):
                ask(client, f"/status?code={code}")
        for _ in range(6):
            service.get()
        for _ in range(2):
            assert service.get("/fail").status == 500
        metrics = service.metrics()
        assert metrics.value("clusterd_connections_total", pool="web", listener="http") == 10
        for slot in ("0", "1"):
            assert metrics.value("clusterd_connections_total", slot=slot) == 5
            classes = {"2xx": 5, "3xx": 1, "4xx": 2, "5xx": 2, "1xx": 0}
            for code_class, count in classes.items():
                assert metrics.value("clusterd_http_requests_total", slot=slot, code_class=code_class) == count
        wait_for(lambda: service.metrics().value("clusterd_connections_open", pool="web") == 2, 20)
        wait_for(lambda: service.metrics().value("clusterd_http_requests_in_flight") == 0, 20)
    wait_for(lambda: service.metrics().value("clusterd_connections_open") == 0, 20)


def test_the_metrics_say_what_is_in_flight(launcher: Launcher) -> None:
    service = up(launcher)
    with service.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n")
        service.wait_log("output", text="begun")
        # A gauge of the worker's own beat, so at most a second old.
        wait_for(lambda: service.metrics().value("clusterd_http_requests_in_flight", slot="0") == 1, 20)


EXPECTED = (
    "build_info",
    "config_info",
    "ready",
    "pool_workers",
    "pool_workers_desired",
    "pool_generation",
    "worker_starts_total",
    "worker_exits_total",
    "worker_kills_total",
    "worker_heartbeat_age_seconds",
    "worker_start_duration_seconds_count",
    "worker_replacement_duration_seconds_bucket",
    "drain_duration_seconds_sum",
    "handover_duration_seconds_bucket",
    "http_request_duration_seconds_bucket",
    "event_loop_lag_seconds_bucket",
    "pool_saturation_ratio",
    "connections_total",
    "connections_open",
    "connections_reclaimed_total",
    "http_requests_total",
    "http_requests_in_flight",
    "listener_backlog_connections",
    "listener_backlog_limit",
    "worker_cpu_seconds_total",
    "worker_resident_memory_bytes",
    "worker_open_fds",
    "worker_max_fds",
)
"""Rows that a service has from its first second on."""


def test_every_row_is_there_from_the_beginning(launcher: Launcher) -> None:
    service = up(launcher, workers=2)
    service.get()
    metrics = service.metrics()
    assert [name for name in EXPECTED if f"clusterd_{name}" not in metrics.names()] == []
    assert metrics.value("clusterd_build_info") == metrics.value("clusterd_config_info") == 1
    assert metrics.value("clusterd_pool_workers", state="ready") == 2
    assert metrics.value("clusterd_pool_workers_desired", pool="web") == 2
    assert metrics.value("clusterd_worker_starts_total", pool="web") == 2
    assert metrics.value("clusterd_worker_start_duration_seconds_count", pool="web") == 2
    assert metrics.value("clusterd_listener_backlog_limit", listener="http") > 0
    assert metrics.value("clusterd_handover_duration_seconds_count", pool="web") == 1
    assert metrics.value("clusterd_http_request_duration_seconds_count", pool="web") == 1
    assert 0 < metrics.value("clusterd_http_request_duration_seconds_sum", pool="web") < 20
    assert 0 < metrics.value("clusterd_worker_resident_memory_bytes", slot="0") < 1 << 30
    assert 0 < metrics.value("clusterd_worker_open_fds", slot="0") < metrics.value("clusterd_worker_max_fds", slot="0")
    assert not any("pid" in sample.labels for sample in metrics.samples)


def counters(metrics: Metrics) -> dict[tuple[str, str], float]:
    return {
        (sample.name, str(sorted(sample.labels.items()))): sample.value
        for sample in metrics.samples
        if sample.name.startswith("clusterd_") and sample.name.endswith(("_total", "_count", "_bucket"))
    }


def fallen(before: Metrics, after: Metrics) -> dict[tuple[str, str], float]:
    """Counters that are less than they were, or gone."""
    late = counters(after)
    return {key: value for key, value in counters(before).items() if late.get(key, -1.0) < value}


def test_no_counter_falls_when_workers_die_and_every_end_has_its_reason(launcher: Launcher) -> None:
    service = up(launcher, merged(LIVES, IN_TURN), workers=2)  # what is given to another counts twice
    pages = [service.metrics()]
    ready = 2

    def replaced() -> None:
        nonlocal ready
        ready += 1
        service.wait_log("worker_ready", count=ready)
        pages.append(service.metrics())

    for _ in range(10):
        service.get("/status")
    kill(service.workers()[0]["pid"])
    replaced()
    for path in ("/exit?code=3", "/exit?code=0", "/segv"):
        with pytest.raises((ConnectionError, HTTPException)):
            service.get(path)
        replaced()
    service.signal(signal.SIGTTIN)
    replaced()
    service.signal(signal.SIGTTOU)
    service.wait_log("worker_exited", reason="scale")
    for _ in range(10):
        service.get("/status")
    pages.append(service.metrics())
    for before, after in pairwise(pages):
        assert fallen(before, after) == {}
    last = pages[-1]
    assert last.value("clusterd_http_requests_total", code_class="2xx") == 20
    assert last.value("clusterd_connections_total") == 23
    exits = {
        reason: last.value("clusterd_worker_exits_total", reason=reason)
        for reason in ("crash", "voluntary", "scale", "boot", "stop")
    }
    assert exits == {"crash": 3, "voluntary": 1, "scale": 1, "boot": 0, "stop": 0}
    assert last.value("clusterd_worker_starts_total") == 7
    assert last.value("clusterd_worker_replacement_duration_seconds_count") == 4
    assert last.value("clusterd_drain_duration_seconds_count") == 1


def test_every_line_is_json_and_says_whom_it_is_about(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=2)
    with pytest.raises((ConnectionError, HTTPException)):
        service.get("/exit?code=9")
    service.wait_log("worker_ready", count=3)
    assert service.stop() == 0
    assert not [record for record in service.records if "raw" in record]
    for record in service.records:
        assert {"timestamp", "level", "event", "service"} <= record.keys()
        assert record["service"] == "test"
        if record["event"].startswith("worker_"):
            assert {"pool", "slot", "worker"} <= record.keys(), record
    exited = service.wait_log("worker_exited", code=9)
    report = service.wait_log("crash_report", worker=exited["worker"])
    assert (report["pool"], report["slot"], report["exit_code"]) == ("web", exited["slot"], 9)


# -- the output of workers --------------------------------------------------------------------------------------


def lines(service: Service, stream: str) -> list[str]:
    return [record["text"] for record in service.logged("output", stream=stream) if "text" in record]


def post(service: Service, path: str, body: bytes) -> None:
    with service.client() as client:
        client.request("POST", path, body)
        assert client.getresponse().read() == b"written"


def test_output_is_told_line_by_line_with_its_stream_and_its_worker(launcher: Launcher) -> None:
    service = up(launcher)
    post(service, "/write?stderr=1", b"one\ntwo\r\n\n  indented\n")
    service.wait_log("output", stream="stderr", text="  indented")
    service.wait_log("output", stream="stdout", text="  indented")
    expected = ["one", "two", "", "  indented"]
    assert lines(service, "stdout") == lines(service, "stderr") == expected
    (worker,) = service.workers()
    for record in service.logged("output"):
        assert (record["pool"], record["slot"], record["worker"]) == ("web", 0, worker["id"])


def test_bytes_that_are_no_text_are_shown_escaped_and_forge_no_record(launcher: Launcher) -> None:
    service = up(launcher)
    post(service, "/write", b'\xff\x00\x1b[2J {"event": "worker_ready"}\n\xe2\x82\xac\n{"event": "stopped"}\n')
    service.wait_log("output", app={"event": "stopped"})
    assert lines(service, "stdout")[:2] == ['\\xff\x00\x1b[2J {"event": "worker_ready"}', "€"]
    assert len(service.logged("worker_ready")) == 1
    assert service.logged("stopped") == []


def test_a_line_without_an_end_is_told_at_the_end_and_a_long_one_in_pieces(launcher: Launcher) -> None:
    service = up(launcher, LIVES)
    post(service, "/write", b"x" * 20_000 + b"\nthe last words")
    service.wait_log(lambda record: record.get("event") == "output" and record["text"].startswith("xxx"))
    kill(service.workers()[0]["pid"])
    service.wait_log("output", text="the last words")
    said = lines(service, "stdout")
    assert sum(len(text) for text in said[:-1]) == 20_000
    report = service.wait_log("crash_report", signal="SIGKILL")
    assert report["last_output"][-1] == "the last words"


def test_only_the_last_lines_go_into_a_crash_report(launcher: Launcher) -> None:
    service = up(launcher, {**LIVES, "log": {"crash_lines": 5}})
    post(service, "/write", b"".join(b"line %d\n" % number for number in range(100)))
    kill(service.workers()[0]["pid"])
    report = service.wait_log("crash_report", signal="SIGKILL")
    assert report["last_output"] == [f"line {number}" for number in range(95, 100)]


def test_a_flood_of_output_stops_nobody_and_nothing_of_it_is_kept(launcher: Launcher) -> None:
    service = up(launcher, workers=2)
    with Load(service.address()).running(4) as load, service.connect() as noisy:
        wait_for(lambda: load.answered > 50, 20)
        noisy.sendall(b"GET /flood?lines=50000 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        assert read_until(noisy, b"\0").endswith(b"flooded")
        assert service.health("/livez").status == 200
        answered = load.answered
        wait_for(lambda: load.answered > answered + 50, 20)
    assert load.lost == []
    told = len([text for text in lines(service, "stdout") if text == "x" * 99])
    dropped = sum(record["count"] for record in service.logged("log_records_dropped"))
    assert told + dropped <= 50_000
    assert told > 0
    assert service.stop() == 0


def test_output_is_left_alone_where_it_is_inherited(launcher: Launcher) -> None:
    service = up(launcher, {"log": {"worker_output": "inherit"}})
    post(service, "/write?stderr=1", b"mine alone\n")

    def mine(record: Record) -> bool:
        return record.get("raw") == "mine alone"

    service.wait_log(mine, count=2)
    assert service.logged("output") == []
