"""prometheus_client with our values in it, in processes of their own: what apps do with it goes on working."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PRELUDE = """
import json, os, sys, threading
from clusterd.worker import appmetrics, values
from clusterd.wire import series
said = appmetrics.install()
assert "prometheus_client" not in sys.modules
from prometheus_client import *
from prometheus_client import REGISTRY, generate_latest
memory = memoryview(bytearray(series.SIZE))
reader = series.Reader(memory)

def shown():
    "Sample's name and labels to value and what was inherited, as the primary reads it."
    global families, found
    while True:
        new = reader.news()
        families += new[0]
        found += new[1]
        if not any(new):
            break
    cells = memoryview(reader.cells()).cast("d")
    raw = reader.cells()
    return {
        " ".join([families[one.family].name + one.suffix, *one.values, one.le]).strip(): [
            cells[one.cell], one.inherited
        ]
        for one in found if raw[8 * one.cell:8 * one.cell + 8] != series.ABSENT
    }

families, found, told = [], [], {}
"""


def run(script: str, **env: str) -> Any:
    """What the script put into ``told``."""
    code = f"{PRELUDE}\n{script}\nsys.stdout.write(json.dumps(told))"
    command, env = [sys.executable, "-W", "error", "-c", code], {**os.environ, **env}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_was_counted_before_the_fork_stays_to_be_seen_and_is_counted_apart() -> None:
    told = run("""
c = Counter("c", "", ["a"]); c.labels("x").inc(3)
h = Histogram("h", "", buckets=(1, 2)); h.observe(1.5)
g = Gauge("g", "", multiprocess_mode="max"); g.set(7)
values.attach(memory)
c.labels("x").inc(2); c.labels("y").inc(); h.observe(0.5); g.inc()
told = {"shown": shown(), "own": generate_latest().decode()}
""")
    assert told["shown"] == {
        "c_total x": [2, 3], "c_total y": [1, 0], "h_sum": [0.5, 1.5], "h_bucket 1.0": [1, 0], "h_bucket 2.0": [0, 1],
        "h_bucket +Inf": [0, 0], "g": [8, 0],
    }  # fmt: skip
    for line in ('c_total{a="x"} 5.0', "h_count 2.0", "h_sum 2.0", "g 8.0"):
        assert line in told["own"].splitlines()


def test_a_counter_can_be_reset_and_a_series_removed_and_made_again() -> None:
    told = run("""
values.attach(memory)
c = Counter("c", "", ["a"]); c.labels("x").inc(3)
g = Gauge("g", "", ["a"]); g.labels("x").set(3)
c.remove("x"); g.remove("x")
values.tidy()
told["removed"] = shown()
c.labels("x").inc(); g.labels("x").inc()
told["again"] = [shown(), c.labels("x")._value.get(), g.labels("x")._value.get()]
c.labels("x").reset()
told["reset"] = [shown()["c_total x"], c.labels("x")._value.get(), len(found)]
""")
    assert told["removed"] == {"c_total x": [3, 0]}  # what it counted stays counted
    assert told["again"] == [{"c_total x": [4, 0], "g x": [1, 0]}, 1, 1]
    assert told["reset"] == [[0, 0], 0, 2]


def test_threads_lose_no_increment() -> None:
    told = run("""
values.attach(memory)
sys.setswitchinterval(1e-6)
c = Counter("c", "")
def count():
    for _ in range(20_000):
        c.inc()
threads = [threading.Thread(target=count) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
told = shown()
""")
    assert told == {"c_total": [80_000, 0]}


def test_what_has_no_room_is_counted_all_the_same_and_that_is_said_once() -> None:
    told = run("""
import logging
messages = []
logging.getLogger("clusterd").addFilter(lambda record: messages.append(record.getMessage()) and False)
series.CELLS = 3
values.attach(memory)
c = Counter("c", "", ["a"])
for number in range(5):
    c.labels(str(number)).inc(2)
c.labels("x" * 10_000).inc(4)
told = {"shown": shown(), "own": [c.labels("4")._value.get(), c.labels("x" * 10_000)._value.get()], "said": messages}
""")
    assert told["shown"] == {f"c_total {number}": [2, 0] for number in range(3)}
    assert told["own"] == [2, 4]
    assert len(told["said"]) == 1
    assert "metric c: " in told["said"][0]


def test_what_is_computed_is_told_apart_from_what_has_values() -> None:
    told = run("""
book = values.attach(memory)
collecting = appmetrics.Collecting(book)
collecting.look(); told["at first"] = reader.collects
Counter("c", "").inc()
collecting.look(); told["values alone"] = reader.collects
g = Gauge("g", "", ["a"], multiprocess_mode="max"); g.labels("x").set(1); g.labels("y").set_function(lambda: 42)
collecting.look(); told["a function"] = reader.collects
Info("i", "").info({"v": "1"}); Enum("e", "", states=["a", "b"])
class Fails:
    def collect(self):
        raise ValueError("broken")
class Strange:
    def collect(self):
        from prometheus_client.core import GaugeMetricFamily
        strange = GaugeMetricFamily("strange", "", labels=["a"])
        strange.add_metric(["\\ud800"], 1)
        yield strange
        yield GaugeMetricFamily("fine", "", value=2)
REGISTRY._collector_to_names[Fails()] = []
REGISTRY._collector_to_names[Strange()] = []
told["computed"] = sorted(appmetrics.collected())
told["shown"] = shown()
""")
    assert (told["at first"], told["values alone"], told["a function"]) == (False, False, True)
    assert told["computed"] == [
        ["e", "stateset", "", "all", [["e", {"e": "a"}, 1], ["e", {"e": "b"}, 0]]],
        ["fine", "gauge", "", "all", [["fine", {}, 2]]],
        ["g", "gauge", "", "max", [["g", {"a": "y"}, 42]]],
        ["i", "info", "", "all", [["i_info", {"v": "1"}, 1]]],
    ]
    assert told["shown"] == {"c_total": [1, 0], "g x": [1, 0]}


def test_a_directory_for_multiprocess_mode_is_respected_and_that_is_said(tmp_path: os.PathLike[str]) -> None:
    told = run("""
values.attach(memory)
Counter("c", "").inc()
told = {"said": said, "shown": shown(), "files": os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])}
""", PROMETHEUS_MULTIPROC_DIR=os.fspath(tmp_path))  # fmt: skip
    assert "PROMETHEUS_MULTIPROC_DIR is set" in told["said"]
    assert told["shown"] == {}
    assert len(told["files"]) == 1


@pytest.mark.parametrize("before", [True, False])
def test_it_does_not_matter_who_imports_the_library_first(before: bool) -> None:
    lines = [
        "from clusterd.worker import appmetrics, values",
        "appmetrics.install()",
        "from prometheus_client import Counter",
        "assert type(Counter('c', '')._value) is values.Value",
    ]
    code = "\n".join(["import prometheus_client", *lines] if before else lines)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
