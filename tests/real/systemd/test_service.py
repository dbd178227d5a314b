"""A service under a real systemd, from start to stop."""

from tests.real.harness import HELLO
from tests.real.systemd.machine import Deployer


def test_a_generated_unit_starts_serves_and_stops(deploy: Deployer) -> None:
    unit = deploy(HELLO)
    unit.start()
    assert unit.show("ActiveState", "SubState", "NotifyAccess") == ["active", "running", "main"]
    assert unit.get().isdigit()
    assert unit.wait_status("2/2 ready") == "2/2 ready, generation 1"
    unit.stop()
    assert unit.show("ActiveState", "Result", "ExecMainStatus") == ["inactive", "success", "0"]
    unit.wait_empty()
