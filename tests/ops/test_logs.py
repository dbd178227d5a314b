import json
import os
import pty
import re
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.core import facts as f
from clusterd.ops.logs import FORMATS, Log, console_renderer, json_renderer, logfmt_renderer
from clusterd.ops.records import RECORDS, record_of
from tests.ops.staged import Staged, healthy_view

pytestmark = pytest.mark.usefixtures("no_fd_leak")

BOOT = f.ExitReason.BOOT
CRASH = f.ExitReason.CRASH

ONE_OF_EACH: list[f.Fact] = [
    f.ZygoteStarted("web", 1),
    f.ZygoteIsReady("web", 1, True, 0.51234),
    f.ZygoteEnded("web", 1, False, "Traceback\nKeyError: 1", 0.2),
    f.WorkerStarting(1, "web", 0, 1, False),
    f.WorkerSpawned(1, "web", 0),
    f.WorkerOnline(1, "web", 0),
    f.WorkerReady(1, "web", 0, 1, 0.1, None),
    f.WorkerBootFailed(1, "web", 0, "import", "Traceback\nKeyError: 1"),
    f.WorkerHung(1, "web", 0, "its event loop has not turned for 31 s"),
    f.StacksReported(1, "web", 0, "Thread 1: …"),
    f.WorkerRecycled(1, "web", 0, "max_requests: 1000 served"),
    f.SpareAdmitted(2, "web", 0, 0.001),
    f.WorkerDraining(1, "web", 0, f.ExitReason.STOP, 25.0),
    f.WorkerKilled(1, "web", 0, f.KillReason.DRAIN_TIMEOUT),
    f.WorkerExited(1, "web", 0, 1, None, 11, CRASH, False, 12.5, 10.0, None),
    f.WorkerSpawnFailed(1, "web", 0, "fork: no memory"),
    f.RestartScheduled("web", 0, 0.2, 1, 100.2),
    f.SlotHealthy("web", 0),
    f.SlotGaveUp("web", 0, 5),
    f.PoolGaveUp("web", "probe", True, 30.0),
    f.PoolRecovered("web"),
    f.Scaled("web", 3, 2),
    f.PoolStopped("web"),
    f.PoolStarted("web", 2),
    f.SlotHeld("web", 0),
    f.SlotReleased("web", 0),
    f.PoolRemoved("web"),
    f.ReloadBegan(2, ("web",)),
    f.CanaryBegan("web", 5, 2, 5.0),
    f.RollBegan(2),
    f.ReloadEnded(2, f.Verdict.ROLLED_BACK, "pool web: the new code could not be imported", "Traceback", 0.5),
    f.ServiceReady(True),
    f.ServiceUnready(("web",)),
    f.StopBegan(False, "SIGTERM"),
    f.PhaseChanged("draining"),
    f.Stopped(1, "no worker was ever ready", ()),
]


def logged(
    act: Callable[[Log], object], format: str = "json", level: str = "debug", source: Staged | None = None
) -> str:
    reading, writing = os.pipe()
    log = Log(writing, format, level, "shop", source)
    try:
        act(log)
        assert log.close(10.0)
    finally:
        os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        return stream.read()


def records(act: Callable[[Log], object], **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(act, **options).splitlines()]


def test_every_fact_of_the_core_has_its_record() -> None:
    assert set(RECORDS) == set(f.Fact.__args__)
    assert {type(fact) for fact in ONE_OF_EACH} == set(RECORDS)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "auto"])
def test_every_fact_can_be_written_in_every_format(format: str) -> None:
    text = logged(lambda log: [log.fact(fact) for fact in ONE_OF_EACH], format)
    for fact in ONE_OF_EACH:
        assert record_of(fact)[1] in text


def test_a_record_has_time_level_event_service_and_the_tags() -> None:
    (record,) = records(lambda log: log.fact(f.WorkerReady(3, "web", 0, 1, 0.12345, None)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(record.pop("timestamp"))).total_seconds()) < 60
    assert record == {
        "level": "info",
        "event": "worker_ready",
        "service": "shop",
        "pool": "web",
        "slot": 0,
        "worker": 3,
        "generation": 1,
        "took": 0.123,
    }


