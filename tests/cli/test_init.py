"""``clusterd init``: files to start from, and what of other programs could be carried over."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomli
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusterd.cli import cli, pm2_table
from clusterd.cli.carried import Carried
from clusterd.cli.import_gunicorn import from_arguments
from clusterd.cli.import_pm2 import carry_over
from clusterd.config.load import open_config
from clusterd.errors import ConfigError, UsageError


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["init", *arguments])


def written(path: Path, *arguments: str) -> dict[str, Any]:
    result = command(*arguments, "--output", str(path))
    assert result.exit_code == 0, result.stderr
    return tomli.loads(path.read_text())


def assert_no_other_problems(path: Path) -> None:
    """It is a configuration; what this version does not have yet is told and is no fault of the file's."""
    try:
        open_config(str(path))
    except ConfigError as error:
        others = [str(problem) for problem in error.problems if "this version does not have" not in str(problem)]
        assert not others


@pytest.mark.parametrize("app", ["", "blog.main:create()", 'a"b:c'])
def test_the_starter_is_a_configuration_that_says_what_was_asked(app: str, tmp_path: Path) -> None:
    path = tmp_path / "clusterd.toml"
    found = written(path, *filter(None, [app]))
    assert found["pools"]["web"]["app"] == (app or "shop.asgi:app")
    if '"' not in app:
        open_config(str(path))


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "clusterd.toml"
    path.write_text("mine")
    result = command("--output", str(path))
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert path.read_text() == "mine"
    assert command("--output", str(path), "--force").exit_code == 0
    assert path.read_text() != "mine"


APPS = {
    "apps": [
        {
            "name": "My API", "script": "./api/server.js", "args": "--port 3000", "instances": "max", "watch": True,
            "max_memory_restart": "300M", "env": {"MODE": "dev", "N": 1, "PRICE": "$5"},
            "env_production": {"MODE": "prod"},
            "node_args": ["--inspect"], "wait_ready": True, "kill_timeout": 5000, "listen_timeout": "10s",
            "cron_restart": "0 0 * * *", "stop_exit_codes": [0], "increment_var": "PORT", "autorestart": True,
        },
        {"name": "jobs", "script": "jobs.py", "interpreter": "python3", "instances": 2, "kill_timeout": 9000},
        {"name": "jobs", "script": "bin/thing", "autorestart": False},
    ],
    "deploy": {},
}  # fmt: skip


def test_an_ecosystem_file_is_carried_over(tmp_path: Path) -> None:
    source, path = tmp_path / "ecosystem.config.json", tmp_path / "clusterd.toml"
    source.write_text(json.dumps(APPS))
    found = written(path, "--from-pm2", str(source), "--env", "production")
    api = found["pools"]["my-api"]
    assert api["script"] == "./api/server.js"
    assert api["args"] == ["--port", "3000"]
    assert api["workers"] == "auto"
    assert api["ready_when"] == "message"
    assert api["start_timeout"] == "10s"
    assert api["recycle"]["max_memory"] == "300MiB"
    assert api["env"] == {"MODE": "prod", "N": "1", "PRICE": "$$5", "NODE_OPTIONS": "--inspect"}
    assert found["pools"]["jobs"] == {"script": "jobs.py", "ready_when": "running", "workers": 2}
    assert found["pools"]["jobs-2"] == {"command": ["bin/thing"], "workers": 1}
    assert found["shutdown"]["drain_timeout"] == "9000ms"
    assert_no_other_problems(path)


@pytest.mark.parametrize("key", ["watch", "cron_restart", "stop_exit_codes", "increment_var", "autorestart", "deploy"])
def test_what_is_not_carried_over_is_said_with_its_reason(key: str, tmp_path: Path) -> None:
    source = tmp_path / "ecosystem.config.json"
    source.write_text(json.dumps(APPS))
    result = command("--from-pm2", str(source), "--output", "-")
    (row,) = [row for row in pm2_table.KEYS if key in row.theirs]
    assert row.why
    assert f"{key}: {row.why}" in result.stderr
    assert f"{key}: {row.why}" in result.stdout


