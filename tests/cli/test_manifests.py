"""Manifests of Kubernetes: valid in every version, restricted, and with the configuration's own numbers."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from clusterd.cli import cli, contained, manifests
from clusterd.config import open_config
from clusterd.config.rules import needed_grace
from tests import packaged_manifests

pytestmark = pytest.mark.slow

BASE = '[listeners.http]\naddress = "127.0.0.1:8000"\n\n[pools.web]\napp = "shop.asgi:app"\n'
DEPLOY = packaged_manifests.DIRECTORY

#: Every version whose schemas the package has.
VERSIONS = sorted(
    {
        entry.name.removeprefix("v").rpartition(".0-")[0]
        for entry in (Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema").glob("v*-local")
    },
    key=lambda version: int(version.partition(".")[2]),
)

Document = dict[str, Any]


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``generate(TOML, ARGUMENT…)`` runs the command in the directory of that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLUSTERD_CONFIG", raising=False)

    def run(text: str, *arguments: str, kind: str = "kubernetes") -> Result:
        Path("clusterd.toml").write_text(text)
        image = ["--image", "registry.example/shop:1"] if kind == "kubernetes" else []
        return CliRunner().invoke(cli, ["generate", kind, *image, *arguments])

    return run


def documents(text: str) -> list[Document]:
    return [one for one in yaml.safe_load_all(text) if one]


def of_kind(found: list[Document], kind: str) -> Document:
    (one,) = (one for one in found if one["kind"] == kind)
    return one


def validate(found: list[Document], version: str) -> None:
    for one in found:
        if one["kind"] not in ("PodMonitor", "Kustomization"):  # not Kubernetes' own
            kubernetes_validate.validate(one, version, strict=True)


def check_restricted(deployment: Document) -> None:
    """The rules of the profile "restricted" (kubernetes.io, "Pod Security Standards")."""
    pod = deployment["spec"]["template"]["spec"]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    safe = {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
    }
    assert {one["name"] for one in security.get("sysctls", [])} <= safe
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert "privileged" not in own
        assert all("hostPort" not in port for port in container["ports"])
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= allowed


def agrees(found: list[Document], text: str, folder: Path) -> None:
    """The numbers in the manifests are those of the configuration that the pods will run."""
    deployment = of_kind(found, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    words = container["args"]
    sets = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    file = folder / Path(words[words.index("--config") + 1]).name
    file.write_text(text)
    environ = {one["name"]: one["value"] for one in container["env"]}
    config = open_config(
        str(file), sets=sets, environ=environ, strict_grace=True
    ).config  # a grace that does not fit raises
    shutdown = config.shutdown
    assert shutdown.grace_period == pod["terminationGracePeriodSeconds"]
    needed = needed_grace(shutdown)
    assert needed is not None
    assert needed <= pod["terminationGracePeriodSeconds"]
    assert config.clusterd.run_dir.startswith("/run/clusterd/")
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/run/clusterd", "/tmp", words[words.index("--config") + 1]} <= mounted
    assert config.monitoring.address is not None
    assert config.monitoring.address.host in ("::", "0.0.0.0", "")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports.pop("monitoring") == config.monitoring.address.port
    assert sorted(ports.values()) == sorted(one.address.port for one in config.listeners.values())
    assert all(one.address.host not in ("127.0.0.1", "::1", "localhost") for one in config.listeners.values())
    for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": "monitoring"}
    startup, readiness = container["startupProbe"], container["readinessProbe"]
    longest = max(2 * pool.start_timeout for pool in config.pools.values())
    assert startup["periodSeconds"] * startup["failureThreshold"] >= longest
    if shutdown.lame_duck >= 1:  # who stops is known for it while it still serves
        assert readiness["periodSeconds"] * readiness["failureThreshold"] <= shutdown.lame_duck
    assert deployment["spec"]["progressDeadlineSeconds"] > longest + deployment["spec"]["minReadySeconds"]


# -- what the command makes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_takes_them(generate: Callable[..., Result], version: str) -> None:
    done = generate(
        BASE, "--kubernetes", version, "--max-replicas", "9", "--namespace", "shop", "--scrape", "podmonitor"
    )
    assert done.exit_code == 0, done.output
    found = documents(done.output)
    validate(found, version)
    kinds = {one["kind"] for one in found}
    assert kinds == {
        "ConfigMap",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodMonitor",
    }
    assert {one["metadata"]["namespace"] for one in found} == {"shop"}


def test_they_are_restricted_and_agree_with_the_configuration(generate: Callable[..., Result], tmp_path: Path) -> None:
    done = generate(BASE)
    found = documents(done.output)
    check_restricted(of_kind(found, "Deployment"))
    agrees(found, BASE, tmp_path)
    assert of_kind(found, "ConfigMap")["data"] == {"clusterd.toml": BASE}
    config = open_config(str(tmp_path / "clusterd.toml"), sets=_sets(found), environ={}).config
    assert str(config.monitoring.address) == "[::]:9190"
    assert (config.shutdown.lame_duck, config.shutdown.drain_timeout) == (5.0, 20.0)


def _sets(found: list[Document]) -> list[str]:
    words = of_kind(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    return [words[index + 1] for index, word in enumerate(words) if word == "--set"]


seconds = st.integers(min_value=0, max_value=400)


@given(lame=seconds, linger=seconds, drain=st.integers(1, 400), start=seconds, port=st.sampled_from([80, 1024, 8080]))
def test_whatever_the_numbers_are(lame: int, linger: int, drain: int, start: int, port: int) -> None:
    shutdown = f'[shutdown]\nlame_duck = "{lame}s"\nlinger = "{linger}s"\ndrain_timeout = "{drain}s"\n'
    text = BASE.replace("127.0.0.1:8000", f"0.0.0.0:{port}") + f'start_timeout = "{start}s"\n{shutdown}'
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "clusterd.toml")
        file.write_text(text)
        done = CliRunner().invoke(cli, ["generate", "kubernetes", "--image", "shop:1", "--config", str(file)])
        assert done.exit_code == 0, done.output
        found = documents(done.output)
        agrees(found, text, Path(folder))
        check_restricted(of_kind(found, "Deployment"))
        assert _sets(found) == ["monitoring.address=[::]:9190"]  # what the file says is left alone


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=200))
def test_any_text_of_a_configuration_comes_out_as_it_was(text: str) -> None:
    one = contained.Contained("shop", "clusterd.toml", text, [], [], 9190, 30, 5.0, 120, "web", None, 5.0)
    made = yaml.safe_load(manifests.configmap(one, manifests.Wanted("shop:1")))
    assert made["data"]["clusterd.toml"] == text


def test_a_directory_is_a_base_for_kustomize(generate: Callable[..., Result], tmp_path: Path) -> None:
    done = generate(BASE, "--directory", "base")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "base" / "clusterd.toml").read_text() == BASE
    listed = yaml.safe_load((tmp_path / "base" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        path.name
        for path in (tmp_path / "base").iterdir()
        if path.name
        not in (
            "kustomization.yaml",
            "clusterd.toml",
        )
    )


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (BASE + "[shutdown]\ndrain_timeout = 0\n", (), "without bound"),
        (BASE.replace(":8000", ":0"), (), "port 0"),
        (BASE + "[monitoring]\naddress = 0\n", (), "nothing to probe"),
        (BASE + "[monitoring]\naddress = '127.0.0.1:0'\n", (), "port 0"),
        (BASE + "user = 'root'\n", (), "needs root"),
        (BASE, ("--cpu", "2 cores"), "quantity"),
        (BASE, ("--namespace", "Shop!"), "namespace"),
        (BASE, ("--kubernetes", "1.20"), "from 1.25 on"),
        (BASE, ("--replicas", "5", "--max-replicas", "3"), "below --replicas 5"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    generate: Callable[..., Result], text: str, arguments: tuple[str, ...], said: str
) -> None:
    done = generate(text, *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


# -- what stands in deploy/kubernetes ---------------------------------------------------------------------------------


def test_the_stored_manifests_are_what_the_code_makes() -> None:
    for name, text in packaged_manifests.files().items():
        assert (DEPLOY / name).read_text() == text, f"{name}: run `python -m tests.packaged_manifests`"


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("place", ["base", "overlays/production", "overlays/development"])
def test_the_stored_manifests_build_and_every_version_takes_them(place: str, tmp_path: Path) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(DEPLOY / place)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = documents(done.stdout)
    for version in VERSIONS:
        validate(found, version)
    deployment = of_kind(found, "Deployment")
    check_restricted(deployment)
    agrees(found, (DEPLOY / "base" / "clusterd.toml").read_text(), tmp_path)
    (config,) = (
        volume["configMap"]["name"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    )
    assert config == of_kind(found, "ConfigMap")["metadata"]["name"]


# -- images and Compose -----------------------------------------------------------------------------------------------


def test_a_compose_file_agrees_with_the_configuration(generate: Callable[..., Result], tmp_path: Path) -> None:
    done = generate(BASE, kind="compose")
    assert done.exit_code == 0, done.output
    (service,) = yaml.safe_load(done.output)["services"].values()
    words = service["command"]
    sets = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    config = open_config("clusterd.toml", sets=sets, environ=service["environment"], strict_grace=True).config
    assert f"{config.shutdown.grace_period:g}s" == service["stop_grace_period"]
    assert config.shutdown.lame_duck == 0  # nothing here sends work to who is going
    assert config.monitoring.address is not None
    assert service["ports"] == ["8000:8000", "127.0.0.1:9190:9190"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]


def test_a_dockerfile_needs_no_shell(generate: Callable[..., Result]) -> None:
    Path("requirements.txt").write_text("fastapi\n")
    done = generate(BASE, "--directory", "out", kind="docker")
    assert done.exit_code == 0, done.output
    text = Path("out/Dockerfile").read_text()
    steps = [line for line in text.splitlines() if line.startswith(("RUN ", "CMD ", "ENTRYPOINT "))]
    assert all(isinstance(json.loads(line.partition(" ")[2]), list) for line in steps)
    assert '"-r", "requirements.txt"' in text
    assert "EXPOSE 8000 9190" in text
    assert "USER 10001:10001" in text
    assert os.path.exists("out/.dockerignore")