def test_records_below_the_level_are_left_out_but_output_is_not() -> None:
    def act(log: Log) -> None:
        log.emit("info", "listening")
        log.emit("warning", "odd")
        log.line("web", 0, 1, "stdout", "hello")

    assert [record["event"] for record in records(act, level="warning")] == ["odd", "output"]


def test_a_zygote_that_was_never_ready_has_failed_and_one_that_was_has_ended() -> None:
    def act(log: Log) -> None:
        log.fact(f.ZygoteEnded("web", 1, False, "why", 0.2))
        log.fact(f.ZygoteEnded("web", 1, True, "", None))

    found = records(act)
    assert [record["event"] for record in found] == ["zygote_failed", "crash_report", "zygote_ended", "crash_report"]
    assert found[1]["report"] == "why"
    assert "report" not in found[0]


def test_the_crash_report_says_what_is_known() -> None:
    source = Staged(rows={3: {"connections_open": 4, "connections_unread": 1}}, lines={3: ["about to", "Segmentation"]})
    exited = f.WorkerExited(3, "web", 0, 2, None, 11, CRASH, False, 75.0, 60.5, None)
    report = records(lambda log: log.fact(exited), source=source)[-1]
    assert report["event"] == "crash_report"
    assert report["level"] == "error"
    assert report["cause"] == (
        "worker 3 (web/0) was ended by SIGSEGV, up 1 m 15 s, ready for 1 m 0 s, 4 connections open, 1 of them unread"
    )
    wanted = {
        "pool": "web", "slot": 0, "worker": 3, "pid": os.getpid(), "generation": 2, "reason": "crash",
        "exit_code": None, "signal": "SIGSEGV", "uptime": 75.0, "ready_for": 60.5, "connections_open": 4,
        "connections_unread": 1, "last_output": ["about to", "Segmentation"], "report": "",
    }  # fmt: skip
    assert wanted.items() <= report.items()


def test_the_crash_report_of_a_failed_boot_has_its_traceback() -> None:
    def act(log: Log) -> None:
        log.fact(f.WorkerBootFailed(3, "web", 0, "lifespan", "Traceback\nKeyError: 1"))
        log.fact(f.WorkerExited(3, "web", 0, 1, 1, None, BOOT, False, 0.25, None, None))
        # The next worker's end is not explained by the failure of another.
        log.fact(f.WorkerExited(4, "web", 0, 1, 1, None, BOOT, False, 0.25, None, None))

    first, second = [record for record in records(act) if record["event"] == "crash_report"]
    assert first["report"] == "Traceback\nKeyError: 1"
    assert first["stage"] == "lifespan"
    assert first["cause"] == (
        "worker 3 (web/0) ended by itself with exit code 1, its lifespan had failed, up 0.25 s, never ready"
    )
    assert second["report"] == ""


def test_a_worker_that_clusterd_killed_is_said_to_be() -> None:
    def act(log: Log) -> None:
        log.fact(f.WorkerKilled(3, "web", 0, f.KillReason.START_TIMEOUT))
        log.fact(f.WorkerExited(3, "web", 0, 1, None, 9, BOOT, False, 60.0, None, None))

    report = records(act)[-1]
    assert report["killed"] == "start_timeout"
    assert report["cause"].startswith("worker 3 (web/0) was killed: it was not ready within start_timeout")


def test_one_that_was_not_ready_in_time_is_told_with_what_it_was_waited_for() -> None:
    def act(log: Log) -> None:
        log.fact(f.WorkerKilled(3, "web", 0, f.KillReason.START_TIMEOUT))
        log.fact(f.WorkerExited(3, "web", 0, 1, None, 9, BOOT, False, 60.0, None, None))

    report = records(act, source=Staged(waits_for={"web": "the moon"}))[-1]
    assert report["awaited"] == "the moon"
    assert "it was not ready within start_timeout, it was waited for the moon, up 1 m 0 s" in report["cause"]


def test_an_end_that_was_asked_for_is_no_crash() -> None:
    exited = f.WorkerExited(3, "web", 0, 1, 0, None, f.ExitReason.STOP, True, 60.0, 59.0, 0.1)
    log_of: list[Log] = []
    found = records(lambda log: (log_of.append(log), log.fact(exited)))
    assert [(record["event"], record["level"]) for record in found] == [("worker_exited", "info")]
    assert log_of[0].last_report is None


