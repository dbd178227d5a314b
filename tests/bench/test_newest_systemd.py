"""The newest systemd that there is: the counter of its restarts, which only that can be told to forget (258)."""

import os
import time
from collections.abc import Iterator

import pytest

from clusterd.ops.notify import HEALTHY
from tests.bench import arena, debian
from tests.real.harness import HELLO
from tests.real.systemd.machine import Deployer, Machine
from tests.real.systemd.test_death import restarted

pytestmark = pytest.mark.needs("systemd-analyze", "debootstrap")

RESTARTS = 3
KNOWS = 258
"""The first version that knows ``RESTART_RESET=``."""


@pytest.fixture
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployer]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd in namespaces of its own")
    machine = Machine(tmp_path_factory.mktemp("newest"), debian.newer_root(debian.NEWEST))
    one = Deployer(machine, "newest")
    yield one
    one.finish()
    machine.close()


def test_newest_systemd_forgets_restarts_of_a_service_that_is_healthy(deploy: Deployer) -> None:
    """Without it a daemon that crashes once a month is started again with the longest delay for ever."""
    version = int(deploy.machine.systemctl("--version").split()[1])
    assert version >= KNOWS
    unit = deploy(HELLO, dropin="[Service]\nRestartSec=100ms\nRestartSteps=4\nRestartMaxDelaySec=60s\n")
    unit.start()
    for _ in range(RESTARTS):
        before = unit.main
        unit.kill("KILL")
        restarted(unit, before)
    unit.wait_status("2/2 ready")
    healthy = time.monotonic()
    counted = int(unit.show("NRestarts")[0])
    assert counted == RESTARTS
    unit.wait(lambda unit: unit.show("NRestarts") == ["0"], "a counter that is 0 again", 10 * HEALTHY)
    took = time.monotonic() - healthy
    main = unit.main
    unit.kill("KILL")
    restarted(unit, main)
    assert unit.show("NRestarts") == ["1"], "the row of delays begins anew"
    what = f"systemd {version}: after {RESTARTS} restarts and a minute of health its counter of restarts"
    arena.report(
        "newest_systemd",
        [
            arena.Figure(what, "0", [0.0], lambda v: v == 0, details={"was": counted}),
            arena.Figure(
                f"systemd {version}: from ready until it is 0", "a minute", [took], lambda v: v < 1.1 * HEALTHY, " s"
            ),
        ],
    )
