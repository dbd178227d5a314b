"""What an increment costs in a worker, against prometheus_client's own mode for several processes."""

import json
import os
import subprocess
import sys
import tempfile

from tests.bench import arena

SCRIPT = """
import json, mmap, sys, time
if sys.argv[1] == "ours":
    from clusterd.wire import series
    from clusterd.worker import appmetrics, values
    appmetrics.install()
    values.attach(memoryview(mmap.mmap(-1, series.SIZE)))
from prometheus_client import Counter, Gauge, Histogram
counter = Counter("c", "", ["a"]).labels("x")
histogram = Histogram("h", "", ["a"]).labels("x")
gauge = Gauge("g", "", ["a"], multiprocess_mode="livesum").labels("x")

def cost(call, times=50_000):
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        for _ in range(times):
            call()
        best = min(best, (time.thread_time() - began) / times)
    return best * 1e9

print(json.dumps([cost(counter.inc), cost(lambda: histogram.observe(0.3)), cost(lambda: gauge.set(3))]))
"""


def costs(which: str) -> list[float]:
    """Nanoseconds of processor time of a counter, a histogram, a gauge."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | ({"PROMETHEUS_MULTIPROC_DIR": folder} if which == "theirs" else {})
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, which], env=env, check=True, capture_output=True, text=True
        )
    found: list[float] = json.loads(done.stdout)
    return found


def test_metrics_cost() -> None:
    """At most half of the library's own multi-process mode."""
    ours, theirs = [], []
    for _ in range(arena.ROUNDS):
        ours.append(costs("ours"))
        theirs.append(costs("theirs"))
    figures = []
    for place, name in enumerate(("counter.inc", "histogram.observe", "gauge.set")):
        ratios = [mine[place] / his[place] for mine, his in zip(ours, theirs, strict=True)]
        figures.append(arena.Figure(f"{name} over the library's", "at most 0.5", ratios, lambda v: v <= 0.5))
        figures.append(arena.Figure(name, "shown", [mine[place] for mine in ours], lambda v: True, unit=" ns"))
    arena.report("metrics_cost", figures)
