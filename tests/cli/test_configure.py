"""`check`, `explain` and `schema` as a user calls them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from clusterd.cli.configure import check, commands, explain, run_options, schema

GOOD = '[listeners.http]\naddress = ":8000"\n[pools.web]\napp = "shop:app"\nworkers = 2\n'


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an app in it, and none of the variables that would be honoured."""
    monkeypatch.chdir(tmp_path)
    for name in ("CLUSTERD_CONFIG", "PORT", "WEB_CONCURRENCY", "CLUSTERD_GRACE_PERIOD", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    (tmp_path / "shop.py").write_text("async def app(scope, receive, send): ...\n")
    return tmp_path


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_check_says_ok_and_what_the_file_amounts_to(directory: Path) -> None:
    (directory / "clusterd.toml").write_text(GOOD)
    result = run(check)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "clusterd.toml: ok",
        "  service shop, run directory /run/user/1/clusterd/shop",
        "  pool web: shop:app, workers 2, listeners http",
        "  listener http: :8000",
        "  monitoring: http://127.0.0.1:9190/metrics",
    ]


def test_check_tells_every_problem_on_stderr_and_ends_with_78(directory: Path) -> None:
    (directory / "x.toml").write_text(GOOD + "wokers = 3\nmin_ready = 5\n")
    result = run(check, "--config", "x.toml")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.splitlines() == [
        "x.toml:6: pools.web.wokers: unknown key; did you mean pools.web.workers?",
        "x.toml:7: pools.web.min_ready: 5 can never be ready of 2 workers",
        "2 problems",
    ]


@pytest.mark.parametrize("data", [b"", b"\xff\0", b"[" * 1_000_000, b"pools = 1"])
def test_check_of_no_configuration_ends_with_78_and_no_traceback(directory: Path, data: bytes) -> None:
    (directory / "x.toml").write_bytes(data)
    result = run(check, "--config", "x.toml")
    assert result.exit_code == 78
    assert result.stderr.startswith("x.toml")
    assert "Traceback" not in result.output


def test_a_missing_file_that_was_named_is_78_and_nothing_to_check_is_2() -> None:
    assert run(check, "--config", "missing.toml").exit_code == 78
    nothing = run(check)
    assert nothing.exit_code == 2
    assert "there is nothing to run" in nothing.stderr


def test_a_shutdown_that_cannot_fit_fails_the_check(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "clusterd.toml").write_text(GOOD)
    monkeypatch.setenv("CLUSTERD_GRACE_PERIOD", "20")
    result = run(check)
    assert result.exit_code == 78
    assert "does not fit grace_period (20s)" in result.stderr


def test_a_path_that_is_not_utf_8_is_shown_escaped(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "clusterd.toml").write_text(GOOD)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/\udcff")
    assert "run directory /run/\\udcff/clusterd/shop" in run(check).stdout
    assert r"/run/\udcff/clusterd/shop" in run(explain, "clusterd.run_dir").stdout


def test_check_with_import_imports_the_app_elsewhere(directory: Path) -> None:
    (directory / "clusterd.toml").write_text(GOOD)
    assert run(check, "--import").exit_code == 0
    (directory / "shop.py").write_text("1 / 0")
    assert run(check).exit_code == 0
    result = run(check, "--import")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.startswith("clusterd.toml:4: pools.web.app: shop:app: importing shop failed")
    assert "ZeroDivisionError" in result.stderr


def test_check_takes_what_run_takes() -> None:
    result = run(check, "shop:app", "-w", "3", "-b", ":1", "-b", ":2", "--set", "log.level=debug")
    assert result.exit_code == 0
    assert "pool web: shop:app, workers 3, listeners http, http2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-w", "0"], "at least 1, or auto"),
        (["-w", "x"], "at least 1, or auto"),
        (["-b", "8000"], 'write ":8000"'),
        (["--set", "x"], "expected KEY=VALUE"),
        (["--nothing"], "No such option"),
    ],
)
def test_wrong_flags_are_a_usage_error(arguments: list[str], message: str) -> None:
    result = run(check, "shop:app", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_options_of_run_arrive_under_their_names() -> None:
    @click.command()
    @run_options
    def probe(**values: object) -> None:
        click.echo(json.dumps(values))

    result = run(probe, "--config", "f", "-w", "2", "-b", ":1", "--set", "a=1")
    assert json.loads(result.stdout) == {"config_path": "f", "workers": 2, "binds": [":1"], "sets": ["a=1"]}
    assert json.loads(run(probe, "-w", "auto").stdout)["workers"] == "auto"


def test_explain_tells_value_origin_default_and_purpose(directory: Path) -> None:
    (directory / "clusterd.toml").write_text(GOOD)
    result = run(explain, "pools.web.workers")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "pools.web.workers = 2",
        "  from     clusterd.toml:5",
        '  default  "auto"',
        "  How many; auto is the CPUs of the cgroup quota and affinity. Else $WEB_CONCURRENCY.",
    ]
    flagged = run(explain, "pools.web.workers", "-w", "7").stdout.splitlines()
    assert flagged[:2] == ["pools.web.workers = 7", "  from     -w"]


def test_explain_without_a_key_shows_all_and_without_a_file_the_defaults(directory: Path) -> None:
    defaults = run(explain)
    assert defaults.exit_code == 0
    assert 'pools.NAME.workers = "auto"  # default' in defaults.stdout.splitlines()
    (directory / "clusterd.toml").write_text(GOOD)
    assert "pools.web.workers = 2  # clusterd.toml:5" in run(explain).stdout.splitlines()


def test_explain_answers_an_unknown_key_with_known_ones(directory: Path) -> None:
    (directory / "clusterd.toml").write_text(GOOD)
    result = run(explain, "pools.web.wrokers")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean pools.web.workers" in result.stderr


def test_explain_of_a_broken_file_tells_its_problems(directory: Path) -> None:
    (directory / "clusterd.toml").write_text("pools = 1")
    assert run(explain).exit_code == 78


def test_schema_prints_a_json_schema() -> None:
    result = run(schema)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["properties"]["pools"]["description"]


def test_every_command_has_a_help_text() -> None:
    for command in commands:
        result = run(command, "--help")
        assert result.exit_code == 0
        assert command.help
