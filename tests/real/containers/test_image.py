"""The image: what it says of itself, and that the demo runs in it under what Kubernetes calls restricted."""

import json
import signal
from pathlib import Path

import pytest

from tests.real.containers.conftest import Runner
from tests.real.containers.engine import RESTRICTED, ROOT, base_image, podman

pytestmark = [pytest.mark.needs("podman", "runc", "conmon"), pytest.mark.slow, pytest.mark.timeout(300)]

MEGABYTE = 1_000_000
EXAMPLES = ROOT / "deploy" / "examples"


def size(image: str) -> int:
    """Bytes of an image, unpacked."""
    return int(podman("image", "inspect", "--format", "{{.Size}}", image))


def test_the_image_says_what_an_orchestrator_needs_to_know(clusterd_image: str) -> None:
    (image,) = json.loads(podman("image", "inspect", clusterd_image))
    config = image["Config"]
    assert config["User"] == "10001:10001"  # a number: runAsNonRoot cannot look up names
    assert config["Entrypoint"] == ["clusterd"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert image["Healthcheck"]["Test"] == ["CMD", "clusterd", "health", "ready"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "clusterd"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert set(config["ExposedPorts"]) == {"8000/tcp", "9190/tcp"}


def test_the_image_is_small(clusterd_image: str) -> None:
    own = size(clusterd_image) - size(base_image())
    print(f"{own / MEGABYTE:.1f} MB over its base")
    assert own <= 45 * MEGABYTE


def test_the_demo_runs_as_any_user_on_a_read_only_root(runner: Runner) -> None:
    demo = runner.run(
        "run", "--config", "demo.toml", app=EXAMPLES, flags=RESTRICTED, env={"PORT": "0", "MONITORING_PORT": "0"}
    ).wait_ready(4)
    assert "slot" in demo.get("/").text
    assert demo.health("/readyz").status == 200
    for path in ("/livez", "/startupz"):
        assert demo.health(path).status == 200
    said = demo.exec("clusterd", "health", "ready")
    assert said.returncode == 0, said.stderr
    assert podman("healthcheck", "run", demo.name) in ("", "healthy")
    told = json.loads(demo.exec("clusterd", "status", "--json").stdout)
    assert told["service"]["pid"] == 1
    assert demo.stop() == 0


def test_nothing_in_it_needs_a_shell(runner: Runner) -> None:
    """The base has none; this proves that the proof is one."""
    service = runner.start()
    assert service.exec("sh", "-c", "true").returncode in (126, 127)
    assert service.exec("pip", "--version").returncode in (126, 127)


def test_the_root_stays_as_it_was(runner: Runner) -> None:
    """Without ``--read-only``, so that writes would be seen."""
    service = runner.start()
    service.get("/")
    changed = podman("diff", service.name).splitlines()
    written = [line for line in changed if not line.endswith(ELSEWHERE) and not line.startswith("C ")]
    assert all(line.startswith("A /tmp/clusterd-10001") for line in written), written


ELSEWHERE = ("/etc", "/run", "/run/.containerenv", "/etc/mtab", "/run/secrets", "/etc/hosts", "/etc/resolv.conf")


def test_stop_ends_an_idle_service_at_once(runner: Runner, tmp_path: Path) -> None:
    service = runner.start()
    service.signal(signal.SIGTERM)
    assert service.wait_exit(5.0) == 0
    assert not service.logged("worker_killed")
