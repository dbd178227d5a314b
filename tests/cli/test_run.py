"""``clusterd run`` as a process, up to the point where it serves or says why it does not; and who asks after it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterd.cli import cli
from clusterd.cli.rundir import make_run_dir
from clusterd.client import places
from clusterd.errors import HostError
from tests.real.harness import HELLO, Launcher, Service
from tests.real.playground import last_words

pytestmark = pytest.mark.slow

DEADLINE = 20.0
OTHER_UID = 12345


@pytest.fixture
def launcher(tmp_path: Path, run_dir: Path) -> Iterator[Launcher]:
    """As that of the real tests."""
    launcher = Launcher(tmp_path, run_dir)
    yield launcher
    launcher.finish()


class Shell:
    """Runs commands in a folder of their own, with a runtime directory of their own."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = runtime
        self.environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CLUSTERD_", "RUNTIME_DIRECTORY", "PORT", "WEB_CONCURRENCY", "NOTIFY_SOCKET"))
        } | {"XDG_RUNTIME_DIR": os.fspath(runtime)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clusterd", *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def refused(self, code: int, *arguments: str) -> str:
        """The one clear text with which the command ends; it says nothing else and shows no traceback."""
        done = self(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert "Traceback" not in done.stderr
        return done.stderr


def refused(code: int, *arguments: str) -> str:
    """As :meth:`Shell.refused` of a command that ends before it touches anything: then no process is needed."""
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout) == (code, ""), done
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.stderr


@pytest.fixture
def here(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no service that this user runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(run_dir))
    monkeypatch.setattr(places, "SYSTEM_DIR", os.fspath(run_dir / "none"))
    monkeypatch.setattr(places, "FALLBACK_DIR", os.fspath(run_dir / "none"))
    monkeypatch.delenv("CLUSTERD_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def shell(tmp_path: Path, run_dir: Path) -> Shell:
    (tmp_path / "app.py").write_text(HELLO)
    return Shell(tmp_path, run_dir)


def test_version_names_the_package_s(shell: Shell) -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"clusterd {version('clusterd')}\n", "")


def test_no_arguments_show_the_commands(shell: Shell) -> None:
    done = shell()
    assert done.returncode == 2
    assert {"run", "check", "status", "health"} <= set((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run", "--frobnicate"], "No such option"),
        (["run"], "there is nothing to run"),
        (["run", "app:app", "-w", "none"], "expected a number, at least 1, or auto"),
        (["run", "app:app", "-b", "nonsense:port"], "nonsense:port"),
        (["run", "app:app", "--set", "nonsense"], "expected KEY=VALUE"),
        (["health", "well"], "'well' is not one of"),
        (["status", "--name", "x", "--run-dir", "y"], "one of --config, --name and --run-dir is enough"),
    ],
)
def test_a_wrong_command_line_is_said_and_ends_with_2(here: Path, arguments: list[str], said: str) -> None:
    assert said in refused(2, *arguments)


def test_an_unknown_command_is_said_by_the_process_too(shell: Shell) -> None:
    assert "No such command 'frobnicate'" in shell.refused(2, "frobnicate")


def random_bytes() -> bytes:
    return random.Random(7).randbytes(4096)


NONSENSE = b"""
config_version = "one"
clusterd = 3
listeners = [1, 2]
monitoring = true
[pools.web]
app = 5
workers = "many"
env = [1]
listeners = {}
restart = "x"
limits = 1979-05-27
unknown = 1
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (random_bytes(), ["not UTF-8"]),
        (b"\0" * 100, ["clusterd.toml:1"]),
        (b"a = " + b"[" * 1_000_000, ["nested deeper than"]),
        (b"[" + b".".join([b"a"] * 500_000) + b"]", ["nested deeper than"]),
        (b"config_version = 1\n[pools.web]\nap = 'app:app'\n", ["clusterd.toml:3", "pools.web.ap", "app"]),
        (NONSENSE, [f"clusterd.toml:{line}: " for line in (2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13)]),
        (b"config_version = 1\n", ["pools"]),
    ],
    ids=["random bytes", "zeros", "deep arrays", "deep tables", "a misspelt key", "wrong types everywhere", "no pool"],
)
def test_a_file_that_is_no_configuration_is_said_in_full_and_ends_with_78(
    here: Path, content: bytes, said: list[str]
) -> None:
    (here / "clusterd.toml").write_bytes(content)
    text = refused(78, "run", "--config", "clusterd.toml")
    assert [part for part in said if part not in text] == []


@pytest.mark.parametrize("name", ["missing.toml", ".", "/dev/zero"])
def test_a_file_that_is_none_is_said_and_ends_with_78(here: Path, name: str) -> None:
    text = refused(78, "run", "--config", name)
    assert text.startswith(f"clusterd: {name}: the configuration file")
    assert text.count("\n") == 1


def test_a_configuration_that_is_none_is_said_by_the_process_too(shell: Shell) -> None:
    (shell.folder / "clusterd.toml").write_bytes(NONSENSE)
    assert shell.refused(78, "run").count("\n") == 11


def test_a_run_directory_that_is_a_file_is_refused(shell: Shell, run_dir: Path) -> None:
    (run_dir / "file").touch()
    text = shell.refused(1, "run", "app:app", "-b", "127.0.0.1:0", "--set", f"clusterd.run_dir={run_dir}/file")
    assert "is no directory" in text
    with pytest.raises(HostError, match="/file: File exists"):
        make_run_dir(f"{run_dir}/file/below")


def test_a_run_directory_that_is_a_link_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "link").symlink_to(tmp_path)
    with pytest.raises(HostError, match="is no directory"):
        make_run_dir(f"{run_dir}/link")


def test_a_run_directory_that_others_can_write_to_is_refused(run_dir: Path) -> None:
    (run_dir / "open").mkdir()
    (run_dir / "open").chmod(0o777)
    with pytest.raises(HostError, match="can be written by others"):
        make_run_dir(f"{run_dir}/open")


def test_a_run_directory_of_another_user_is_refused(run_dir: Path) -> None:
    place = run_dir / "theirs"
    if os.geteuid() == 0:
        place.mkdir(mode=0o700)
        os.chown(place, OTHER_UID, -1)
    else:
        place = Path("/usr")
    with pytest.raises(HostError, match=f"belongs to uid {place.stat().st_uid}"):
        make_run_dir(os.fspath(place))


def test_a_run_directory_is_made_for_its_owner_alone(run_dir: Path) -> None:
    make_run_dir(f"{run_dir}/a/b")
    assert (run_dir / "a" / "b").stat().st_mode & 0o777 == 0o700
    make_run_dir(f"{run_dir}/a/b")


def test_a_taken_port_is_said_with_its_holder(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = shell.refused(1, "run", "app:app", "-b", f"127.0.0.1:{port}")
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use by " in text
    assert f"(pid {os.getpid()})" in text
    assert not list(shell.runtime.rglob("control.sock")), "the control socket is left behind"


def test_a_taken_monitoring_port_is_replaced_where_nobody_chose_it(launcher: Launcher) -> None:
    (launcher.folder / "app.py").write_text(HELLO)
    run = ["app:app", "-w", "1", "-b", "127.0.0.1:0", "--set", f"clusterd.run_dir={launcher.run_dir}"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = launcher.run(*run, "--set", f"monitoring.address=127.0.0.1:{port}").wait_ready()
        assert service.monitoring() != f"127.0.0.1:{port}"
        said = service.wait_log("monitoring_moved")
        assert said["level"] == "warning"
        assert f"127.0.0.1:{port}" in said["reason"]
        assert service.health("/readyz").status == 200


def test_a_taken_monitoring_port_of_a_file_is_an_error(launcher: Launcher) -> None:
    (launcher.folder / "app.py").write_text(HELLO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launcher.configuration({"monitoring": {"address": f"127.0.0.1:{port}"}})
        service = launcher.run("--config", "clusterd.toml")
        assert service.wait_exit() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in last_words(service)[-1]


def test_a_stale_control_socket_is_removed(launcher: Launcher) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(launcher.run_dir / "control.sock"))
    service = launcher.start(workers=1)
    assert service.status()["service"]["pid"] == service.pid


def test_a_living_control_socket_is_refused_with_its_pid(launcher: Launcher, shell: Shell) -> None:
    first = launcher.start(workers=1)
    assert f"already served by pid {first.pid}" in shell.refused(1, "run", "--config", "clusterd.toml")
    assert first.get().status == 200
    assert first.status()["service"]["pid"] == first.pid


def test_the_control_socket_is_gone_after_the_end_and_private_before(launcher: Launcher) -> None:
    service = launcher.start(workers=1)
    path = launcher.run_dir / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert service.stop() == 0
    assert not path.exists()


# -- who asks after it ------------------------------------------------------------------------------------------


def test_status_and_health_of_none_end_with_3(here: Path, shell: Shell) -> None:
    assert shell.refused(3, "health", "--run-dir", "/nowhere").count("\n") == 1
    for arguments in (["status"], ["health", "live"], ["status", "--name", "shop"], ["ls", "--run-dir", "/nowhere"]):
        text = refused(3, *arguments)
        assert text.startswith("clusterd: ")
        assert text.count("\n") == 1


def named(launcher: Launcher, name: str, runtime: Path) -> Service:
    """A service whose run directory is the default for its name."""
    (launcher.folder / "app.py").write_text(HELLO)
    arguments = ["app:app", "-w", "1", "-b", "127.0.0.1:0", "--set", f"clusterd.name={name}"]
    service = launcher.run(
        *arguments, "--set", "monitoring.address=127.0.0.1:0", env={"XDG_RUNTIME_DIR": os.fspath(runtime)}
    )
    service.run_dir = runtime / "clusterd" / name
    return service


def test_with_one_running_it_is_meant_and_with_two_it_must_be_said_which(
    launcher: Launcher, shell: Shell, run_dir: Path
) -> None:
    first = named(launcher, "one", run_dir)
    first.wait_log("service_ready")
    assert "one: running, ready" in shell("status").stdout
    assert [shell("health", check).returncode for check in ("live", "ready", "startup")] == [0, 0, 0]
    (run_dir / "test-notify").unlink()
    second = named(launcher, "two", run_dir)
    second.wait_log("service_ready")
    text = shell.refused(2, "status")
    assert [name for name in ("one", "two") if f"--run-dir {run_dir}/clusterd/{name}" not in text] == []
    assert json.loads(shell("status", "--json", "--name", "two").stdout)["service"]["pid"] == second.pid
    assert shell("health", "--run-dir", os.fspath(first.run_dir)).returncode == 0


def test_status_and_health_of_a_running_service(launcher: Launcher) -> None:
    service = launcher.start(workers=2)
    service.wait_log("worker_ready", count=2)
    table = service.cli("status")
    assert table.returncode == 0
    assert table.stdout.startswith("test: running, ready, up ")
    document = json.loads(service.cli("status", "--json").stdout)
    assert document["pools"][0]["ready"] == 2
    assert service.cli("health", "ready", "-v").stdout.count("web/") == 2


def test_health_of_a_service_that_is_not_ready_ends_with_1(launcher: Launcher) -> None:
    service = launcher.start("import time; time.sleep(60)", workers=1, ready=False)
    service.wait_log("monitoring")
    assert service.cli("health", "live").returncode == 0
    startup = service.cli("health", "startup")
    assert (startup.returncode, startup.stdout.splitlines()[0]) == (1, "FAIL startup: not ready yet")
    assert service.cli("health").returncode == 1


@pytest.mark.slow
def test_a_frozen_primary_times_out_with_5(launcher: Launcher) -> None:
    service = launcher.start(workers=1)
    service.signal(signal.SIGSTOP)
    try:
        asked = service.cli("health", "live")
    finally:
        service.signal(signal.SIGCONT)
    assert asked.returncode == 5
    assert "did not answer within" in asked.stderr
    assert asked.stderr.count("\n") == 1
    assert service.cli("health", "live").returncode == 0