def test_a_drain_that_had_to_be_forced_is_reported() -> None:
    def act(log: Log) -> None:
        log.fact(f.WorkerKilled(3, "web", 0, f.KillReason.DRAIN_TIMEOUT))
        log.fact(f.WorkerExited(3, "web", 0, 1, None, 9, f.ExitReason.STOP, True, 60.0, 59.0, 20.0))

    report = records(act)[-1]
    assert (report["event"], report["killed"]) == ("crash_report", "drain_timeout")
    assert report["cause"].startswith("worker 3 (web/0) was killed: it had not finished within the drain timeout")


def test_the_last_report_is_kept_for_the_last_words() -> None:
    log_of: list[Log] = []

    def act(log: Log) -> None:
        log_of.append(log)
        log.fact(f.ZygoteEnded("web", 1, False, "Traceback\n  in shop\nKeyError: 1", 0.2))

    records(act)
    report = log_of[0].last_report
    assert report is not None
    cause = "the zygote of pool web, generation 1, up 0.00 s, could not be started or failed before it was ready"
    assert report.text().splitlines() == [
        f"crash report: {cause}; the next one in 0.20 s",
        "  it reported:",
        "    Traceback",
        "      in shop",
        "    KeyError: 1",
    ]


def test_a_crash_report_is_a_block_on_the_console() -> None:
    source = Staged(lines={3: ["last words"]})
    exited = f.WorkerExited(3, "web", 0, 2, 1, None, CRASH, False, 75.0, 60.5, None)
    lines = logged(lambda log: log.fact(exited), "console", source=source).splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \[error    \] crash_report", lines[1])
    assert lines[2].startswith("crash report: worker 3 (web/0) ended by itself with exit code 1")
    assert lines[-1] == "    last words"


def test_output_of_a_zygote_is_said_to_be() -> None:
    (record,) = records(lambda log: log.line("web", None, None, "stderr", "importing"))
    assert record.items() >= {"event": "output", "pool": "web", "zygote": True, "text": "importing"}.items()
    assert "worker" not in record
    text = logged(lambda log: log.line("web", None, None, "stderr", "importing"), "console")
    assert text.endswith(" web/zygote ! importing\n")


def test_output_that_is_too_long_is_cut_off_and_says_so() -> None:
    (record,) = records(lambda log: log.line("web", 0, 1, "stdout", "x" * 100_000))
    assert len(record["text"]) == 16 * 1024
    assert record["cut_off"] == 100_000 - 16 * 1024


@pytest.mark.parametrize("format", ["console", "logfmt"])
def test_output_cannot_steer_a_terminal_or_forge_a_record(format: str) -> None:
    text = logged(lambda log: log.line("web", 0, 1, "stdout", "a\x1b]0;title\x07b\r\x1b[2Jc\x9b31m"), format)
    assert text.count("\n") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_colours_of_a_worker_pass_on_a_terminal_only() -> None:
    record = json.loads(logged(lambda log: log.line("web", 0, 1, "stderr", "\x1b[31mred\x1b[0m \x1b[2J")))
    assert console_renderer(True)(dict(record)).endswith("web/0 ! \x1b[31mred\x1b[0m \\x1b[2J\x1b[0m")
    assert console_renderer(False)(dict(record)).endswith("web/0 ! red \\x1b[2J")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(fields=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=4))
def test_any_fields_give_one_line_in_every_format(fields: dict[str, Any]) -> None:
    base = {"timestamp": "2026-01-01T00:00:00.000Z", "level": "info", "event": "x", "service": "shop"}
    record = {**{key: value for key, value in fields.items() if key not in ("exception", "stack", "exc_info")}, **base}
    assert json.loads(json_renderer()(dict(record)))["event"] == "x"
    for render in (json_renderer(), logfmt_renderer(), console_renderer(False), console_renderer(True)):
        assert "\n" not in render(dict(record))


def test_a_name_that_is_no_utf_8_is_escaped() -> None:
    (record,) = records(lambda log: log.emit("info", "odd", path=os.fsdecode(b"/tmp/\xff"), deep=[{"a": "\udcff"}]))
    assert record["path"] == "/tmp/\\udcff"


