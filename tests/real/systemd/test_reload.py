"""Reloads and upgrades that systemd asks for, or sees."""

import json
import threading

import pytest

from tests.real.harness import merged
from tests.real.looking import app
from tests.real.systemd.machine import Client, Deployer, Unit

VERSION = app("""
import os
async def answer(path):
    return {"version": 1, "pid": os.getpid()}
""")
BRIEF = {"pools": {"web": {"reload": {"canary": "100ms"}}}}
PATIENT = {"pools": {"web": {"http": {"keep_alive": "120s"}}}}
"""Whatever the machine is busy with, a kept-alive connection is not closed for having been idle."""

pytestmark = pytest.mark.timeout(240)


def reloaded(unit: Unit) -> int:
    """The exit code of ``systemctl reload``."""
    return unit.machine.run("systemctl", "reload", unit.service, check=False).returncode


def see_good_and_bad_reloads(unit: Unit) -> None:
    """What `systemctl reload` says is the verdict, whatever the reload protocol."""
    unit.wait_status("2/2 ready")
    before, number = unit.main, unit.workers()
    unit.machine.write(f"{unit.folder}/app.py", VERSION.replace('"version": 1', '"version": 2'))
    assert reloaded(unit) == 0
    assert not number & unit.workers()
    assert json.loads(unit.get())["version"] == 2
    unit.wait_status("2/2 ready, generation 2")
    unit.machine.write(f"{unit.folder}/app.py", "raise RuntimeError('a bad deploy')\n")
    assert reloaded(unit) != 0
    assert "generation 2" in unit.wait_status("reload failed")
    assert any("was rolled back" in line for line in unit.journal())
    assert any("RuntimeError: a bad deploy" in line for line in unit.journal())
    unit.configure({"pools": {"web": {"workers": "none"}}})
    assert reloaded(unit) != 0
    assert any("the reload was refused" in line and "pools.web.workers" in line for line in unit.journal())
    assert json.loads(unit.get())["version"] == 2
    unit.wait(lambda unit: unit.show("ActiveState", "SubState") == ["active", "running"], "a service that goes on")
    assert (unit.main, unit.show("NRestarts", "Result")) == (before, ["0", "success"])


def test_a_reload_that_fails_fails_for_systemd_too(deploy: Deployer) -> None:
    unit = deploy(VERSION, BRIEF)
    unit.start()
    see_good_and_bad_reloads(unit)


def test_without_a_control_socket_a_reload_is_asked_for_by_signal(deploy: Deployer) -> None:
    unit = deploy(VERSION, merged(BRIEF, {"control": {"socket": 0}}), "--systemd", "252")
    unit.start()
    unit.machine.write(f"{unit.folder}/app.py", VERSION.replace('"version": 1', '"version": 2'))
    assert reloaded(unit) == 0
    unit.wait_status("2/2 ready, generation 2")
    assert json.loads(unit.get())["version"] == 2


def test_a_reload_that_proceeds_outlasts_the_managers_patience(deploy: Deployer) -> None:
    """A canary that is watched for longer than the manager waits for a reload, and the verdict is waited for."""
    unit = deploy(VERSION, {"pools": {"web": {"reload": {"canary": "4s"}}}}, dropin="[Service]\nTimeoutStartSec=2s\n")
    unit.start()
    unit.machine.write(f"{unit.folder}/app.py", VERSION.replace('"version": 1', '"version": 2'))
    assert reloaded(unit) == 0
    assert json.loads(unit.get())["version"] == 2


def test_an_upgrade_is_no_event_for_systemd_and_loses_nothing(deploy: Deployer) -> None:
    unit = deploy(VERSION, PATIENT)
    unit.start()
    unit.wait_status("2/2 ready")
    before, workers = unit.main, unit.workers()
    stop, failures, served = threading.Event(), [], []

    def load(kept_alive: bool) -> None:
        client = Client(unit.machine, unit.port)
        while not stop.is_set():
            try:
                served.append(client.get())
            except OSError as error:
                failures.append(error)
            if not kept_alive:
                client.close()
        client.close()

    threads = [threading.Thread(target=load, args=(kept_alive,)) for kept_alive in (True, True, False, False)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        done = unit.clusterd("upgrade")
        assert f"pid {before} as before" in done.stdout
    count = len(served)
    unit.wait(lambda unit: len(served) > count + 40, "requests served after the upgrades")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {status for status, _ in served} == {200}
    assert unit.workers() == workers
    assert unit.show("MainPID", "ActiveState", "SubState", "NRestarts") == [str(before), "active", "running", "0"]
    unit.stop()
    assert unit.show("Result") == ["success"]


def test_after_an_upgrade_the_primary_may_still_be_killed(deploy: Deployer) -> None:
    """Its listeners, the watchdog and the mark of its workers are the successor's too."""
    unit = deploy(VERSION, dropin="[Service]\nWatchdogSec=15s\n")
    unit.start()
    before = unit.main
    unit.clusterd("upgrade")
    unit.kill("KILL")
    unit.wait(lambda unit: restarted(unit, before), "a new main process")
    assert json.loads(unit.get())["version"] == 1
    assert unit.records("listening")[-1]["kept"] is True


def restarted(unit: Unit, before: int) -> bool:
    main, sub = unit.show("MainPID", "SubState")
    return sub == "running" and int(main) not in (0, before)
