"""Real workers that hang, that have done their work, and spares: replaced, said, and nothing lost."""

import signal
import time

import pytest

from tests.procfs import wait_for
from tests.real.harness import Launcher, Settings
from tests.real.looking import watched
from tests.real.playground import Answers, Load, up


def test_a_worker_that_hangs_is_replaced_with_its_stacks_in_the_report(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"health": {"heartbeat_timeout": "2s"}}}}, workers=2)
    answers = Answers().ask(service.address(), "/stuck")
    hung = service.wait_log("worker_hung", deadline=30)
    report = service.wait_log("crash_report", worker=hung["worker"], deadline=30)
    answers.wait()
    assert report["reason"] == "hung"
    assert "in stuck" in report["report"], report["report"]
    assert service.wait_log("worker_exited", worker=hung["worker"])["reason"] == "hung"
    wait_for(lambda: len([w for w in service.workers() if w["state"] == "ready"]) == 2, 20, "the replacement")
    assert service.metrics().value("clusterd_worker_exits_total", pool="web", reason="hung") == 1
    assert service.metrics().value("clusterd_worker_kills_total", pool="web", reason="hang") == 1


def test_a_worker_that_is_stopped_is_replaced_though_python_cannot_be_asked(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"health": {"heartbeat_timeout": "1s"}}}}, workers=2)
    victim = service.workers()[0]
    with watched(victim["pid"]) as (process,):
        process.signal(signal.SIGSTOP)
        exited = service.wait_log("worker_exited", worker=victim["id"], deadline=30)
    assert exited["reason"] == "hung"


def test_a_worker_that_works_hard_but_turns_is_left_alone(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"health": {"heartbeat_timeout": "2s"}}}}, workers=1)
    before = service.workers()[0]["id"]
    for _ in range(4):
        assert service.get("/block?s=1").status == 200
    assert service.workers()[0]["id"] == before
    assert not service.logged("worker_hung")


def test_a_primary_that_was_stopped_blames_nobody(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"health": {"heartbeat_timeout": "1s"}}}}, workers=2)
    with watched(service.pid) as (process,):
        process.signal(signal.SIGSTOP)
        began = time.monotonic()
        wait_for(lambda: time.monotonic() - began > 4, 10, "four seconds")
        process.signal(signal.SIGCONT)
    beats = service.metrics().value("clusterd_worker_heartbeat_age_seconds", pool="web", slot="0")
    assert beats < 60
    assert service.get().status == 200
    assert not service.logged("worker_hung")


def test_recycling_replaces_first_and_loses_nothing(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"recycle": {"max_requests": 30}}}}, workers=2)
    with Load(service.address()).running(2) as load:
        for worker in (1, 2):
            service.wait_log("worker_exited", worker=worker, reason="recycled", deadline=60)
    assert load.lost == []
    assert "max_requests" in service.logged("worker_recycled")[0]["why"]
    assert not service.logged("service_unready")


def test_age_and_memory_recycle_too(launcher: Launcher) -> None:
    service = up(launcher, {"pools": {"web": {"recycle": {"max_age": "1s"}}}}, workers=1)
    assert service.wait_log("worker_recycled", worker=1)["why"] == "max_age"
    service.wait_log("worker_exited", worker=1, reason="recycled")


SPARES: Settings = {"pools": {"web": {"spares": 1}}}


def test_a_death_promotes_a_spare_and_another_one_is_made(launcher: Launcher) -> None:
    service = up(launcher, SPARES, workers=2)
    service.wait_log("worker_ready", slot=-1)
    victim = next(worker for worker in service.workers() if worker["slot"] == 0)
    with watched(victim["pid"]) as (process,):
        process.signal(signal.SIGKILL)
        admitted = service.wait_log("spare_admitted")
    assert admitted["slot"] == 0
    assert admitted["vacant_for"] < 1
    mark = service.mark()
    wait_for(lambda: {service.get("/").text for _ in range(4)} == {"0", "1"}, 20, "both slots' answers")
    service.wait_log("worker_ready", slot=-1, after=mark - 10)
    wait_for(lambda: len(service.workers()) == 3, 20, "the next spare")


@pytest.mark.parametrize("scheduling", ["rr", "none"])
def test_a_spare_takes_no_work_before_it_has_a_place(launcher: Launcher, scheduling: str) -> None:
    service = up(launcher, {"pools": {"web": {"spares": 1, "scheduling": scheduling}}}, workers=1)
    spare = service.wait_log("worker_ready", slot=-1)["worker"]
    pid = next(worker["pid"] for worker in service.workers() if worker["id"] == spare)
    assert pid not in {int(service.get("/pid").text) for _ in range(20)}


def test_a_worker_that_answers_badly_to_its_health_check_is_replaced(launcher: Launcher) -> None:
    health = {"http_path": "/status?code=503", "http_interval": "300ms", "http_timeout": "5s"}
    service = up(launcher, {"pools": {"web": {"health": health}}}, workers=1)
    hung = service.wait_log("worker_hung", worker=1)
    assert hung["why"] == "GET /status?code=503: it answered 503"
    assert service.wait_log("worker_exited", worker=1)["reason"] == "hung"


def test_one_that_does_not_answer_too_and_one_that_does_is_left_alone(launcher: Launcher) -> None:
    health = {"http_path": "/sleep?s=60", "http_interval": "300ms", "http_timeout": "500ms"}
    service = up(launcher, {"pools": {"web": {"health": health}}}, workers=1)
    assert service.wait_log("worker_hung", worker=1)["why"] == "GET /sleep?s=60: no answer within 0.5 s"
    service.stop()


def test_a_worker_that_is_well_is_asked_and_left_alone(launcher: Launcher) -> None:
    health = {"http_path": "/", "http_interval": "100ms"}
    service = up(launcher, {"pools": {"web": {"health": health, "scheduling": "none"}}}, workers=2)
    count = "clusterd_http_requests_total"
    wait_for(lambda: service.metrics().value(count, pool="web", slot="1", code_class="2xx") > 3, 20, "some questions")
    assert not service.logged("worker_hung")