def test_auto_is_console_on_a_terminal_and_json_elsewhere(tmp_path: Path) -> None:
    leader, terminal = pty.openpty()
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        for fd, expected in ((terminal, "console"), (file, "json")):
            log = Log(fd)
            assert log.format == expected
            log.close()
    finally:
        for fd in (leader, terminal, file):
            os.close(fd)


def test_a_status_dump_is_written_whatever_the_level() -> None:
    found = records(lambda log: log.dump(healthy_view(2)), level="error")
    assert [record["event"] for record in found] == ["status", "status_pool", "status_slot", "status_slot"]
    assert found[2]["state"] == "ready"
    assert found[2]["uptime"] == 10.0


# -- lines that are JSON -------------------------------------------------------------------------------------------


def one_line(text: str, **options: Any) -> str:
    return logged(lambda log: log.line("web", 0, 7, "stderr", text), **options)


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"event": "paid", "order": 7, "level": "error"}, "error"),
        ({"message": "paid", "levelname": "WARNING", "nested": {"a": [1]}}, "warning"),
        ({"msg": "paid", "severity": "NOTICE"}, "info"),
        ({"event": "paid", "level": 50}, "critical"),
        ({"event": "stopped", "level": "unheard of", "service": "forged"}, "info"),
    ],
)
def test_a_line_that_is_an_object_is_passed_on_as_fields(fields: dict[str, Any], level: str) -> None:
    (record,) = records(lambda log: log.line("web", 0, 7, "stderr", json.dumps(fields)))
    assert record["app"] == fields
    assert (record["event"], record["level"], record["service"]) == ("output", level, "shop")
    assert (record["pool"], record["slot"], record["worker"], record["stream"]) == ("web", 0, 7, "stderr")
    assert "text" not in record


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["{}", "{not json}", '["a"]', '{"a": 1} trailing', '"text"', "{" * 5000 + "}" * 5000, '{"a": "\\ud800"}']
)
def test_what_only_looks_like_one_stays_text(text: str) -> None:
    (record,) = records(lambda log: log.line("web", 0, 7, "stdout", text))
    if "app" in record:  # whether half a surrogate is JSON is for the parser to say
        assert text.startswith('{"a": "')
    else:
        assert record["text"] == text


def test_such_a_line_is_readable_on_the_console_and_flat_in_logfmt() -> None:
    text = json.dumps({"timestamp": "x", "event": "paid", "level": "error", "order": 7, "a b\x1b": {"c": "\x1b[2J"}})
    console = one_line(text, format="console")
    assert "web/0" in console
    assert "error" in console
    assert "paid" in console
    assert "order=7" in console
    assert "\x1b" not in console
    flat = one_line(text, format="logfmt")
    assert "event=output" in flat
    assert "app.event=paid" in flat
    assert "app.order=7" in flat
    assert "\x1b" not in flat


@pytest.mark.slow
@given(st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.floats() | st.integers(), st.lists)))
def test_whatever_object_a_worker_prints_every_format_writes_one_line(fields: dict[str, Any]) -> None:
    text = json.dumps(fields)
    who = {"pool": "web", "slot": 0, "stream": "stdout"}
    record = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "event": "output", **who, "text": text}
    for render in (json_renderer(), logfmt_renderer(), console_renderer(False), console_renderer(True)):
        assert "\n" not in render(record)


# -- the journal -----------------------------------------------------------------------------------------------------


def test_in_the_journal_each_line_has_its_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = socket.socketpair()
    with theirs, ours:
        status = os.fstat(ours.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log = Log(ours.fileno(), "console", "debug", "shop")
        log.emit("error", "one")
        log.emit("debug", "two")
        log.line("web", 0, 1, "stdout", '{"level": "critical", "event": "three"}')
        log.slow_request("a\nb", pool="web", slot=0, worker=1, method="GET", path="/", seconds=1.5, where="task")
        assert log.close(10.0)
        said = theirs.recv(65536).decode().splitlines()
    assert [line[:3] for line in said] == ["<3>", "<7>", "<2>", "<4>", "<4>", "<4>", "<4>"]


def test_where_output_goes_elsewhere_nothing_is_before_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("1:2", "", "nonsense", "1:"):
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        assert logged(lambda log: log.emit("error", "one")).startswith("{")
