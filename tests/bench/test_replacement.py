"""From the SIGKILL of a worker to its replacement serving, for an app whose import takes half a second; and a spare."""

import json
import os
import select
import signal
import time
from datetime import datetime

import psutil

from tests.bench import arena
from tests.bench.test_kills import SETTINGS, workers

#: A pool of one worker has a budget of one start at once in every `initial_delay`, 0.2 s.
PAUSE = 0.5


def kill(victim: psutil.Process) -> float:
    """SIGKILL, and wait for the end; returns when it was sent."""
    pidfd = os.pidfd_open(victim.pid)
    begun = time.monotonic()
    victim.send_signal(signal.SIGKILL)
    select.select([pidfd], [], [], 5)  # its socket queue is gone with it, so the next answer is the successor's
    os.close(pidfd)
    return begun


def replaced(app: str, rounds: int) -> list[float]:
    """Milliseconds from each SIGKILL to the first answer after it."""
    took = []
    with arena.clusterd(app, workers=1, settings=SETTINGS) as server:
        for _ in range(rounds):
            time.sleep(PAUSE)
            arena.request(server.port)
            begun = kill(workers(server)[0])
            while True:
                try:
                    if b"HTTP/1.1 200" in arena.request(server.port, timeout=5):
                        break
                except OSError:
                    continue
            took.append((time.monotonic() - begun) * 1000)
    return took


def test_replacement() -> None:
    """SIGKILL to the replacement's first answer: median under 60 ms, and 15 ms for an image under 200 MB."""
    took = replaced("late:app", max(20, arena.ROUNDS))
    large = replaced("large:app", 5)
    arena.report(
        "replacement",
        [
            arena.Figure("SIGKILL to the replacement's answer", "median under 60 ms", took, lambda v: v < 60, " ms"),
            arena.Figure("the same, aimed at", "median 15 ms", took, lambda v: v <= 15, " ms"),
            arena.Figure("the same with an image of 1 GB", "shown", large, lambda v: True, " ms"),
        ],
    )


def test_spare() -> None:
    """With a spare, from the end that the primary sees to the promotion: 2 ms. As the log's time stamps have it."""
    took = []
    settings = (*SETTINGS, "pools.web.spares=1", "log.format=json")
    with arena.clusterd("late:app", workers=2, settings=settings) as server:
        for _ in range(max(10, arena.ROUNDS)):
            time.sleep(PAUSE)
            slots = [child for child in workers(server) if "spare" not in " ".join(child.cmdline())]
            kill(slots[0])
            time.sleep(PAUSE)
        records = [json.loads(line) for line in server.output.read_text().splitlines() if line.startswith("{")]
    ends = [at(record) for record in records if record["event"] == "worker_exited" and not record["asked"]]
    promotions = [at(record) for record in records if record["event"] == "spare_admitted"]
    took = [(promoted - ended) * 1000 for ended, promoted in zip(ends, promotions, strict=True)]
    arena.report("spare", [arena.Figure("from the end to the promotion", "2 ms", took, lambda v: v <= 2, " ms")])


def at(record: dict[str, str]) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()
