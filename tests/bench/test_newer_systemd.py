"""A systemd newer than that of `make test`: its reload protocol, its descriptor store, its opinion of a unit."""

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.bench import arena, debian
from tests.real.harness import HELLO
from tests.real.systemd import test_activation, test_death, test_reload, test_service
from tests.real.systemd.machine import UNITS, Client, Deployer, Machine

pytestmark = pytest.mark.needs("systemd-analyze", "debootstrap")

_numbers = itertools.count()

figures: list[arena.Figure] = []
"""What the benches of this file have found, which is one result."""


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd in namespaces of its own")
    one = Machine(tmp_path_factory.mktemp("newer"), debian.newer_root())
    version = one.systemctl("--version").split()[1]
    yield one
    one.close()
    for figure in figures:
        figure.what = f"systemd {version}: {figure.what}"
    arena.report("newer_systemd", figures)


def none_of(what: str) -> None:
    """One more figure that is 0, for the test that found it would have failed else."""
    figures.append(arena.Figure(what, "0", [0.0], lambda v: v == 0))


@pytest.fixture
def deploy(newer: Machine) -> Iterator[Deployer]:
    one = Deployer(newer, f"n{next(_numbers)}x")
    yield one
    one.finish()


def test_newer_systemd_units(deploy: Deployer) -> None:
    """What it finds in the units that are made for it: nothing to complain of, and how exposed they are."""
    pools = {"pools": {"web": {"user": "nobody"}}}
    for kind, settings, arguments, at_most in (
        ("by default", {}, (), 1.2),
        ("with a socket unit", {}, ("--socket",), 1.2),
        ("with a root primary and pool users", pools, (), 2.1),
    ):
        unit = deploy(HELLO, settings, *arguments)
        files = [f"/{UNITS}/{path.name}" for path in (deploy.machine.root / UNITS).glob(f"{unit.name}.s*")]
        assert len(files) == 1 + bool(arguments)
        verified = deploy.machine.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files)
        assert unit.name not in verified.stderr, verified.stderr
        service = f"/{UNITS}/{unit.service}"
        said = deploy.machine.run("systemd-analyze", "security", "--offline=true", service, check=False).stdout
        score = float(said.rpartition(f"{unit.service}: ")[2].split()[0])
        what = f"exposure of a generated unit, {kind}"
        figures.append(arena.Figure(what, f"at most {at_most}", [score], lambda v, most=at_most: v <= most))  # type: ignore[misc]
        assert score <= at_most


def test_newer_systemd_reloads(deploy: Deployer) -> None:
    """`Type=notify-reload`: a good one and bad ones, as `systemctl reload` tells them; and the older protocol there."""
    for arguments, kind in (((), "notify-reload"), (("--systemd", "252"), "notify")):
        unit = deploy(test_reload.VERSION, test_reload.BRIEF, *arguments)
        unit.start()
        assert unit.show("Type") == [kind]
        test_reload.see_good_and_bad_reloads(unit)
        unit.stop()
        none_of(f"reloads (promoted, rolled back, refused) of which `systemctl reload` told untruly, Type={kind}")


def test_newer_systemd_reload_that_takes_long(deploy: Deployer) -> None:
    test_reload.test_a_reload_that_proceeds_outlasts_the_managers_patience(deploy)


def test_newer_systemd_kill(deploy: Deployer) -> None:
    """The descriptor store after `kill -9`: listeners come back, what waited and what was in flight is answered."""
    test_death.test_after_kill_9_of_the_primary_nothing_is_lost(deploy)
    none_of("kill -9 of the primary: requests lost, of 4 in flight and 10 waiting")


def test_newer_systemd_store(deploy: Deployer) -> None:
    """What this systemd can keep beyond a stop is not kept: nobody would answer there."""
    unit = deploy(HELLO, dropin="[Service]\nFileDescriptorStorePreserve=yes\n")
    unit.start()
    unit.wait(lambda unit: unit.show("NFileDescriptorStore") == ["1"], "a stored listener")
    environ = deploy.machine.run("cat", f"/proc/{unit.main}/environ").stdout.split("\0")
    assert "FDSTORE=16" in environ
    unit.stop()
    assert unit.show("NFileDescriptorStore") == ["0"]
    none_of("listeners left in the descriptor store after a stop, with FileDescriptorStorePreserve=yes")
    with pytest.raises(ConnectionRefusedError):
        Client(deploy.machine, unit.port).get()
    unit.start()
    assert unit.get().isdigit()


def test_newer_systemd_upgrade(deploy: Deployer) -> None:
    test_reload.test_an_upgrade_is_no_event_for_systemd_and_loses_nothing(deploy)
    none_of("2 upgrades under load: requests lost, new and kept-alive")


def test_newer_systemd_sockets(deploy: Deployer) -> None:
    test_activation.test_the_connection_that_starts_a_service_is_answered(deploy)


def test_newer_systemd_restart(deploy: Deployer) -> None:
    test_activation.test_a_restart_through_the_socket_unit_refuses_nobody(deploy)
    none_of("2 restarts through the socket unit under load: connections refused")


def test_newer_systemd_stop(deploy: Deployer) -> None:
    test_service.test_a_generated_unit_starts_serves_and_stops(deploy)
