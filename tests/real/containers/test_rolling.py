"""A rolling update behind a load balancer: the race between the end of a container and who still sends it work."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.real.containers.balancer import Balancer
from tests.real.containers.conftest import Runner
from tests.real.playground import APP, Load

pytestmark = [
    pytest.mark.needs("podman", "runc", "conmon", "haproxy"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

#: The balancer looks every 100 ms; the rest is for a machine that is busy with other things.
SETTINGS = {"shutdown": {"lame_duck": "3s", "linger": "500ms", "drain_timeout": "20s"}}


def roll(runner: Runner, folder: Path, rounds: int) -> Load:
    """Two containers behind a balancer under load, each replaced in turn, ``rounds`` times.

    Each request is a connection of its own, so there are not so many that the clients run out of ports.
    """
    runner.write(APP, SETTINGS)
    pods = [runner.run().wait_ready(2) for _ in range(2)]
    with closing(Balancer(folder, pods)) as balancer, Load(balancer.address, "/sleep?s=0.05").running(8) as load:
        for _ in range(rounds):
            for number in range(2):
                before = load.answered
                assert pods[number].stop() == 0
                pods[number] = runner.run().wait_ready(2)
                balancer.replace(number, pods[number])
                assert load.answered > before
    return load


def test_two_containers_are_replaced_in_turn_and_nothing_is_lost(runner: Runner, run_dir: Path) -> None:
    load = roll(runner, run_dir, 1)
    print(f"{load.answered} answered, longest {load.longest * 1000:.0f} ms")
    assert load.lost == []
