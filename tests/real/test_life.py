"""How services and workers begin, end and come back: readiness, back-off, giving up, signals."""

import os
import signal
import time
from collections.abc import Sequence
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.procfs import wait_for
from tests.real.harness import HELLO, IN_TURN, Launcher, Record, Service, kill
from tests.real.playground import LIVES, last_words, up

GATED = """
import os
from pathlib import Path
import app as playground

if not Path("gate").exists():
    raise RuntimeError("the dependency is away")
app = playground.app
"""
"""Can be imported while the file ``gate`` is there. ``preload`` off: each worker tries for itself."""

SHORT_LIVED = """
import asyncio, os

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("born", flush=True)
    await asyncio.sleep(0.3)
    os._exit(7)
"""

NO_DATABASE = """
async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    print("trying the database", flush=True)
    await send({"type": "lifespan.startup.failed", "message": "no database at db:5432"})
"""


def moment(record: Record) -> float:
    """When it was said, in seconds since some moment."""
    hours, minutes, seconds = record["timestamp"][11:-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def pool(**restart: object) -> dict[str, Any]:
    return {"pools": {"web": {"restart": restart}}}


def within_jitter(delays: Sequence[float], *row: float) -> bool:
    """Each delay is that of the row, plus 0 to 20 % (and what rounding to a millisecond does)."""
    return len(delays) == len(row) and all(
        nominal - 0.001 <= delay <= nominal * 1.2 + 0.001 for delay, nominal in zip(delays, row, strict=True)
    )


def lost(service: Service, path: str) -> None:
    """A request that its worker does not survive."""
    with pytest.raises((ConnectionError, HTTPException)):
        service.get(path)


def of(service: Service, slot: int, *events: str) -> list[Record]:
    """The records of one slot with these events, in order."""
    return service.logged(lambda record: record.get("event") in events and record.get("slot") == slot)


# -- start and readiness ----------------------------------------------------------------------------------------


def test_ready_is_said_when_min_ready_workers_are_and_not_before(launcher: Launcher) -> None:
    app = f"""
import asyncio, os
from pathlib import Path
{HELLO.replace("async def app", "async def hello")}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        from clusterd.worker import link
        while not Path(f"go-{{link.current.slot}}").exists():
            await asyncio.sleep(0.005)
    await hello(scope, receive, send)
"""
    service = launcher.start(app, {"pools": {"web": {"min_ready": 2}}}, workers=3, ready=False)
    (launcher.folder / "go-2").touch()
    service.wait_log("worker_ready")
    service.wait_notify("STATUS=1/3 ready")
    assert "READY=1" not in service.notified
    assert service.health("/readyz").status == service.health("/startupz").status == 503
    assert service.health("/livez").status == 200
    assert service.metrics().value("clusterd_ready") == 0
    (launcher.folder / "go-0").touch()
    service.wait_ready()
    service.wait_log("worker_ready", slot=0)
    assert service.logged("worker_ready", slot=1) == []
    assert service.health("/readyz").status == service.health("/startupz").status == 200
    assert service.metrics().value("clusterd_ready") == 1
    (launcher.folder / "go-1").touch()
    service.wait_notify("STATUS=3/3 ready, generation 1")
    assert service.stop() == 0
    assert [line for line in service.notified if line in ("READY=1", "STOPPING=1")] == ["READY=1", "STOPPING=1"]
    assert [line for line in service.notified if line.startswith("STATUS=")][-1] == "STATUS=stopped: asked to stop"


def test_one_worker_serves_while_the_others_are_still_starting(launcher: Launcher) -> None:
    app = (
        HELLO
        + """
import time
from clusterd.worker import link
hello = app
async def app(scope, receive, send):
    if scope["type"] == "lifespan" and link.current.slot:
        time.sleep(60)
    await hello(scope, receive, send)
"""
    )
    service = launcher.start(app, {"pools": {"web": {"min_ready": 1}}}, workers=2)
    assert {service.get().status for _ in range(5)} == {200}
    service.signal(signal.SIGQUIT)
    assert service.wait_exit() == 0


# -- crash and back-off -----------------------------------------------------------------------------------------


def test_a_worker_that_was_healthy_is_replaced_at_once(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"restart": {"healthy_after": "50ms"}}}}, workers=1)
    first = service.workers()[0]
    wait_for(lambda: service.workers()[0]["ready_for"] > 0.1, 20)
    mark = service.mark()
    kill(first["pid"])
    exited = service.wait_log("worker_exited", after=mark, signal="SIGKILL", reason="crash")
    ready = service.wait_log("worker_ready", after=mark, slot=0)
    assert ready["worker"] == exited["worker"] + 1
    assert service.wait_log("restart_scheduled", after=mark)["delay"] == 0
    assert service.get("/pid").text != str(first["pid"])


