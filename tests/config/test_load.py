"""From text to a configuration: defaults, places, problems, and what is derived."""

import hashlib
import os
from pathlib import Path

import pytest

from clusterd.config import Address, Config, Loaded, load, open_config
from clusterd.config.flags import Flags
from clusterd.errors import ConfigError, Problem, UsageError

MINIMAL = """
[listeners.http]
address = "127.0.0.1:8000"
[pools.web]
app = "shop.asgi:app"
"""


def loaded(text: str, environ: dict[str, str] | None = None, *, file: str = "/etc/shop/clusterd.toml") -> Loaded:
    return load(text, file=file, environ=environ or {}, cwd="/work")


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, file="shop.toml", environ=environ or {}, cwd="/work")
    return [str(problem) for problem in caught.value.problems]


def test_a_minimal_file_gives_the_documented_defaults() -> None:
    result = loaded(MINIMAL)
    config = result.config
    pool = config.pools["web"]
    assert config.clusterd.name == "shop"
    assert config.clusterd.run_dir == f"/tmp/clusterd-{os.getuid()}/shop"
    assert config.control.socket == f"/tmp/clusterd-{os.getuid()}/shop/control.sock"
    assert config.listeners["http"].address == Address(host="127.0.0.1", port=8000)
    assert config.listeners["http"].backlog == 2048
    assert (pool.workers, pool.listeners, pool.cwd, pool.min_ready) == ("auto", ("http",), "/work", 1)
    assert (pool.restart.rapid_exit, pool.restart.initial_delay, pool.restart.max_delay) == (1.0, 0.2, 30.0)
    assert (config.shutdown.lame_duck, config.shutdown.linger, config.shutdown.drain_timeout) == (0.0, 2.0, 25.0)
    assert config.monitoring.address == Address(host="127.0.0.1", port=9190)
    assert result.sha256 == hashlib.sha256(MINIMAL.encode()).hexdigest()
    assert (result.from_file, result.warnings) == (True, ())


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """config_version = 1
[listeners.http]
adress = "127.0.0.1:8000"
backlog = "many"
[pools.web]
app = "shop.asgi:app"
workers = 0
keep_alive = "5s"
start_timeout = 60
env = { A = "${NOPE}", B = "$HOME" }
listeners = [
  "http",
  "htp",
]
[pools.web.restart]
on_give_up = "never"
[log]
level = "loud"
[shutdwn]
x = 1
"""
    assert problems(text) == [
        "shop.toml:3: listeners.http.adress: unknown key; did you mean listeners.http.address?",
        'shop.toml:4: listeners.http.backlog: expected a whole number from 1 to 65535, found "many"',
        'shop.toml:7: pools.web.workers: expected "auto" or a whole number from 1 to 1024, found the number 0',
        "shop.toml:8: pools.web.keep_alive: unknown key; did you mean pools.web.http.keep_alive?",
        (
            "shop.toml:9: pools.web.start_timeout: expected a duration in a string,"
            ' such as "250ms", "30s" or "5m", found the number 60'
        ),
        (
            "shop.toml:10: pools.web.env.A: the environment variable NOPE is not set;"
            " set it, or give a default: ${NOPE:-…}"
        ),
        'shop.toml:10: pools.web.env.B: a $ begins "${VAR}" or "${VAR:-default}"; write $$ for a dollar sign',
        'shop.toml:13: pools.web.listeners[1]: there is no listener "htp"; known: http',
        'shop.toml:16: pools.web.restart.on_give_up: expected "probe", "stop" or "exit", found "never"',
        'shop.toml:18: log.level: expected "debug", "info", "warning" or "error", found "loud"',
        "shop.toml:19: shutdwn: unknown key; did you mean shutdown?",
    ]


