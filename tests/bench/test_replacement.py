"""From the SIGKILL of a worker to its replacement serving, for an app whose import takes half a second."""

import signal
import time

from tests.bench import arena
from tests.bench.test_kills import SETTINGS, workers


def test_replacement() -> None:
    """SIGKILL to the replacement's first answer: median under 60 ms."""
    took = []
    with arena.clusterd("late:app", workers=1, settings=SETTINGS) as server:
        for _ in range(max(20, arena.ROUNDS)):
            arena.request(server.port)
            victim = workers(server)[0]
            begun = time.monotonic()
            victim.send_signal(signal.SIGKILL)
            victim.wait(5)  # its socket queue is gone with it, so the next answer is the successor's
            while True:
                try:
                    if b"HTTP/1.1 200" in arena.request(server.port, timeout=5):
                        break
                except OSError:
                    continue
            took.append((time.monotonic() - begun) * 1000)
    arena.report(
        "replacement",
        [arena.Figure("SIGKILL to the replacement's answer", "median under 60 ms", took, lambda v: v < 60, unit=" ms")],
    )