@pytest.mark.slow
def test_an_app_that_dies_soon_after_ready_each_time_is_slowed_down_and_then_given_up(launcher: Launcher) -> None:
    service = launcher.start(SHORT_LIVED, pool(on_give_up="exit", give_up_after=4), workers=1)
    assert service.wait_exit() == 1
    delays = [record["delay"] for record in service.logged("restart_scheduled")]
    assert within_jitter(delays, 0.2, 0.4, 0.8)
    ends, begins = service.logged("worker_exited"), service.logged("worker_ready")
    assert len(ends) == len(begins) == 4
    for end, begin, delay in zip(ends[:-1], begins[1:], delays, strict=True):
        assert delay - 0.002 <= moment(begin) - moment(end) <= delay + 2
    assert service.logged("pool_gave_up", then="exit", ever_ready=True)
    assert last_words(service)[-1] == "clusterd: pool web has given up, and its on_give_up is exit"


def test_the_row_goes_up_to_max_delay_and_is_each_slot_s_own(launcher: Launcher) -> None:
    settings = pool(initial_delay="20ms", max_delay="60ms", give_up_after=0, healthy_after="60s")
    service = up(launcher, settings, workers=2)
    for _ in range(4):
        mark = service.mark()
        (pid,) = (worker["pid"] for worker in service.workers() if worker["slot"] == 1)
        kill(pid)
        service.wait_log("worker_ready", after=mark, slot=1)
    rows = [(record["slot"], record["row"]) for record in service.logged("restart_scheduled")]
    assert rows == [(1, 1), (1, 2), (1, 3), (1, 4)]
    delays = [record["delay"] for record in service.logged("restart_scheduled")]
    assert within_jitter(delays, 0.02, 0.04, 0.06, 0.06)
    assert len(of(service, 0, "worker_exited")) == 0


def test_a_worker_that_stays_healthy_sets_its_row_back(launcher: Launcher) -> None:
    service = up(launcher, pool(initial_delay="20ms", healthy_after="1s"), workers=1)
    for _ in range(2):
        mark = service.mark()
        kill(service.workers()[0]["pid"])
        service.wait_log("worker_ready", after=mark)
    service.wait_log("slot_healthy", slot=0)
    kill(service.workers()[0]["pid"])
    service.wait_log("worker_ready", count=4)
    assert [record["row"] for record in service.logged("restart_scheduled")] == [1, 2, 0]


def test_an_exit_with_code_0_that_nobody_asked_for_is_made_good_too(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=1)
    lost(service, "/exit?code=0")
    service.wait_log("worker_exited", code=0, reason="voluntary", asked=False)
    service.wait_log("worker_ready", count=2)
    assert service.get().status == 200


def test_a_worker_told_to_end_by_its_own_signal_drains_and_is_replaced(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=1)
    assert service.get("/leave").text == "leaving"
    service.wait_log("worker_exited", code=0, reason="voluntary")
    service.wait_log("worker_ready", count=2)


# -- giving up --------------------------------------------------------------------------------------------------


def close_gate(launcher: Launcher, service: Service) -> None:
    (launcher.folder / "gate").unlink()
    for worker in service.workers():
        kill(worker["pid"])


def gated(launcher: Launcher, on_give_up: str, workers: int = 2) -> Service:
    """A service whose dependency has just gone, and its workers with it."""
    (launcher.folder / "gate").touch()
    (launcher.folder / "gated.py").write_text(GATED)
    restart = {"initial_delay": "10ms", "max_delay": "300ms", "give_up_after": 2, "on_give_up": on_give_up}
    web = {"app": "gated:app", "preload": False, "restart": restart}
    service = up(launcher, {"pools": {"web": web}, "log": {"level": "debug"}}, workers=workers)
    close_gate(launcher, service)
    return service


