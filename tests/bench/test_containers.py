"""Containers: rolling updates, a leak under load, how large an image is, how fast it starts and stops."""

import json
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench import arena
from tests.real.clients import fetch
from tests.real.containers.conftest import Runner, clusterd_image, runner  # noqa: F401  # fixtures
from tests.real.containers.engine import LIMITS, ROOT, base_image, command, debian_image, image, podman
from tests.real.containers.test_limits import LEAKS
from tests.real.containers.test_rolling import roll
from tests.real.playground import Load

ROLLOUTS = 10
MINUTES = 3


def test_container_rolling(runner: Runner, run_dir: Path) -> None:  # noqa: F811
    """Two containers behind haproxy, replaced in turn ten times under load: nothing lost."""
    load = roll(runner, run_dir, ROLLOUTS)
    details: dict[str, object] = {"answered": load.answered, "longest_ms": round(load.longest * 1000)}
    what = f"requests lost in {ROLLOUTS} rolling updates of two containers behind haproxy"
    arena.report("container_rolling", [arena.Figure(what, "0", [float(len(load.lost))], lambda v: v == 0, "", details)])


def test_container_leak(runner: Runner) -> None:  # noqa: F811
    """A worker that leaks 20 MB/s in a 300 MB container, three minutes under load, with the default thresholds."""
    flags = ["--memory", "300m", "--memory-swap", "300m"]
    service = runner.start(LEAKS, flags=flags, env={"LEAK": "20000000"})
    with Load(service.address()).running(4) as load:
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end and service.process.poll() is None:
            select.select([], [], [], 1.0)
    said = service.logged("memory_pressure")
    details: dict[str, object] = {
        "answered": load.answered,
        "longest_ms": round(load.longest * 1000),
        "replaced": sum("replaced" in one["reason"] for one in said),
        "killed": sum("killed" in one["reason"] for one in said),
        "kernel_kills": service.metrics().value("clusterd_cgroup_oom_kills_total"),
    }
    alive = service.process.poll() is None and not service.oom_killed()
    what = f"requests lost in {MINUTES} minutes of a leak of 20 MB/s in 300 MB"
    lost = float(len(load.lost)) if alive else float("inf")
    arena.report("container_leak", [arena.Figure(what, "0", [lost], lambda v: v == 0, "", details)])


@pytest.mark.needs("debootstrap")
def test_container_image(clusterd_image: str) -> None:  # noqa: F811
    """The image over its base, unpacked, with the extra ``fast``."""

    def size(name: str) -> int:
        return int(podman("image", "inspect", "--format", "{{.Size}}", name))

    debian = debian_image()
    figures = [
        arena.Figure(what, "at most 45 MB", [(size(own) - size(base)) / 1e6], lambda v: v <= 45, " MB")
        for what, own, base in (
            ("image over a base without a shell", clusterd_image, base_image()),
            ("image over Debian 12", image(on=debian), debian),
        )
    ]
    arena.report("container_image", figures)


def run(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command(), "run", "--rm", "--network", "host", "--log-driver", "none", *LIMITS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_container_start(clusterd_image: str) -> None:  # noqa: F811
    """``podman run`` to ``/readyz`` 200 for the demo, over ``python -c pass`` in the same image; and its stop."""
    more, stops, codes = [], [], []
    for number in range(max(5, arena.ROUNDS)):
        begun = time.monotonic()
        with run(["--entrypoint", "python3", clusterd_image, "-c", "pass"]):
            pass
        bare = time.monotonic() - begun
        name = f"clusterd-bench-{number}"
        demo = ["--volume", f"{ROOT / 'deploy/examples'}:/app:ro", "--env", "PORT=0", "--env", "MONITORING_PORT=0"]
        begun = time.monotonic()
        process = run(["--name", name, *demo, clusterd_image, "run", "--config", "demo.toml"])
        assert process.stdout
        for line in process.stdout:
            record = json.loads(line)
            if record["event"] == "monitoring":
                address = record["address"]
            if record["event"] == "service_ready":
                break
        while fetch(address, "/readyz").status != 200:
            continue
        more.append(time.monotonic() - begun - bare)
        begun = time.monotonic()
        podman("kill", "--signal", signal.SIGTERM.name, name)
        codes.append(process.wait(30))
        stops.append(time.monotonic() - begun)
        process.stdout.close()
    assert codes == [0] * len(codes)
    what = "podman run to /readyz 200 for the demo, over python -c pass"
    arena.report(
        "container_start",
        [
            arena.Figure(what, "at most 1.0 s", more, lambda v: v <= 1.0, " s"),
            arena.Figure("stop of an idle service, exit 0", "within 0.5 s", stops, lambda v: v <= 0.5, " s"),
        ],
    )
