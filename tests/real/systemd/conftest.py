"""The machine with a systemd that all tests here share, and services for each."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.systemd.machine import Deployer, Machine

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test here needs the real manager."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.needs("systemd-analyze"))
            if not any(item.iter_markers("timeout")):
                item.add_marker(pytest.mark.timeout(180))  # each of them starts a service, or several


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd in namespaces of its own")
    one = Machine(tmp_path_factory.mktemp("machine"))
    yield one
    one.close()


@pytest.fixture
def deploy(machine: Machine) -> Iterator[Deployer]:
    """``deploy(APP, SETTINGS)`` makes a service; at the end of the test all of them end, and nothing may be left."""
    one = Deployer(machine, f"t{next(_numbers)}x")
    yield one
    one.finish()
