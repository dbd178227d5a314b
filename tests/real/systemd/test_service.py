"""A service under a real systemd: start, status, stop, and what it is told meanwhile."""

import threading

import pytest

from tests.real.harness import HELLO
from tests.real.looking import app
from tests.real.systemd.machine import Deployer, Unit

SLOW = app("""
import asyncio, os
async def answer(path):
    if path.startswith("/slow"):
        await asyncio.sleep(float(path.removeprefix("/slow")))
    return os.getpid()
""")
HANGING_START = """
import asyncio
async def app(scope, receive, send):
    await receive()
    await asyncio.sleep(3600)
"""


def in_background(unit: Unit, path: str) -> tuple[threading.Thread, list[object]]:
    """A request in a thread of its own, sent when this returns; its answer, or its error, is in the list at its end."""
    client = unit.client()
    client.request("GET", path)
    answers: list[object] = []

    def read() -> None:
        try:
            response = client.getresponse()
            answers.append((response.status, response.read().decode()))
        except OSError as error:
            answers.append(error)
        finally:
            client.close()

    thread = threading.Thread(target=read)
    thread.start()
    return thread, answers


def test_a_generated_unit_starts_serves_and_stops(deploy: Deployer) -> None:
    unit = deploy(HELLO)
    unit.start()
    assert unit.show("ActiveState", "SubState", "NotifyAccess") == ["active", "running", "main"]
    assert unit.get().isdigit()
    assert unit.wait_status("2/2 ready") == "2/2 ready, generation 1"
    assert unit.clusterd("status").returncode == 0  # root may ask, from outside its user namespace
    unit.stop()
    assert unit.show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]
    unit.wait_empty()


def test_a_stop_answers_a_slow_request_first(deploy: Deployer) -> None:
    unit = deploy(SLOW)
    unit.start()
    thread, answers = in_background(unit, "/slow1")
    unit.stop()
    thread.join()
    ((status, _),) = answers
    assert status == 200
    assert unit.show("Result") == ["success"]


def test_a_stop_with_a_stuck_request_ends_by_the_drain_timeout_and_is_clean(deploy: Deployer) -> None:
    unit = deploy(SLOW, {"shutdown": {"drain_timeout": "1s"}})
    unit.start()
    thread, answers = in_background(unit, "/slow3600")
    unit.stop()
    thread.join()
    assert isinstance(answers[0], OSError)
    assert unit.show("Result", "ExecMainStatus") == ["success", "0"]
    assert unit.records("worker_killed")


def test_a_drain_that_proceeds_outlasts_the_managers_patience(deploy: Deployer) -> None:
    """By hand somebody gave the stop less than the drain takes: while requests end, the manager is asked for more."""
    unit = deploy(SLOW, {"shutdown": {"drain_timeout": "60s"}}, workers=1, dropin="[Service]\nTimeoutStopSec=3s\n")
    unit.start()
    sent = [in_background(unit, f"/slow{seconds}") for seconds in (1, 3, 5)]
    unit.stop()
    for thread, answers in sent:
        thread.join()
        assert isinstance(answers[0], tuple)
    assert unit.show("Result") == ["success"]


@pytest.mark.slow
def test_a_start_that_never_gets_ready_fails_by_the_managers_limit(deploy: Deployer) -> None:
    unit = deploy(
        HANGING_START,
        {"pools": {"web": {"start_timeout": "0s"}}},
        workers=1,
        dropin="[Service]\nTimeoutStartSec=2s\nTimeoutAbortSec=2s\nRestart=no\n",
    )
    unit.start(check=False)
    unit.wait_state("failed")
    assert unit.show("Result") == ["timeout"]
    assert "importing" in unit.status or "0/1 ready" in unit.status or "stopped" in unit.status
    unit.wait_empty()


def test_a_slow_start_that_proceeds_outlasts_the_managers_patience(deploy: Deployer) -> None:
    """Each of two slow stages ends within its own limit, and both together take longer than the manager's."""
    source = "import threading\nthreading.Event().wait(2)\n" + SLOW.replace(
        "async def app(", "STARTED = False\nasync def app("
    )
    unit = deploy(source, workers=1, dropin="[Service]\nTimeoutStartSec=1500ms\nRestart=no\n")
    unit.start()
    assert unit.get().isdigit()


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"pools": {"web": {"workers": "none"}}}, "78"), ({"listeners": {"http": {"tsl": {}}}}, "78")],
)
def test_a_bad_configuration_is_not_tried_again(deploy: Deployer, settings: dict[str, object], code: str) -> None:
    unit = deploy(HELLO)
    unit.start()
    unit.stop()
    unit.configure(settings)
    unit.start(check=False)
    assert unit.show("ActiveState", "ExecMainStatus", "NRestarts") == ["failed", code, "0"]
    assert any("clusterd.toml:" in line for line in unit.journal())
