"""The primary's memory under mixed load at full speed: flat."""

import os
import re
import threading
import time
from pathlib import Path

from tests.bench import arena

MINUTES = float(os.environ.get("MINUTES", "20"))
EVERY = 5.0
GROWTH = 0.25
"""MiB that the last third may be above the second: a page here and there is no leak, one byte a connection is."""


def private(server: arena.Server) -> float:
    """MiB that the primary alone has."""
    text = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Private_Dirty:\s+(\d+)", text, re.MULTILINE)[1]) / 1024  # type: ignore[index]


def test_flat() -> None:
    """New connections, kept ones, scrapes of the metrics, in turn and at once, for twenty minutes."""
    samples: list[float] = []
    over = threading.Event()
    connections = [0]
    with arena.clusterd("hello:app") as server:

        def load(new: bool) -> None:
            while not over.is_set():
                seen = arena.wrk(server, connections=16, seconds=2, new_connections=new)
                connections[0] += seen.requests if new else 16

        def scrape() -> None:
            while not over.wait(1.0):
                arena.request(server.monitoring, "/metrics")

        threads = [threading.Thread(target=load, args=(new,)) for new in (True, False)]
        threads.append(threading.Thread(target=scrape))
        for thread in threads:
            thread.start()
        end = time.monotonic() + MINUTES * 60
        while time.monotonic() < end:
            time.sleep(EVERY)
            samples.append(private(server))
        over.set()
        for thread in threads:
            thread.join()
    third = len(samples) // 3
    second, last = sorted(samples[third : 2 * third])[third // 2], sorted(samples[-third:])[third // 2]
    arena.report(
        "flat",
        [
            arena.Figure(
                "growth of the primary from the second third of the time to the last",
                f"flat, at most {GROWTH} MiB",
                [last - second],
                lambda v: v <= GROWTH,
                unit=" MiB",
                details={"minutes": MINUTES, "new connections": connections[0]},
            ),
            arena.Figure("the primary's own memory", "shown", samples, lambda v: True, unit=" MiB"),
        ],
    )
