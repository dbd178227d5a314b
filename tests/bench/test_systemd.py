"""Under a real systemd and load: twenty upgrades in place, twenty times kill -9 of the primary."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import arena
from tests.real.looking import app
from tests.real.systemd.machine import Client, Deployer, Machine, Unit

TIMES = 20
APP = app("import os\nasync def answer(path):\n    return os.getpid()")
SETTINGS = {"pools": {"web": {"http": {"keep_alive": "120s"}}}}

pytestmark = pytest.mark.needs("systemd-analyze")


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd in namespaces of its own")
    machine = Machine(tmp_path)
    deployer = Deployer(machine, "bench")
    one = deployer(APP, SETTINGS)
    one.start()
    one.wait_status("2/2 ready")
    yield one
    deployer.finish()
    machine.close()


class Load:
    """Clients that ask again and again; how long each answer took, and what was lost."""

    def __init__(self, unit: Unit, kept_alive: int, new: int) -> None:
        self.took: dict[bool, list[float]] = {True: [], False: []}
        self.lost: list[OSError] = []
        self._unit = unit
        self._stop = threading.Event()
        kinds = [True] * kept_alive + [False] * new
        self._threads = [unit.machine.thread(lambda kind=kind: self._ask(kind)) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def _ask(self, kept_alive: bool) -> None:
        client = Client(self._unit.machine, self._unit.port)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                client.get()
                self.took[kept_alive].append(time.monotonic() - began)
            except OSError as error:
                self.lost.append(error)
                client.close()
            if not kept_alive:
                client.close()
            time.sleep(0.01)
        client.close()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for kept_alive, name in ((True, "kept alive"), (False, "new")):
            if took := sorted(self.took[kept_alive]):
                p99, longest = took[int(len(took) * 0.99)], took[-1]
                print(f"{name}: {len(took)} answers, p99 {p99 * 1e3:.1f} ms, longest {longest * 1e3:.0f} ms")


def test_upgrades_lose_nothing(unit: Unit) -> None:
    load, before = Load(unit, 2, 2), unit.main
    for _ in range(TIMES):
        unit.clusterd("upgrade")
    load.end()
    assert load.lost == []
    assert unit.main == before
    longest = arena.Figure(
        f"{TIMES} upgrades under load: longest wait of a new connection",
        "at most 250 ms",
        [max(load.took[False]) * 1e3],
        lambda v: v <= 250,
        " ms",
    )
    lost = arena.Figure(
        f"{TIMES} upgrades under load: requests lost", "0", [float(len(load.lost))], lambda v: v == 0, ""
    )
    arena.report("upgrades_lose_nothing", [lost, longest])
    assert max(load.took[False]) < 2.5  # ten times the 250 ms that are expected


def test_kills_of_the_primary_lose_no_new_connection(unit: Unit) -> None:
    load = Load(unit, 0, 3)
    for _ in range(TIMES):
        before = unit.main
        unit.kill("KILL")
        unit.wait(lambda unit: unit.main not in (0, before) and unit.show("SubState") == ["running"], "a new primary")  # noqa: B023
        unit.machine.systemctl("reset-failed", unit.service, check=False)
    load.end()
    assert load.lost == []
    longest = arena.Figure(
        f"kill -9 of the primary under load, {TIMES} times: longest wait of a new connection",
        "at most 1 s",
        [max(load.took[False])],
        lambda v: v <= 1,
        " s",
    )
    what = f"kill -9 of the primary under load, {TIMES} times: new connections lost"
    lost = arena.Figure(what, "0", [float(len(load.lost))], lambda v: v == 0, "")
    arena.report("kills_of_the_primary", [lost, longest])
    assert max(load.took[False]) < 10.0  # ten times the second that is expected
