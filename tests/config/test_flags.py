"""Flags and variables over a file, and without one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config import Flags, Loaded, from_flags, load, open_config, parse_set
from clusterd.errors import ClusterdError, ConfigError, UsageError

ONE = '[listeners.http]\naddress = ":80"\n[pools.web]\napp = "shop:app"\n'
TWO_POOLS = ONE + '[pools.api]\napp = "shop:api"\n'
TWO_LISTENERS = ONE + '[listeners.admin]\naddress = ":81"\n'


def with_file(text: str, environ: dict[str, str] | None = None, **flags: Any) -> Loaded:
    return load(text, file="shop.toml", environ=environ or {}, overrides=Flags(**flags), strict_grace=False)


def addresses(loaded: Loaded) -> dict[str, str]:
    return {name: str(listener.address) for name, listener in loaded.config.listeners.items()}


def test_without_a_file_there_is_a_pool_web_and_a_listener_http() -> None:
    loaded = from_flags(app="shop.asgi:app", workers=4, binds=[":8000"], environ={})
    pool = loaded.config.pools["web"]
    assert (pool.app, pool.workers, pool.listeners) == ("shop.asgi:app", 4, ("http",))
    assert addresses(loaded) == {"http": ":8000"}
    assert (loaded.from_file, loaded.config.clusterd.name) == (False, "shop")
    assert [str(loaded.provenance[f"pools.web.{key}"]) for key in ("app", "workers")] == ["APP", "-w"]
    assert str(loaded.provenance["listeners.http.address"]) == "-b"


def test_without_an_address_it_listens_on_this_host_only() -> None:
    assert addresses(from_flags(app="shop:app", environ={})) == {"http": "127.0.0.1:8000"}


def test_further_addresses_are_further_listeners_of_the_pool() -> None:
    loaded = from_flags(app="shop:app", binds=[":1", ":2", ":3"], environ={})
    assert addresses(loaded) == {"http": ":1", "http2": ":2", "http3": ":3"}
    assert loaded.config.pools["web"].listeners == ("http", "http2", "http3")


def test_port_and_web_concurrency_stand_in_where_flags_are_silent() -> None:
    environ = {"PORT": "5000", "WEB_CONCURRENCY": "7"}
    loaded = from_flags(app="shop:app", environ=environ)
    assert (addresses(loaded), loaded.config.pools["web"].workers) == ({"http": "0.0.0.0:5000"}, 7)
    said = from_flags(app="shop:app", workers="auto", binds=[":1"], environ=environ)
    assert (addresses(said), said.config.pools["web"].workers) == ({"http": ":1"}, "auto")
    assert addresses(from_flags(app="shop:app", environ={"PORT": "", "WEB_CONCURRENCY": ""})) == {
        "http": "127.0.0.1:8000"
    }


def test_port_and_web_concurrency_stand_in_where_the_file_is_silent() -> None:
    environ = {"PORT": "5000", "WEB_CONCURRENCY": "7"}
    loaded = with_file(ONE, environ)
    assert (addresses(loaded), loaded.config.pools["web"].workers) == ({"http": ":80"}, 7)
    silent = with_file('[listeners.http]\nbacklog = 9\n[pools.web]\napp = "shop:app"\nworkers = 2', environ)
    assert (addresses(silent), silent.config.pools["web"].workers) == ({"http": "0.0.0.0:5000"}, 2)
    assert addresses(with_file('[pools.web]\napp = "shop:app"', environ)) == {"http": "0.0.0.0:5000"}


def test_a_variable_that_may_be_meant_for_several_is_not_used_and_that_is_said() -> None:
    loaded = with_file(TWO_POOLS, {"WEB_CONCURRENCY": "7"})
    assert [pool.workers for pool in loaded.config.pools.values()] == ["auto", "auto"]
    assert loaded.warnings == ("WEB_CONCURRENCY is not used: there are several pools that run an app (web, api)",)


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"WEB_CONCURRENCY": "many"}, '$WEB_CONCURRENCY: pools.web.workers: expected "auto" or a whole number'),
        ({"WEB_CONCURRENCY": "0"}, "$WEB_CONCURRENCY: pools.web.workers"),
        ({"PORT": "http"}, "$PORT: listeners.http.address: expected a port"),
        ({"CLUSTERD_GRACE_PERIOD": "soon"}, "$CLUSTERD_GRACE_PERIOD: shutdown.grace_period: expected a duration"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_flags(app="shop:app", environ=environ)
    assert str(caught.value).startswith(problem)


def test_flags_win_over_the_file() -> None:
    loaded = with_file(ONE + "workers = 2", app="other:app", workers=3, binds=[":9"], sets=["log.level=debug"])
    pool = loaded.config.pools["web"]
    assert (pool.app, pool.workers, addresses(loaded)) == ("other:app", 3, {"http": ":9"})
    assert loaded.config.log.level == "debug"


def test_addresses_go_to_the_listeners_of_the_only_app_pool() -> None:
    assert addresses(with_file(TWO_LISTENERS, binds=[":1", ":2"])) == {"http": ":1", "admin": ":2"}
    one = with_file(ONE + 'listeners = ["http"]', binds=[":1", ":2"])
    assert addresses(one) == {"http": ":1", "http2": ":2"}
    assert one.config.pools["web"].listeners == ("http", "http2")
    assert addresses(with_file('[pools.web]\napp = "shop:app"', binds=[":1"])) == {"http": ":1"}
    assert addresses(with_file(TWO_POOLS, binds=[":1"])) == {"http": ":1"}


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (TWO_POOLS, {"workers": 2}),
        (TWO_POOLS, {"app": "x:y"}),
        (TWO_LISTENERS, {"binds": [":1"]}),
        (TWO_LISTENERS, {"binds": [":1", ":2", ":3"]}),
        (TWO_LISTENERS + TWO_POOLS.removeprefix(ONE), {"binds": [":1"]}),
        ("[pools.q]\ncommand = ['x']", {"workers": 2}),
    ],
)
def test_a_flag_that_may_mean_several_is_a_usage_error(text: str, flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"ambiguous|there is none") as caught:
        with_file(text, **flags)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("pools.web.workers=3", ("pools", "web", "workers"), "3"),
        ("a = true", ("a",), "true"),
        ("a=debug", ("a",), "debug"),
        ("a=", ("a",), ""),
        ('a="q=1"', ("a",), "q=1"),
        ("a=b=c", ("a",), "b=c"),
        ('"x=y".b=1', ("x=y", "b"), "1"),
        ("a=['x', 'y']", ("a",), ["x", "y"]),
        ("a={B = '1'}", ("a",), {"B": "1"}),
        ("a=:8000", ("a",), ":8000"),
        ("a=1\nb=2", ("a",), "1\nb=2"),
        ("a=[[[[", ("a",), "[[[["),
    ],
)
def test_a_set_is_a_key_and_a_value_in_toml_or_a_bare_string(text: str, path: tuple[str, ...], value: object) -> None:
    assert parse_set(text) == (path, value)


@pytest.mark.parametrize(
    "text", ["", "a", "=1", "a b=1", "a..b=1", "a\nb=1", "a#=1", ".".join("a" * 99) + "=1", "a=" + "[" * 999, "\0=1"]
)
def test_what_is_no_key_and_value_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_set(text)


@given(st.text(alphabet="ab.=[]{}\"' \n#1$", max_size=30))
def test_no_set_makes_it_raise_anything_else(text: str) -> None:
    try:
        open_config(None, "shop:app", sets=[text], environ={})
    except ClusterdError as error:
        told = str(error)
    else:
        told = "ok"
    assert told


def test_sets_work_with_and_without_a_file_and_are_typed_as_in_the_file() -> None:
    sets = ["pools.web.workers=3", "clusterd.name=2024", "pools.web.env={A='${X}'}", "pools.web.http.access_log=true"]
    for loaded in (
        with_file(ONE, {"X": "x"}, sets=sets),
        open_config(None, "shop:app", sets=sets, environ={"X": "x"}),
        open_config(None, sets=["pools.web.app=shop:app", *sets], environ={"X": "x"}),
    ):
        pool = loaded.config.pools["web"]
        assert (pool.workers, loaded.config.clusterd.name, pool.env) == (3, "2024", {"A": "x"})
        assert pool.http.access_log is True


def test_a_table_that_is_set_replaces_the_one_of_the_file() -> None:
    text = ONE + 'env = {A = "1"}\nwrong = 1'
    loaded = with_file(text, sets=["pools.web={app = 'other:app'}"])
    assert (loaded.config.pools["web"].app, loaded.config.pools["web"].env) == ("other:app", {})
    assert str(loaded.provenance["pools.web.app"]) == "--set pools.web"


def test_a_wrong_set_is_told_by_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        with_file(ONE, sets=["pools.web.wrokers=3", "log.level=loud", "config_version.x=1"])
    assert [str(problem) for problem in caught.value.problems] == [
        "--set config_version.x: config_version: expected a whole number from 1 to 1, found a table",
        "--set pools.web.wrokers: pools.web.wrokers: unknown key; did you mean pools.web.workers?",
        '--set log.level: log.level: expected "debug", "info", "warning" or "error", found "loud"',
    ]


def test_a_set_inside_what_is_no_table_is_told() -> None:
    with pytest.raises(ConfigError, match=r"log is no table, so nothing can be set in it"):
        with_file("log = 1\n" + ONE, sets=["log.level=debug"])
