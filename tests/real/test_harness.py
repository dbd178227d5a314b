"""The harness itself, against a stand-in for clusterd: it must see what goes wrong, or no real test proves anything."""

import os
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.procfs import processes_marked
from tests.real.harness import Launcher, Settings, merged, toml

STAND_IN = """
import json, os, signal, socket, subprocess, sys

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
print("not JSON", flush=True)
print(json.dumps({"event": "listening", "listener": "http", "address": "127.0.0.1:1"}), file=sys.stderr, flush=True)
if "leak" in sys.argv:
    subprocess.Popen(["sleep", "300"])
if "die" in sys.argv:
    sys.exit(3)
notify.send(b"READY=1\\nSTATUS=2 of 2 ready")
print(json.dumps({"event": "service_ready"}), file=sys.stderr, flush=True)
signal.sigwait({signal.SIGTERM})
notify.send(b"STOPPING=1")
sys.exit(4 if "unclean" in sys.argv else 0)
"""


@pytest.fixture
def standing_in(tmp_path: Path, run_dir: Path) -> Iterator[Launcher]:
    """A launcher whose ``python -m clusterd`` is the stand-in: a module in the working directory comes first."""
    (tmp_path / "clusterd").mkdir()
    (tmp_path / "clusterd" / "__init__.py").touch()
    (tmp_path / "clusterd" / "__main__.py").write_text(STAND_IN)
    launcher = Launcher(tmp_path, run_dir)
    yield launcher
    for service in launcher.services:
        if service.alive():
            service.destroy()


def test_log_records_and_notifications_wake_the_waiting_test(standing_in: Launcher) -> None:
    service = standing_in.run().wait_ready()
    assert service.address() == "127.0.0.1:1"
    service.wait_log(lambda record: record.get("raw") == "not JSON")
    service.signal(signal.SIGTERM)
    service.wait_notify("STOPPING=1")
    assert service.wait_exit() == 0
    standing_in.finish()


def test_a_wait_ends_with_the_service_and_not_with_its_deadline(standing_in: Launcher) -> None:
    service = standing_in.run("die")
    with pytest.raises(pytest.fail.Exception, match="ended before"):
        service.wait_log("never said", deadline=50)
    assert service.wait_exit() == 3
    standing_in.finish()


def test_a_process_left_behind_fails_the_test_and_is_killed(
    standing_in: Launcher, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.real.harness.DEADLINE", 0.5)
    standing_in.run("leak").wait_ready()
    with pytest.raises(pytest.fail.Exception, match="every process"):
        standing_in.finish()
    assert not processes_marked(run_dir)


def test_an_unclean_end_fails_the_test(standing_in: Launcher) -> None:
    standing_in.run("unclean").wait_ready()
    with pytest.raises(AssertionError, match="cleanly"):
        standing_in.finish()


def test_the_service_inherits_nothing_of_a_surrounding_service(
    standing_in: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERD_CONFIG", "elsewhere.toml")
    monkeypatch.setenv("PORT", "1")
    service = standing_in.run(env={"EXTRA": "1"}).wait_ready()
    environment = Path(f"/proc/{service.pid}/environ").read_bytes().split(b"\0")
    assert b"EXTRA=1" in environment
    assert b"CLUSTERD_RUN_DIR=" + os.fsencode(service.run_dir) in environment
    assert not [item for item in environment if item.startswith((b"CLUSTERD_CONFIG=", b"PORT="))]
    standing_in.finish()


def test_a_pool_that_says_nothing_of_it_is_ready_with_all_of_its_workers(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, tmp_path)

    def needed(settings: Settings, **how: int) -> list[object]:
        pools = tomllib.loads(launcher.configuration(settings, **how).read_text())["pools"]
        return [pool.get("min_ready") for pool in pools.values()]

    assert needed({}) == [2]
    assert needed({}, workers=3) == [3]
    assert needed({"pools": {"web": {"workers": 1}, "more": {"app": "more:app", "workers": 4}}}) == [1, 4]
    assert needed({"pools": {"web": {"min_ready": 1}}}) == [1]
    assert needed({"pools": {"web": {"workers": "auto"}, "more": {"app": "more:app"}}}) == [None, None]


def test_settings_are_laid_over_each_other_and_read_back_the_same() -> None:
    settings = merged(
        {"a": 1, "pools": {"web": {"app": "x:y", "workers": 2}}},
        {"pools": {"web": {"app": None, "env": {"K": 'v"'}}, "cpu": {"args": ["-x"], "on": True}}},
    )
    assert settings["pools"]["web"] == {"workers": 2, "env": {"K": 'v"'}}
    assert tomllib.loads(toml(settings)) == settings