def test_a_problem_has_file_line_and_key_apart() -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(MINIMAL + "wokers = 3")
    assert caught.value.exit_code == 78
    (problem,) = caught.value.problems
    assert problem == Problem(
        "unknown key; did you mean pools.web.workers?", "pools.web.wokers", "/etc/shop/clusterd.toml", 6
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pools = 3", "pools: expected tables with names, such as [pools.web], found the number 3"),
        ("[[pools]]", "pools: expected tables with names, such as [pools.web], found an array"),
        ("listeners = []", "listeners: expected tables with names, such as [listeners.http], found an array"),
        ("pools.web = 'x'", 'pools.web: expected the table [pools.web], found "x"'),
        ("shutdown = true", "shutdown: expected the table [shutdown], found true"),
        ("[log.level]", 'log.level: expected "debug", "info", "warning" or "error", found a table'),
        ("[monitoring]\naddress = {}", "found a table"),
        ("config_version = 2", "config_version: expected a whole number from 1 to 1, found the number 2"),
        ("[pools.'a.b']\napp = 'a:b'", 'pools."a.b": expected a name of at most 32 letters, digits, _ and -'),
        ("[pools.'']\napp = 'a:b'", 'pools."": expected a name'),
        ("[pools.1]\napp = 'a:b'", "pools.1: expected a name"),
        ("[listeners.'a/b']", 'listeners."a/b": expected a name'),
        ("[clusterd]\nname = ''", "clusterd.name: expected a name of at most 64"),
        ("[clusterd]\nname = '../x'", "clusterd.name: expected a name of at most 64"),
        ("[clusterd]\nname = 'a\u00e9'", "clusterd.name: expected a name of at most 64"),
        ("[pools.web.limits]\nnofile = 'x'", 'pools.web.limits.nofile: expected "unlimited" or a whole number'),
        ("zzz = 1", "zzz: unknown key; known here: config_version, clusterd, listeners, pools"),
    ],
)
def test_a_wrong_type_or_name_is_told_where_it_stands(text: str, problem: str) -> None:
    found = problems(text)
    assert any(problem in line for line in found), found


def test_more_than_a_hundred_problems_are_counted() -> None:
    found = problems("".join(f"k{number} = 1\n" for number in range(150)) + MINIMAL)
    assert len(found) == 101
    assert found[-1] == "shop.toml: and 50 further problems"


def test_variables_are_put_into_strings_and_may_give_numbers() -> None:
    text = """
[listeners.http]
address = "${HOST:-127.0.0.1}:${PORT_NUMBER}"
backlog = "${BACKLOG:-64}"
[pools.web]
app = "shop:app"
workers = "${WORKERS}"
env = { KEY = "${CREDENTIALS_DIRECTORY}/key", PRICE = "5$$" }
http.access_log = "${LOG}"
"""
    environ = {"PORT_NUMBER": "81", "WORKERS": "3", "CREDENTIALS_DIRECTORY": "/run/credentials/shop", "LOG": "true"}
    config = loaded(text, environ).config
    assert str(config.listeners["http"].address) == "127.0.0.1:81"
    assert config.listeners["http"].backlog == 64
    assert config.pools["web"].workers == 3
    assert config.pools["web"].env == {"KEY": "/run/credentials/shop/key", "PRICE": "5$"}
    assert config.pools["web"].http.access_log is True


def test_keys_and_numbers_take_no_variables() -> None:
    assert any("unknown key" in line for line in problems("'${A}' = 1\n" + MINIMAL, {"A": "log"}))


def test_paths_are_relative_to_the_file_and_those_of_flags_to_the_working_directory() -> None:
    text = MINIMAL + 'cwd = "app"\n[clusterd]\nrun_dir = "run"\n'
    config = loaded(text).config
    assert (config.pools["web"].cwd, config.clusterd.run_dir) == ("/etc/shop/app", "/etc/shop/run")
    assert config.control.socket == "/etc/shop/run/control.sock"
    flags = open_config(None, "shop:app", sets=["pools.web.cwd=app"], environ={})
    assert flags.config.pools["web"].cwd == str(Path.cwd() / "app")


def test_a_relative_file_is_in_the_working_directory() -> None:
    assert loaded(MINIMAL + 'cwd = "app"', file="conf/x.toml").config.pools["web"].cwd == "/work/conf/app"


