"""Reloads of a real service under load: a verdict for each, and not one request lost."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real.clients import fetch
from tests.real.harness import Launcher, Service, Settings
from tests.real.playground import Load, deploy

APP = """
import asyncio, os, sys, time
VERSION = {version!r}
{at_import}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {at_startup}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        return await send({{"type": "lifespan.shutdown.complete"}})
    status = {status}
    body = f"{{VERSION}} {{os.getpid()}}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": status, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""

FAST: Settings = {"pools": {"web": {"reload": {"canary": "300ms"}}}}


def source(version: str, *, at_import: str = "", at_startup: str = "pass", status: str = "200") -> str:
    return APP.format(version=version, at_import=at_import, at_startup=at_startup, status=status)


def write(launcher: Launcher, text: str) -> None:
    """The service's new code."""
    deploy(launcher.folder / "app.py", text)


def start(launcher: Launcher, settings: Settings = FAST, *, workers: int = 2, text: str | None = None) -> Service:
    write(launcher, text or source("one"))
    config = launcher.configuration(settings, workers=workers)
    return launcher.run("--config", str(config)).wait_ready()


def reload(service: Service) -> dict[str, object]:
    """SIGHUP, and its verdict."""
    mark = service.mark()
    service.signal(signal.SIGHUP)
    return dict(service.wait_log("reload_ended", after=mark, deadline=60))


def versions(service: Service, count: int = 6) -> set[str]:
    return {service.get().text.split()[0] for _ in range(count)}


def test_new_code_takes_over_under_load_without_a_request_lost(launcher: Launcher) -> None:
    service = start(launcher)
    service.wait_log("zygote_ready")
    zygotes = len(service.logged("zygote_ready"))
    with Load(service.address()).running(4) as load:
        for version in ("two", "three", "four"):
            write(launcher, source(version))
            ended = reload(service)
            assert ended["verdict"] == "promoted", ended
            assert versions(service) == {version}
    assert load.lost == []
    assert load.answered > 50
    assert len(service.logged("zygote_ready")) == zygotes + 3
    wait_for(lambda: [worker["generation"] for worker in service.workers()] == [4, 4], 20, "the old ones' end")
    assert not service.logged("service_unready")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (source("two", at_import="raise KeyError('a slip')"), "could not be imported"),
        (source("two", at_import="sys.exit(3)"), "could not be imported"),
        ("nothing = 1", "could not be imported"),
        (source("two", at_startup="raise SystemExit(4)"), "before it was ready"),
        (source("two", at_startup="os._exit(5)"), "before it was ready: exit code 5"),
        (source("two", at_startup="asyncio.get_running_loop().call_later(0.1, os._exit, 6)"), "exit code 6"),
        (source("two", at_import="time.sleep(60)"), "not imported in time"),
        (source("two", at_startup="await asyncio.sleep(60)"), "before it was ready: signal 9"),
    ],
    ids=[
        "raises",
        "exits",
        "lacks the attribute",
        "lifespan fails",
        "dies at start",
        "dies soon",
        "hangs",
        "hangs later",
    ],
)
def test_bad_code_is_rolled_back_and_harms_nobody(launcher: Launcher, text: str, reason: str) -> None:
    settings: Settings = {"pools": {"web": {"start_timeout": "2s", "reload": {"canary": "1s"}}}}
    service = start(launcher, settings)
    pids = {worker["pid"] for worker in service.workers()}
    with Load(service.address()).running(2) as load:
        write(launcher, text)
        ended = reload(service)
    assert ended["verdict"] == "rolled_back"
    assert reason in str(ended["reason"]), ended
    assert len(load.lost) <= ("call_later" in text) * 2, "but for what a worker that dies at work takes with it"
    assert {worker["pid"] for worker in service.workers()} == pids
    assert versions(service) == {"one"}


def test_the_report_of_a_bad_import_has_the_traceback(launcher: Launcher) -> None:
    service = start(launcher)
    write(launcher, source("two", at_import="raise KeyError('a slip')"))
    assert "KeyError: 'a slip'" in str(reload(service)["report"])


def test_errors_of_the_new_code_roll_it_back(launcher: Launcher) -> None:
    service = start(launcher, {"pools": {"web": {"reload": {"canary": "20s"}}}})
    with Load(service.address()).running(4):
        write(launcher, source("two", status="500 if os.urandom(1) < b'\\x80' else 200"))
        ended = reload(service)
    assert ended["verdict"] == "rolled_back"
    assert "were errors (5xx)" in str(ended["reason"])
    assert versions(service) == {"one"}


def test_a_bad_file_is_refused_and_the_running_one_kept(launcher: Launcher) -> None:
    service = start(launcher)
    config = launcher.folder / "clusterd.toml"
    config.write_text(config.read_text().replace("workers", "wrokers"))
    ended = reload(service)
    assert ended["verdict"] == "refused"
    assert "wrokers" in str(ended["reason"])
    assert versions(service) == {"one"}


