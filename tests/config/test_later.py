"""What this version declares and does not have yet."""

import pytest
import tomli

from clusterd.config import load
from clusterd.config.later import LATER, Later, lacking, later
from clusterd.config.spec import keys
from clusterd.errors import ConfigError

ALL = {".".join(path): entry for path, entry in keys()}
BASE = {"listeners": {"http": {"address": ":80"}}, "pools": {"web": {"app": "shop:app"}}}

AWAY = {
    "pools.NAME.command": 'command = ["./server"]',
    "pools.NAME.tasks": 'tasks = "shop.jobs"',
    "pools.NAME.interface": 'interface = "wsgi"',
    "pools.NAME.engine": 'engine = "waitress"',
    "pools.NAME.scheduling": 'scheduling = "least"',
    "pools.NAME.stop_signal": 'stop_signal = "SIGINT"',
    "monitoring.address": 'monitoring.address = "unix:m.sock"',
}


def text_with(key: str, line: str) -> str:
    parts = {"listeners": ['address = ":80"', ""], "pools": ['app = "shop:app"', ""], "": ""}
    head = key.partition(".")[0]
    if head in ("listeners", "pools"):
        name = line.partition(" ")[0]
        own = [kept for kept in parts[head] if not kept.startswith((name, "app" if name in RUNS else "-"))]
        parts[head] = [*own, line]
        line = ""
    return "\n".join([line, "[listeners.http]", *parts["listeners"], "[pools.web]", *parts["pools"]])


RUNS = ("script", "command", "tasks")


@pytest.mark.parametrize("entry", LATER, ids=lambda entry: entry.key)
def test_a_key_of_a_later_capability_away_from_its_default_is_an_error_that_says_so(entry: Later) -> None:
    key = entry.key
    with pytest.raises(ConfigError) as caught:
        load(text_with(key, AWAY[key]), file="shop.toml", environ={}, strict_grace=False)
    (problem,) = [each for each in caught.value.problems if "this version does not have this" in each.message]
    assert problem.line is not None


def test_the_default_of_such_a_key_may_be_written_down() -> None:
    for path, entry in ALL.items():
        assert later(path, entry.default, entry.default) is None


def test_every_entry_of_the_table_names_a_key_or_table_of_the_schema() -> None:
    for entry in LATER:
        assert any(path == entry.key or path.startswith(entry.key + ".") for path in ALL), entry.key
    assert {entry.key for entry in LATER} == set(AWAY)


def test_reference_tables_say_what_is_lacking() -> None:
    assert lacking("pools.NAME.tasks") == "Not in this version yet."
    assert lacking("pools.NAME.tasks") == "Not in this version yet."
    assert lacking("pools.NAME.interface") == 'Not in this version yet: "wsgi".'
    assert lacking("pools.NAME.workers") == ""


def test_what_the_version_has_is_accepted() -> None:
    text = """
config_version = 1
[clusterd]
name = "shop"
run_dir = "/run/shop"
[listeners.http]
address = "[::1]:8000"
backlog = 100
[listeners.more]
address = "localhost:0"
[listeners.local]
address = "unix:shop.sock"
mode = "0600"
user = "www-data"
group = 33
[listeners.abstract]
address = "unix:@shop"
[listeners.passed]
address = "fd:3"
[pools.web]
app = "shop:create_app()"
interface = "asgi"
engine = "uvicorn"
workers = 3
listeners = ["http", "more", "local", "abstract", "passed"]
scheduling = "rr"
preload = false
min_ready = 2
ready_when = "auto"
start_timeout = "10s"
env = { A = "b" }
cwd = "/srv"
user = "www-data"
group = 33
umask = "027"
cpu_affinity = [0]
limits = { nofile = 4096, memory = "1GiB", core = "unlimited" }
[pools.web.http]
keep_alive = "10s"
forwarded_allow_ips = ["*", "10.0.0.0/8"]
root_path = "/shop"
max_concurrency = 100
access_log = true
[pools.web.restart]
rapid_exit = "2s"
initial_delay = "100ms"
max_delay = "10s"
give_up_after = 3
on_give_up = "exit"
healthy_after = "5s"
[shutdown]
lame_duck = "1s"
linger = "1s"
drain_timeout = "5s"
grace_period = "30s"
[monitoring]
address = ":9191"
[control]
socket = "/run/shop/c.sock"
mode = "0660"
[log]
format = "json"
level = "debug"
worker_output = "inherit"
crash_lines = 5
"""
    assert tomli.loads(text)
    config = load(text, file="shop.toml", environ={}).config
    pool = config.pools["web"]
    assert (pool.group, pool.umask, pool.limits.memory, pool.limits.core) == ("33", 0o27, 2**30, "unlimited")
