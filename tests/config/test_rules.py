"""Combinations that cannot be, and the grace period."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config import Shutdown, from_flags, load
from clusterd.config.rules import grace_fault, needed_grace, shortened
from clusterd.errors import ConfigError

HTTP = '[listeners.http]\naddress = ":80"\n'
WEB = '[pools.web]\napp = "shop:app"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, file="shop.toml", environ={})
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HTTP, "pools: there is no pool; add one"),
        (
            HTTP + "[pools.web]\nworkers = 1",
            "shop.toml:3: pools.web: expected exactly one of app, script, command, tasks",
        ),
        (HTTP + WEB + 'script = "x.py"', "found app and script"),
        (WEB, "shop.toml:1: pools.web: its app has no listener; add one"),
        (HTTP + WEB + "listeners = []", "shop.toml:5: pools.web.listeners: a pool that runs an app needs a listener"),
        (
            HTTP + WEB + 'listeners = ["http", "other"]',
            'shop.toml:5: pools.web.listeners[1]: there is no listener "other"; known: http',
        ),
        (
            HTTP + '[listeners.spare]\naddress = ":81"\n' + WEB + 'listeners = ["http"]',
            "shop.toml:3: listeners.spare: no pool takes its connections",
        ),
        (
            HTTP + WEB + "workers = 2\nmin_ready = 3",
            "shop.toml:6: pools.web.min_ready: 3 can never be ready of 2 workers",
        ),
        (
            HTTP + '[listeners.more]\naddress = "127.0.0.1:80"\n' + WEB,
            "shop.toml:4: listeners.more.address: 127.0.0.1:80 is taken by listener http (:80)",
        ),
        (
            HTTP + 'mode = "0600"\n' + WEB,
            "shop.toml:3: listeners.http.mode: mode is for unix sockets with a path, and :80 has none; leave it out",
        ),
        (
            HTTP + 'group = "www-data"\n' + WEB,
            "shop.toml:3: listeners.http.group: group is for unix sockets with a path",
        ),
        (
            '[listeners.http]\naddress = "unix:@shop"\nmode = "0660"\n' + WEB,
            "shop.toml:3: listeners.http.mode: mode is for unix sockets with a path, and unix:@shop has none",
        ),
        (
            '[listeners.http]\naddress = "fd:3"\nuser = "www-data"\n' + WEB,
            "shop.toml:3: listeners.http.user: user is set by whoever makes the socket; leave it out",
        ),
        (
            '[listeners.http]\naddress = "fd:3"\n[listeners.more]\naddress = "fd:3"\n' + WEB,
            "shop.toml:4: listeners.more.address: fd:3 is taken by listener http (fd:3)",
        ),
        (
            '[listeners.http]\naddress = "unix:/run/a.sock"\n[listeners.more]\naddress = "unix:/run/x/../a.sock"\n'
            + WEB,
            "shop.toml:4: listeners.more.address: unix:/run/a.sock is taken by listener http (unix:/run/a.sock)",
        ),
        (
            '[listeners.http]\naddress = "unix:/run/shop/control.sock"\n' + WEB + '[clusterd]\nrun_dir = "/run/shop"',
            "shop.toml:2: listeners.http.address: /run/shop/control.sock is the control socket; choose another path",
        ),
        (
            '[listeners.http]\naddress = "unix:/run/look.sock"\n'
            + WEB
            + '[control]\nobserver_socket = "/run/look.sock"',
            "shop.toml:2: listeners.http.address: /run/look.sock is the observer socket; choose another path",
        ),
        (
            HTTP + WEB + '[control]\nsocket = "/run/a.sock"\nobserver_socket = "/run/a.sock"',
            "shop.toml:7: control.observer_socket: /run/a.sock is the control socket; choose another path",
        ),
        (
            HTTP + WEB + '[monitoring]\naddress = "127.0.0.1:80"',
            "shop.toml:6: monitoring.address: 127.0.0.1:80 is taken by listener http (:80)",
        ),
        (
            '[listeners.http]\naddress = ":9190"\n' + WEB,
            "shop.toml:2: monitoring.address: 127.0.0.1:9190 is taken by listener http (:9190)",
        ),
        (
            HTTP + WEB + '[pools.web.restart]\nmax_delay = "100ms"',
            "shop.toml:6: pools.web.restart.max_delay: 100ms is less than initial_delay (200ms)",
        ),
        (HTTP + 'tls = {cert = "c.pem"}\n' + WEB, "shop.toml:3: listeners.http.tls.cert: cert needs key beside it"),
        (HTTP + 'tls = {key = "k.pem"}\n' + WEB, "shop.toml:3: listeners.http.tls.key: key needs cert beside it"),
        (HTTP + '[listeners.http.tls]\nclient_ca = "c.pem"\n' + WEB, "listeners.http.tls.client_ca: client_ca needs"),
        (
            HTTP + WEB + '[pools.api]\napp = "shop:api"\nscheduling = "none"',
            'shop.toml:7: pools.api.scheduling: "none" lets workers accept from listener http by themselves, and pool',
        ),
        (
            "".join(f'[listeners.l{number}]\naddress = ":0"\n' for number in range(17)) + WEB + 'scheduling = "none"',
            'pools.web.scheduling: "none" is for at most 16 listeners a pool',
        ),
        (HTTP + WEB + f'[control]\nsocket = "/{"x" * 120}"', "longer than the 107 bytes"),
        (HTTP + WEB + f'[clusterd]\nrun_dir = "/{"x" * 120}"', "a shorter clusterd.run_dir"),
    ],
)
def test_what_cannot_be_together_is_one_problem(text: str, problem: str) -> None:
    found = problems(text)
    assert any(problem in line for line in found), found
    assert len([line for line in found if "does not have" not in line]) == 1


@pytest.mark.parametrize(
    "text",
    [
        HTTP + WEB,
        HTTP + WEB + "workers = 2\nmin_ready = 2",
        HTTP + WEB + 'min_ready = 9\nworkers = "auto"',
        '[listeners.a]\naddress = ":0"\n[listeners.b]\naddress = ":0"\n' + WEB,
        HTTP + WEB + "[monitoring]\naddress = 0",
        HTTP + WEB + '[pools.api]\napp = "shop:api"',
        HTTP + WEB + "[control]\nsocket = 0",
        HTTP + 'proxy_protocol = true\ntls = {cert = "c.pem", key = "k.pem", client_ca = "a.pem"}\n' + WEB,
        HTTP + WEB + 'scheduling = "none"\n[pools.api]\napp = "shop:api"\nscheduling = "none"',
        HTTP
        + '[listeners.x]\naddress = ":81"\n'
        + WEB
        + 'scheduling = "none"\nlisteners = ["x"]\n'
        + '[pools.api]\napp = "shop:api"\nlisteners = ["http"]',
        HTTP + WEB + 'steal_after = "20ms"\n[pools.web.recycle]\nmax_requests = 0',
    ],
)
def test_what_can_be_together_is_loaded(text: str) -> None:
    assert load(text, file="shop.toml", environ={}).warnings == ()


def test_only_without_a_file_the_default_of_monitoring_gives_way() -> None:
    assert str(from_flags(app="shop:app", binds=[":9190"], environ={}).config.monitoring.address) == "127.0.0.1:9190"
    with pytest.raises(ConfigError, match="is taken by"):
        from_flags(app="shop:app", binds=[":9190"], sets=["monitoring.address=:9190"], environ={})


def test_a_shutdown_that_cannot_fit_the_grace_period_is_an_error_of_check() -> None:
    (problem,) = problems(HTTP + WEB + '[shutdown]\ndrain_timeout = "40s"\ngrace_period = "30s"')
    assert problem == (
        "shop.toml:6: shutdown.drain_timeout: lame_duck (0s), linger (2s), drain_timeout (40s) and 1s are 43s,"
        " which does not fit grace_period (30s)"
    )
    (unbounded,) = problems(HTTP + WEB + '[shutdown]\ndrain_timeout = 0\ngrace_period = "30s"')
    assert "drain_timeout is unbounded" in unbounded


def test_run_shortens_the_drain_and_warns() -> None:
    environ = {"CLUSTERD_GRACE_PERIOD": "10"}
    loaded = load(HTTP + WEB, file="shop.toml", environ=environ, strict_grace=False)
    assert loaded.config.shutdown == Shutdown(linger=2.0, drain_timeout=7.0, grace_period=10.0)
    (warning,) = loaded.warnings
    assert "drain_timeout is shortened to 7s" in warning
    assert str(loaded.provenance["shutdown.drain_timeout"]) == "default (default, shortened to fit grace_period)"
    with pytest.raises(ConfigError, match=r"\$CLUSTERD_GRACE_PERIOD: shutdown\.grace_period: .* does not fit"):
        load(HTTP + WEB, file="shop.toml", environ=environ)


def test_an_unknown_grace_period_is_no_bound() -> None:
    assert grace_fault(Shutdown(drain_timeout=0.0)) is None
    assert load(HTTP + WEB, file="shop.toml", environ={"CLUSTERD_GRACE_PERIOD": "28s"}).warnings == ()


@given(*[st.floats(0, 100, allow_subnormal=False)] * 3, st.floats(1.2, 100))
def test_a_shortened_shutdown_fits_and_is_never_unbounded(
    lame: float, linger: float, drain: float, grace: float
) -> None:
    shutdown = Shutdown(lame_duck=lame, linger=linger, drain_timeout=drain, grace_period=grace)
    if grace_fault(shutdown) is None:
        return
    fitting = shortened(shutdown)
    assert grace_fault(fitting) is None
    assert fitting.drain_timeout > 0
    assert fitting.lame_duck <= lame
    assert fitting.linger <= linger
    assert drain == 0 or fitting.drain_timeout <= max(drain, 0.1)
    assert needed_grace(msgspec.structs.replace(fitting, drain_timeout=0.0)) is None


# -- who may connect to the control socket ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "who"),
    [
        ('operators = {users = ["deploy"]}', "control.operators (deploy)"),
        ('mode = "0644"\nadmins = {groups = ["ops", "0"]}', "control.admins (ops)"),
        (
            'operators = {users = ["root", "a", "b"]}\nadmins = {users = ["c"]}',
            "control.operators (a, b) and control.admins (c)",
        ),
    ],
)
def test_who_is_named_and_kept_out_by_the_sockets_mode_is_warned_of(control: str, who: str) -> None:
    (warning,) = load(f"{HTTP}{WEB}[control]\n{control}\n", file="shop.toml", environ={}).warnings
    assert f"so {who} cannot" in warning
    assert 'mode = "0666" is safe' in warning


@pytest.mark.parametrize(
    "control",
    [
        "",
        'operators = {users = ["root", "0"]}',
        'mode = "0666"\noperators = {users = ["deploy"]}',
        'mode = "0660"\noperators = {users = ["deploy"]}',  # who is in the service's group is the host's affair
        'socket = 0\noperators = {users = ["deploy"]}',
    ],
)
def test_where_somebody_named_may_connect_nothing_is_said(control: str) -> None:
    assert load(f"{HTTP}{WEB}[control]\n{control}\n", file="shop.toml", environ={}).warnings == ()


def test_an_app_says_itself_when_it_is_ready() -> None:
    text = """
[listeners.http]
address = ":80"
[pools.web]
app = "shop:app"
ready_when = "http:/ready"
"""
    with pytest.raises(ConfigError) as caught:
        load(text, file="shop.toml", environ={}, strict_grace=False)
    (problem,) = caught.value.problems
    assert "says so itself; leave it out" in problem.message
    assert problem.line == 6