def test_a_dependency_that_comes_back_is_found_by_one_probe_at_a_time(launcher: Launcher) -> None:
    service = gated(launcher, "probe", workers=3)
    gave_up = service.mark() if service.wait_log("pool_gave_up", then="probe", ever_ready=True) else 0
    service.wait_log("worker_starting", probe=True, count=3)
    assert "given up" in service.wait_notify("STATUS=0/3 ready, generation 1, given up")
    assert service.health("/readyz").status == 503
    assert service.health("/livez").status == 200
    assert service.alive()
    (launcher.folder / "gate").touch()
    mark = service.mark()
    service.wait_log("pool_recovered", after=mark)
    service.wait_log("worker_ready", after=mark, count=3)
    recovered = service.records.index(service.wait_log("pool_recovered"))
    probes = service.logged("worker_starting", probe=True)
    for earlier, later in pairwise(probes):
        assert moment(later) - moment(earlier) >= 0.29
    living = 0
    for record in service.records[gave_up:recovered]:
        living += {"worker_starting": 1, "worker_exited": -1}.get(record.get("event", ""), 0)
        assert living <= 1, "two at a time"
    assert service.get().status == 200


def test_stop_leaves_the_pool_down_and_the_primary_up(launcher: Launcher) -> None:
    service = gated(launcher, "stop")
    service.wait_log("pool_gave_up", then="stop")
    (launcher.folder / "gate").touch()
    assert service.health("/readyz").status == 503
    assert service.health("/livez").status == 200
    document = service.status()
    assert [pool["given_up"] for pool in document["pools"]] == [True]
    assert service.workers() == []
    assert service.stop() == 0


def test_exit_ends_the_primary_with_the_last_crash_on_stderr(launcher: Launcher) -> None:
    service = gated(launcher, "exit")
    assert service.wait_exit() == 1
    said = last_words(service)
    assert said[-1] == "clusterd: pool web has given up, and its on_give_up is exit"
    assert any(line.startswith("crash report: worker ") for line in said)
    assert any("the dependency is away" in line for line in said)


# -- never ready ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_app_that_cannot_be_imported_gets_exactly_five_attempts_and_a_report(launcher: Launcher) -> None:
    app = 'import os\nprint("attempt", flush=True)\nvalue = {}\nvalue["missing key"]\n'
    service = launcher.start(app, workers=2, ready=False)
    assert service.wait_exit() == 1
    assert len(service.logged("output", text="attempt")) == 5
    assert len(service.logged("zygote_failed")) == 5
    for slot in (0, 1):
        delays = [record["delay"] for record in of(service, slot, "restart_scheduled")]
        assert within_jitter(delays, 0.2, 0.4, 0.8, 1.6)
    said = last_words(service)
    text = "\n".join(said)
    assert "crash report: " in text
    assert "Traceback (most recent call last):" in text
    assert "KeyError: 'missing key'" in text
    assert said[-1] == "clusterd: pool web: no worker ever became ready in 5 attempts"
    assert "READY=1" not in service.notified


def test_a_lifespan_that_fails_is_reported_with_cause_uptime_and_last_lines(launcher: Launcher) -> None:
    service = launcher.start(NO_DATABASE, pool(initial_delay="10ms", give_up_after=3), workers=1, ready=False)
    assert service.wait_exit() == 1
    assert len(service.logged("worker_exited", reason="boot", code=3)) == 3
    report = service.logged("crash_report")[-1]
    assert report["stage"] == "lifespan"
    assert report["report"] == "no database at db:5432"
    assert report["uptime"] > 0
    assert "trying the database" in report["last_output"]
    text = "\n".join(last_words(service))
    for part in ("exit code 3", "its lifespan had failed", ", up 0.", "never ready", "trying the database"):
        assert part in text
    assert last_words(service)[-1] == "clusterd: pool web: no worker ever became ready in 3 attempts"


# -- signals ----------------------------------------------------------------------------------------------------


def test_ttin_and_ttou_scale_by_one_and_not_below_one(launcher: Launcher) -> None:
    service = up(launcher, IN_TURN, app=HELLO)
    service.signal(signal.SIGTTIN)
    service.wait_log("scaled", wanted=2, was=1)
    service.wait_log("worker_ready", slot=1)
    assert len({service.get().text for _ in range(4)}) == 2
    service.signal(signal.SIGTTOU)
    service.wait_log("worker_exited", slot=1, reason="scale", asked=True, code=0)
    service.signal(signal.SIGTTOU)
    service.signal(signal.SIGUSR1)
    service.wait_log("status_pool", wanted=1, ready=1)
    assert len(service.logged("scaled")) == 2
    assert service.get().status == 200


