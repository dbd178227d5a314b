"""From the SIGKILL of a worker to its replacement serving, for an app whose import takes half a second."""

import signal
import time

from tests.bench import arena
from tests.bench.test_kills import SETTINGS, workers


def test_replacement() -> None:
    """SIGKILL to the replacement's first answer: median under 60 ms, and 15 ms for an image under 200 MB."""
    took = []
    with arena.clusterd("late:app", workers=1, settings=SETTINGS) as server:
        for _ in range(max(20, arena.ROUNDS)):
            time.sleep(0.5)  # a pool of one worker has a budget of one start at once in every `initial_delay`, 0.2 s
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
            time.sleep(0.25)  # starts without delay are as many as the slots in every initial_delay, which is 0.2 s
    arena.report(
        "replacement",
        [
            arena.Figure("SIGKILL to the replacement's answer", "median under 60 ms", took, lambda v: v < 60, " ms"),
            arena.Figure("the same, aimed at", "median 15 ms", took, lambda v: v <= 15, " ms"),
        ],
    )