@pytest.mark.parametrize(
    ("environ", "run_dir"),
    [
        ({"RUNTIME_DIRECTORY": "/run/shop:/run/other", "XDG_RUNTIME_DIR": "/run/user/1"}, "/run/shop"),
        ({"XDG_RUNTIME_DIR": "/run/user/1"}, "/run/user/1/clusterd/shop"),
        ({"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "relative"}, f"/tmp/clusterd-{os.getuid()}/shop"),
    ],
)
def test_the_run_directory_is_what_the_host_offers(environ: dict[str, str], run_dir: str) -> None:
    assert loaded(MINIMAL, environ).config.clusterd.run_dir == run_dir


def test_the_name_is_the_first_part_of_the_app_if_that_can_be_one() -> None:
    assert loaded(MINIMAL).config.clusterd.name == "shop"
    assert loaded(MINIMAL.replace("shop.asgi", "größe")).config.clusterd.name == "clusterd"
    assert loaded(MINIMAL + '[clusterd]\nname = "other.1"').config.clusterd.name == "other.1"


def test_every_value_knows_where_it_came_from() -> None:
    text = MINIMAL + 'env = {A = "${X}", B = "b"}'
    result = loaded(text, {"X": "secret", "CLUSTERD_GRACE_PERIOD": "60", "WEB_CONCURRENCY": "2"})
    where = {key: str(origin) for key, origin in result.provenance.items()}
    assert where["pools.web.app"] == "/etc/shop/clusterd.toml:5"
    assert where["pools.web.env.A"] == "/etc/shop/clusterd.toml:6"
    assert result.provenance["pools.web.env.A"].written == "${X}"
    assert where["pools.web.workers"] == "$WEB_CONCURRENCY"
    assert where["shutdown.grace_period"] == "$CLUSTERD_GRACE_PERIOD"
    assert where["clusterd.name"] == "default (from pools.web.app)"
    assert where["log.level"] == "default"


def test_the_file_is_looked_for_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("named", "variable", "clusterd"):
        (tmp_path / f"{name}.toml").write_text(MINIMAL + f'[clusterd]\nname = "{name}"')
    environ = {"CLUSTERD_CONFIG": "variable.toml"}
    assert open_config("named.toml", environ=environ).config.clusterd.name == "named"
    assert open_config(environ=environ).config.clusterd.name == "variable"
    assert open_config(environ={}).config.clusterd.name == "clusterd"
    assert open_config(environ={}).file == "clusterd.toml"
    (tmp_path / "clusterd.toml").unlink()
    with pytest.raises(UsageError, match="nothing to run"):
        open_config(environ={})


def test_a_broken_link_as_the_local_file_is_an_error_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusterd.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="No such file"):
        open_config(environ={})


def test_with_an_app_only_a_named_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusterd.toml").write_text(MINIMAL + '[clusterd]\nname = "local"')
    without = open_config(app="other:app", environ={})
    assert (without.config.clusterd.name, without.from_file) == ("other", False)
    assert without.warnings == (
        "./clusterd.toml is not read, because an app was given; --config clusterd.toml reads it too",
    )
    named = open_config("clusterd.toml", "other:app", environ={})
    assert (named.config.clusterd.name, named.config.pools["web"].app) == ("local", "other:app")


def test_a_configuration_is_frozen() -> None:
    config = loaded(MINIMAL).config
    assert isinstance(config, Config)
    with pytest.raises(AttributeError):
        config.shutdown.linger = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "flags", "expected"),
    [
        ("unix:shop.sock", (), "unix:/etc/shop/shop.sock"),
        ("unix:../run/shop.sock", (), "unix:/etc/run/shop.sock"),
        ("unix:/run/shop.sock", (), "unix:/run/shop.sock"),
        ("unix:@shop.sock", (), "unix:@shop.sock"),
        (":80", ("unix:shop.sock",), "unix:/srv/shop.sock"),
    ],
)
def test_a_sockets_path_is_relative_to_the_file_and_a_flags_to_the_working_directory(
    written: str, flags: tuple[str, ...], expected: str
) -> None:
    text = f'[listeners.http]\naddress = "{written}"\n[pools.web]\napp = "shop:app"\n'
    config = load(text, file="/etc/shop/shop.toml", environ={}, cwd="/srv", overrides=Flags(binds=flags)).config
    assert str(config.listeners["http"].address) == expected