def test_usr1_logs_the_status(launcher: Launcher) -> None:
    service = up(launcher, app=HELLO, workers=2)
    service.signal(signal.SIGUSR1)
    service.wait_log("status", phase="running", ready=True)
    assert service.wait_log("status_slot", slot=1)["state"] == "ready"
    assert service.get().status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_drain_and_a_second_one_ends_at_once(launcher: Launcher, number: signal.Signals) -> None:
    service = up(launcher, {"shutdown": {"drain_timeout": "60s"}}, workers=1)
    with service.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n")
        service.wait_log("output", text="begun")
        service.signal(number)
        service.wait_log("worker_draining")
        service.wait_notify("STOPPING=1")
        assert service.alive()
        service.signal(number)
        assert service.wait_exit(10) == 0
    assert service.logged("worker_killed", reason="stop_now")


def test_quit_ends_at_once(launcher: Launcher) -> None:
    service = up(launcher, {"shutdown": {"drain_timeout": "60s"}}, workers=2)
    with service.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n")
        service.wait_log("output", text="begun")
        service.signal(signal.SIGQUIT)
        assert service.wait_exit(10) == 0
    assert len(service.logged("worker_killed", reason="stop_now")) == 2


BLOCKED = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize("preload", [True, False])
def test_term_while_the_app_is_being_imported_ends_soon(launcher: Launcher, preload: bool) -> None:
    service = launcher.start(BLOCKED, {"pools": {"web": {"preload": preload}}}, workers=2, ready=False)
    service.wait_log("output", text="importing", count=1 if preload else 2)
    begun = time.monotonic()
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert time.monotonic() - begun < 4
    assert "READY=1" not in service.notified


def test_term_while_a_lifespan_starts_up_ends_it_and_the_app_hears_of_it(launcher: Launcher) -> None:
    app = """
import asyncio
async def app(scope, receive, send):
    print("starting", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
"""
    service = launcher.start(app, workers=2, ready=False)
    service.wait_log("output", text="starting", count=2)
    begun = time.monotonic()
    service.signal(signal.SIGTERM)
    assert service.wait_exit(10) == 0
    assert time.monotonic() - begun < 5, "the drain would have been 27 s"
    assert len(service.logged("output", text="cleaned up")) == 2


def test_term_the_moment_it_starts_is_not_lost(launcher: Launcher) -> None:
    (launcher.folder / "app.py").write_text(HELLO)
    service = launcher.run("--config", os.fspath(launcher.configuration()))
    wait_for(lambda: _blocks_term(service.pid), 20, "the first statement of the command")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0


def _blocks_term(pid: int) -> bool:
    (mask,) = (line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigBlk" in line)
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_term_during_a_back_off_ends_at_once(launcher: Launcher) -> None:
    restart = {"initial_delay": "60s", "max_delay": "60s"}
    service = up(launcher, {"pools": {"web": {"restart": restart}}}, workers=1)
    kill(service.workers()[0]["pid"])
    service.wait_log("restart_scheduled")
    assert service.workers() == []
    service.signal(signal.SIGTERM)
    assert service.wait_exit(5) == 0


def test_term_while_a_client_waits_and_no_worker_is_alive_ends_at_once(launcher: Launcher) -> None:
    restart = {"initial_delay": "60s", "max_delay": "60s"}
    service = up(launcher, {"pools": {"web": {"restart": restart}}}, workers=1)
    kill(service.workers()[0]["pid"])
    service.wait_log("restart_scheduled")
    with service.connect() as waiting:
        waiting.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        service.signal(signal.SIGTERM)
        assert service.wait_exit(5) == 0


def test_a_worker_that_outstays_its_drain_is_killed_said_and_counted(launcher: Launcher) -> None:
    settings = {"shutdown": {"linger": "100ms", "drain_timeout": "300ms"}}
    service = up(launcher, settings, workers=1)
    service.signal(signal.SIGTTIN)
    service.wait_log("worker_ready", count=2)
    with service.connect() as one, service.connect() as two:
        for client in (one, two):
            client.sendall(b"GET /stuck HTTP/1.1\r\nhost: test\r\n\r\n")
        service.wait_log("output", text="begun", count=2)
        service.signal(signal.SIGTTOU)
        service.wait_log("worker_killed", reason="drain_timeout", slot=1)
        service.wait_log("worker_exited", slot=1, signal="SIGKILL", reason="scale")
        assert service.metrics().value("clusterd_worker_kills_total", reason="drain_timeout") == 1
        service.signal(signal.SIGTERM)
        assert service.wait_exit() == 0
    assert service.logged("worker_killed", reason="drain_timeout", slot=0)
    assert service.wait_log("stopped")["code"] == 0
