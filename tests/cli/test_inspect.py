import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clusterd.cli import cli
from clusterd.client import places
from tests.ops.serving import Running, serving_unix
from tests.ops.staged import Staged, control

DEADLINE = 20.0


@pytest.fixture(autouse=True)
def only_here(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services of this machine are none of these tests' business."""
    monkeypatch.setattr(places, "SYSTEM_DIR", str(run_dir / "run"))
    monkeypatch.setattr(places, "FALLBACK_DIR", str(run_dir / "tmp"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


@pytest.fixture
def source() -> Staged:
    return Staged()


@pytest.fixture
def served(run_dir: Path, source: Staged) -> Iterator[Running]:
    with serving_unix(str(run_dir / "control.sock"), control(source)) as running:
        yield running


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def process(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    """The real command."""
    start = [sys.executable, "-c", "from clusterd.cli import main; main()", *arguments]
    return subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("name", ["status", "list", "ls"])
def test_status_prints_the_table(served: Running, run_dir: Path, name: str) -> None:
    result = command(name, "--run-dir", str(run_dir))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "shop: running, ready, up 1 m 0 s, pid 4711"
    assert "web   0" in result.stdout
    assert "\x1b" not in result.stdout


def test_status_json_prints_the_document_as_one_line(served: Running, run_dir: Path) -> None:
    result = command("status", "--json", "--run-dir", str(run_dir))
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["api"] == 1


def test_status_watched_goes_on_until_it_is_interrupted(served: Running, run_dir: Path) -> None:
    with process("status", "--json", "--watch", "--run-dir", str(run_dir)) as watching:
        assert watching.stdout is not None
        for _ in range(2):
            assert json.loads(watching.stdout.readline())["api"] == 1
        watching.send_signal(2)
        _, errors = watching.communicate(timeout=DEADLINE)
        assert watching.returncode == 0
        assert errors == ""


def test_on_a_terminal_the_table_has_colours(served: Running, run_dir: Path) -> None:
    leader, terminal = pty.openpty()
    try:
        start = [sys.executable, "-c", "from clusterd.cli import main; main()", "status", "--run-dir", str(run_dir)]
        environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
        environ.pop("NO_COLOR", None)
        subprocess.run(start, stdout=terminal, env=environ, timeout=DEADLINE, check=True)
        assert b"\x1b[32mready" in os.read(leader, 65536)
    finally:
        os.close(leader)
        os.close(terminal)


@pytest.mark.parametrize("check", [[], ["ready"], ["live"], ["startup"]])
def test_health_exits_with_0_when_it_is_well(served: Running, run_dir: Path, check: list[str]) -> None:
    result = command("health", *check, "--run-dir", str(run_dir))
    assert result.exit_code == 0
    assert result.stdout.startswith("ok ")


def test_health_exits_with_1_when_it_is_not(served: Running, run_dir: Path, source: Staged) -> None:
    source.age = 1000.0
    result = command("health", "live", "--verbose", "--run-dir", str(run_dir))
    assert result.exit_code == 1
    assert "FAIL loop" in result.stdout
    assert "web/1: ready" in result.stdout


@pytest.mark.parametrize("name", ["status", "health"])
def test_nobody_there_is_exit_3_and_a_sentence(run_dir: Path, name: str) -> None:
    for options in (["--run-dir", str(run_dir)], ["--name", "shop"], []):
        result = command(name, *options)
        assert result.exit_code == 3
        assert result.stderr.startswith("clusterd: no clusterd ")
        assert result.stderr.count("\n") == 1


def test_two_ways_to_name_a_service_are_exit_2(run_dir: Path) -> None:
    result = command("status", "--run-dir", str(run_dir), "--name", "shop")
    assert result.exit_code == 2
    assert "is enough" in result.stderr


def test_a_configuration_names_its_service(served: Running, run_dir: Path) -> None:
    config = run_dir / "shop.toml"
    pools = '[listeners.http]\n[pools.web]\napp = "a:b"\n'
    config.write_text(f'config_version = 1\n[clusterd]\nname = "shop"\nrun_dir = "{run_dir}"\n{pools}')
    assert command("health", "--config", str(config)).exit_code == 0
    # Run by systemd it has $RUNTIME_DIRECTORY, which is not in the environment of whoever asks.
    elsewhere = run_dir / "run" / "shop"
    elsewhere.mkdir(parents=True)
    config.write_text(f'config_version = 1\n[clusterd]\nname = "shop"\n{pools}')
    result = command("health", "--config", str(config))
    assert result.exit_code == 3
    assert "is not running; looked for" in result.stderr
    with serving_unix(str(elsewhere / "control.sock"), control(Staged())):
        assert command("health", "--config", str(config)).exit_code == 0


def test_where_none_is_found_the_file_that_lies_here_names_it(
    served: Running, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("health").exit_code == 3
    monkeypatch.chdir(run_dir)
    pools = '[listeners.http]\n[pools.web]\napp = "a:b"\n'
    (run_dir / "clusterd.toml").write_text(f'[clusterd]\nname = "shop"\nrun_dir = "{run_dir}"\n{pools}')
    assert command("health").exit_code == 0
    assert command("health", "--name", "other").exit_code == 3


def test_a_configuration_that_cannot_be_used_is_exit_78(run_dir: Path) -> None:
    assert command("status", "--config", str(run_dir / "none.toml")).exit_code == 78


def test_a_status_of_another_version_is_said_to_be(run_dir: Path) -> None:
    from clusterd.ops.exchange import Response

    routes = {"/v1/status": lambda request: Response(200, b'{"api": 2, "pools": 5}')}
    with serving_unix(str(run_dir / "control.sock"), routes):
        result = command("status", "--run-dir", str(run_dir))
        assert result.exit_code == 1
        assert "another version of clusterd" in result.stderr
        # As JSON it is the reader's to understand.
        assert command("status", "--json", "--run-dir", str(run_dir)).exit_code == 0


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["health"]])
def test_a_command_that_only_asks_loads_nothing_that_serves(
    served: Running, run_dir: Path, arguments: list[str]
) -> None:
    code = "import sys\nfrom clusterd.cli import main\ntry:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"  # noqa: E501
    start = [sys.executable, "-c", code, *arguments, "--run-dir", str(run_dir)]
    done = subprocess.run(start, capture_output=True, text=True, timeout=DEADLINE, check=True)
    heavy = {
        "asyncio",
        "ssl",
        "clusterd.core.facts",
        "h11",
        "prometheus_client",
        "rich",
        "structlog",
        "psutil",
        "uvicorn",
    }
    assert heavy & set(done.stderr.split()) == set()