@pytest.mark.parametrize(
    "text", ["module.exports = {}", "[]", '{"apps": 7}', '{"apps": []}', '{"apps": [1]}', "[" * 9999]
)
def test_what_is_no_ecosystem_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    source = tmp_path / "ecosystem.config.js"
    source.write_text(text)
    result = command("--from-pm2", str(source), "--output", "-")
    assert result.exit_code == 2
    assert "the ecosystem file" in result.stderr
    assert result.stdout == ""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = [name for row in pm2_table.KEYS for name in row.theirs if "*" not in name]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6), min_size=1, max_size=3))
@example([{"script": "a.js", "cwd": "\x08"}, {"script": "\x08"}])
def test_any_values_of_any_keys_become_toml_or_are_refused(apps: list[dict[str, Any]]) -> None:
    try:
        carried = carry_over(json.dumps({"apps": apps}))
    except UsageError:
        return
    assert tomli.loads(carried.text("x")) == carried.settings


GUNICORN = """
import multiprocessing
bind = ["0.0.0.0:8000", "unix:/run/x.sock"]
workers = 2 + multiprocessing.cpu_count() * 0
worker_class = "uvicorn.workers.UvicornWorker"
timeout = 120
graceful_timeout = 20
keepalive = 5
max_requests = 1000
max_requests_jitter = 50
accesslog = "/var/log/a.log"
loglevel = "warning"
wsgi_app = "shop.asgi"
raw_env = ["A=b", "SCRIPT_NAME=/api"]
umask = 0o027
print("hello")
def post_fork(server, worker): pass
"""


def test_a_settings_file_of_gunicorns_is_carried_over(tmp_path: Path) -> None:
    source, path = tmp_path / "gunicorn.conf.py", tmp_path / "clusterd.toml"
    source.write_text(GUNICORN)
    found = written(path, "--from-gunicorn", str(source))
    assert found["listeners"]["http"]["address"] == "0.0.0.0:8000"
    assert found["listeners"]["http2"]["address"] == "unix:/run/x.sock"
    web = found["pools"]["web"]
    assert web["app"] == "shop.asgi:application"
    assert web["workers"] == 2
    assert web["env"] == {"A": "b"}
    assert web["umask"] == "0027"
    assert web["http"] == {"keep_alive": "5s", "access_log": True, "root_path": "/api"}
    assert web["recycle"] == {"max_requests": 1000, "max_requests_jitter": 0.05}
    assert found["shutdown"]["drain_timeout"] == "20s"
    assert found["log"]["level"] == "warning"
    assert "post_fork: a hook" in path.read_text()
    assert_no_other_problems(path)


def test_arguments_of_gunicorns_are_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "clusterd.toml"
    arguments = "gunicorn -w 4 -k gthread --threads 8 --bind=:9000 -b :9001 -t30 --daemon --preload shop.wsgi:app"
    found = written(path, "--from-gunicorn", arguments)
    assert [one["address"] for one in found["listeners"].values()] == [":9000", ":9001"]
    assert found["pools"]["web"] == {
        "app": "shop.wsgi:app", "workers": 4, "interface": "wsgi", "preload": True,
        "health": {"heartbeat_timeout": "30s"},
    }  # fmt: skip
    assert "daemon: clusterd stays in the foreground" in path.read_text()
    assert_no_other_problems(path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise SystemExit(3)", "cannot be run"),
        ("import no_such_module", "No module named"),
        ("import os; os._exit(0)", "ended before"),
    ],
)
def test_a_settings_file_that_cannot_be_run_is_one_sentence(source: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "gunicorn.conf.py"
    path.write_text(source)
    result = command("--from-gunicorn", str(path), "--output", "-")
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["", "'", "gunicorn"])
def test_what_is_neither_file_nor_arguments_is_said(arguments: str) -> None:
    with pytest.raises(UsageError, match="--from-gunicorn: "):
        from_arguments(arguments)


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5) | st.integers() | st.booleans(), max_size=4)
)
def test_whatever_is_carried_reads_back_as_it_was(values: dict[str, Any]) -> None:
    carried = Carried()
    for key, value in values.items():
        carried.set(value, "pools", "web", "env", key)
        carried.set(value, "pools", key, "x")
    carried.lost.append(("a\nb", "c\n# d"))
    assert tomli.loads(carried.text("e\nf")) == carried.settings