def test_a_second_reload_supersedes_the_first_and_term_wins_over_both(launcher: Launcher) -> None:
    service = start(launcher, {"pools": {"web": {"reload": {"canary": "60s"}}}})
    service.signal(signal.SIGHUP)
    service.wait_log("reload_canary")
    mark = service.mark()
    service.signal(signal.SIGHUP)
    assert service.wait_log("reload_ended", after=mark)["verdict"] == "superseded"
    service.wait_log("reload_canary", after=mark)
    mark = service.mark()
    service.signal(signal.SIGTERM)
    assert service.wait_log("reload_ended", after=mark)["verdict"] == "stopped"
    assert service.wait_exit() == 0


def change(launcher: Launcher, edit: Callable[[str], str]) -> None:
    config = launcher.folder / "clusterd.toml"
    config.write_text(edit(config.read_text()))


def test_listeners_and_pools_come_and_go(launcher: Launcher, tmp_path: Path) -> None:
    service = start(launcher, {"listeners": {"extra": {"address": "127.0.0.1:0"}}, **FAST})
    extra = service.address("extra")
    pool = '\n[listeners.more]\naddress = "unix:more.sock"\n[pools.other]\napp = "app:app"\nworkers = 1\n'
    change(launcher, lambda text: text.replace("[listeners.extra]", "[listeners.third]") + pool)
    change(launcher, lambda text: text.replace('app = "app:app"', 'app = "app:app"\nlisteners = ["http", "third"]', 1))
    change(launcher, lambda text: text.replace("workers = 1\n", 'workers = 1\nlisteners = ["more"]\n'))
    with Load(service.address()).running(2) as load:
        assert reload(service)["verdict"] == "promoted"
    assert load.lost == []
    more = f"unix:{launcher.folder}/more.sock"
    assert service.status()["pools"][1]["name"] == "other"
    assert fetch(more).status == 200

    def refused() -> bool:
        try:
            fetch(extra, timeout=2)
        except OSError as error:
            return isinstance(error, ConnectionRefusedError)
        return False  # its last workers have not gone yet

    wait_for(refused, 20, "the end of the listener")
    change(launcher, lambda text: text.partition("\n[listeners.more]")[0])
    assert reload(service)["verdict"] == "promoted"
    wait_for(lambda: not os.path.exists(f"{launcher.folder}/more.sock"), 20, "the file's end")
    wait_for(lambda: len(service.status()["pools"]) == 1, 20, "the pool's end")


def test_a_listener_that_cannot_be_had_refuses_the_reload(launcher: Launcher) -> None:
    service = start(launcher)
    change(launcher, lambda text: text + '\n[listeners.more]\naddress = "unix:/nowhere/at/all.sock"\n')
    ended = reload(service)
    assert ended["verdict"] == "refused"
    assert "/nowhere/at/all.sock" in str(ended["reason"])
    assert versions(service) == {"one"}


def test_what_takes_a_restart_is_said(launcher: Launcher) -> None:
    service = start(launcher)
    change(launcher, lambda text: text.replace("[log]", "[log]\ncrash_lines = 7"))
    assert reload(service)["verdict"] == "promoted"
    assert "log.crash_lines" in str(service.wait_log("reload_partial")["reason"])


def test_the_number_of_workers_follows_the_file(launcher: Launcher) -> None:
    service = start(launcher)
    change(launcher, lambda text: text.replace("workers = 2", "workers = 3"))
    assert reload(service)["verdict"] == "promoted"
    wait_for(lambda: len(service.workers()) == 3, 20, "the third worker")


def test_without_preload_no_old_worker_goes_before_all_the_new_are_ready(launcher: Launcher) -> None:
    service = start(launcher, {"pools": {"web": {"preload": False, "reload": {"canary": "300ms"}}}}, workers=3)
    write(launcher, source("two"))
    mark = service.mark()
    with Load(service.address()).running(2) as load:
        assert reload(service)["verdict"] == "promoted"
        service.wait_log("worker_draining", after=mark)
    assert load.lost == []
    events = [(record["event"], record.get("generation")) for record in service.records[mark:]]
    names = [event for event, _ in events]
    assert events[: names.index("worker_draining")].count(("worker_ready", 2)) == 3


def test_a_file_that_is_gone_refuses_the_reload(launcher: Launcher) -> None:
    write(launcher, source("one"))
    config = launcher.configuration(FAST)
    service = launcher.run().wait_ready()  # it finds ./clusterd.toml
    config.rename(config.with_suffix(".away"))
    assert reload(service)["verdict"] == "refused"
    assert versions(service) == {"one"}
