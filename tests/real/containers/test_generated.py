"""What ``clusterd generate`` makes, in use: an image of its Dockerfile, run as its manifests ask for it.

A pod itself cannot be had here; what a pod asks of its container runtime can: user, read-only root, mounts,
environment, probes, SIGTERM and the grace period.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.procfs import wait_for
from tests.real.containers.engine import DEADLINE, ROOT, Container, image, podman
from tests.real.playground import APP

pytestmark = [pytest.mark.needs("podman", "runc", "conmon"), pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = """
[listeners.http]
address = "127.0.0.1:8000"

[pools.web]
app = "app:app"
workers = 2

[shutdown]
linger = "200ms"
"""

FETCH = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.headers.get("connection", ""), answer.read().decode(), sep="|")
"""


def generate(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "clusterd", "generate", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The image of an application, and the folder that it was built from."""
    folder, own = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("own")
    (folder / "app.py").write_text(APP)
    (folder / "clusterd.toml").write_text(CONFIG)
    (folder / "requirements.txt").write_text("click\n")
    generate(folder, "docker", "--directory", ".")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(own),
    ]
    subprocess.run([*pip, str(ROOT)], check=True, capture_output=True)
    return image(folder / "Dockerfile", folder, own=own), folder


def get(container: Container, url: str) -> tuple[int, str, str]:
    """Status, ``Connection`` and body, asked for inside the container."""
    done = container.exec("python3", "-c", FETCH, url)
    status, connection, body = done.stdout.rstrip("\n").split("|", 2)
    return int(status), connection, body


@pytest.fixture
def pod(made: tuple[str, Path], tmp_path: Path) -> Iterator[tuple[Container, dict[str, Any]]]:
    """A container that is run as the generated Deployment asks for it, and the pod's specification."""
    name, folder = made
    documents = list(yaml.safe_load_all(generate(folder, "kubernetes", "--image", name)))
    spec = next(one for one in documents if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    (config,) = (one["data"] for one in documents if one["kind"] == "ConfigMap")
    (own,) = spec["containers"]
    security = own["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    flags = ["--read-only", "--read-only-tmpfs=false", "--security-opt", "no-new-privileges"]
    flags += [part for one in security["capabilities"]["drop"] for part in ("--cap-drop", one.lower())]
    flags += ["--user", f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in own["volumeMounts"]:
        if "emptyDir" in volumes[mount["name"]]:
            flags += ["--tmpfs", f"{mount['mountPath']}:mode=0777"]  # as the kubelet makes one: root's, for everyone
        else:
            (tmp_path / mount["subPath"]).write_text(config[mount["subPath"]])
            flags += ["--volume", f"{tmp_path / mount['subPath']}:{mount['mountPath']}:ro"]
    tmp_path.chmod(0o755)
    env = {one["name"]: one["value"] for one in own["env"]}
    container = Container(own["image"], own["args"], flags=flags, env=env, network="none")
    try:
        yield container, spec
    finally:
        container.destroy()


def test_a_pod_starts_is_probed_and_ends_within_its_grace_period(pod: tuple[Container, dict[str, Any]]) -> None:
    container, spec = pod
    (own,) = spec["containers"]
    container.wait_ready(2)
    ports = {port["name"]: port["containerPort"] for port in own["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = own[probe]["httpGet"]
        assert get(container, f"http://[::1]:{ports[asked['port']]}{asked['path']}")[0] == 200
    service = f"http://127.0.0.1:{ports['http']}/"
    assert get(container, service)[0] == 200
    assert container.exec("clusterd", "health", "ready").returncode == 0
    container.signal(signal.SIGTERM)
    asked_at = time.monotonic()
    ready, live = (f"http://127.0.0.1:{ports['monitoring']}{path}" for path in ("/readyz", "/livez"))
    container.wait_log("stop_began")
    assert get(container, ready)[0] == 503
    assert get(container, live)[0] == 200
    if time.monotonic() - asked_at < 4:  # the lame duck is 5 s: what is still sent here is served, and told to go
        assert get(container, service)[:2] == (200, "close")
    assert container.wait_exit(spec["terminationGracePeriodSeconds"]) == 0


def test_the_image_runs_by_itself(made: tuple[str, Path]) -> None:
    name, _ = made
    (described,) = json.loads(podman("image", "inspect", name))
    assert described["Config"]["User"] == "10001:10001"
    container = Container(name, flags=["--read-only"], network="none")
    try:
        container.wait_ready(2)
        wait_for(lambda: podman("healthcheck", "run", container.name, check=False) == "", DEADLINE, "health")
        assert container.stop() == 0
    finally:
        container.destroy()
