"""A page of metrics of 4 and of 500 slots, with the app's own: how long it keeps the primary's loop at a time."""

import time
from collections.abc import Callable

from clusterd.cli.sight import HISTOGRAM_WORDS
from clusterd.core import facts as f
from clusterd.ops.exposition import SLICE, Encoder, Steps
from clusterd.ops.metrics import Metrics
from clusterd.wire.rows import HISTOGRAMS
from tests.bench import arena
from tests.ops.staged import Staged, healthy_view
from tests.ops.test_appmetrics import Memory

SERIES = 200
CHANGED = 20


def service(slots: int) -> tuple[Metrics, Callable[[], None]]:
    """The books of a service with so many slots, and what makes all its workers work."""
    memories = {worker: Memory(worker - 1) for worker in range(1, slots + 1)}
    source = Staged(now_view=healthy_view(slots), memory=dict(memories))
    metrics = Metrics(source, "1", share=1, histograms=HISTOGRAM_WORDS)
    for worker, memory in memories.items():
        metrics.fact(f.WorkerStarting(worker, "web", worker - 1, 1, False))
        metrics.fact(f.WorkerSpawned(worker, "web", worker - 1))
        for number in range(SERIES):
            memory.put("bench", "counter", 1.0, n=str(number))
        words = [word for histogram in HISTOGRAM_WORDS.values() for word in histogram[0]]
        source.rows[worker] = dict.fromkeys(["requests_2xx", "cpu_ns", "open_fds", "heartbeat_ns", *words], 1)
        source.given[worker, "http"] = 1
    assert HISTOGRAMS

    def work() -> None:
        for worker, memory in memories.items():
            for number in range(CHANGED):
                memory.book.cells[number] += 1
            for word in source.rows[worker]:
                source.rows[worker][word] += 1

    return metrics, work


def longest_slice(steps: Steps[bytes]) -> tuple[float, float]:
    """Milliseconds of the longest time between two turns of the loop, as ``in_turns`` cuts them, and of all of it."""
    longest = total = 0.0
    began = time.thread_time()
    while True:
        try:
            next(steps)
        except StopIteration:
            spent = time.thread_time() - began
            return max(longest, spent) * 1e3, (total + spent) * 1e3
        spent = time.thread_time() - began
        if spent > SLICE:
            longest, total = max(longest, spent), total + spent
            began = time.thread_time()


def test_scrapes() -> None:
    """No slice of the primary's loop over 5 ms, of processor time."""
    figures = []
    for slots in (4, 500):
        metrics, work = service(slots)
        longest, totals = [], []
        longest_slice(metrics._make(Encoder("")))  # the first has all to learn
        for _ in range(arena.ROUNDS * 2):
            work()
            slice_, total = longest_slice(metrics._make(Encoder("")))
            longest.append(slice_)
            totals.append(total)
        figures += [
            arena.Figure(f"longest slice with {slots} slots", "at most 5", longest, lambda v: v <= 5, unit=" ms"),
            arena.Figure(f"a whole page of {slots} slots", "shown", totals, lambda v: True, unit=" ms"),
        ]
    arena.report("scrapes", figures)
