"""One of four workers blocked for five seconds under load: who has to wait, and how long."""

import threading
import time

from tests.bench import arena
from tests.bench.swarm import End, Request, swarm

CLIENTS = 32
BLOCK = 5.0


def of_one_block() -> tuple[list[Request], float, bytes]:
    """The requests of seven seconds, when the block began, and the pid of who was blocked."""
    with arena.clusterd("busy:app") as server:
        blocked: list[bytes] = []
        begun = [0.0]

        def block() -> None:
            time.sleep(1.0)
            begun[0] = time.monotonic()
            blocked.append(arena.request(server.port, "/block", timeout=30).rpartition(b"\r\n\r\n")[2])

        blocker = threading.Thread(target=block)
        end = time.monotonic() + BLOCK + 2.0
        blocker.start()
        requests = list(swarm(server.port, together=CLIENTS, go_on=lambda _: time.monotonic() < end))
        blocker.join()
        return requests, begun[0], blocked[0]


def test_blocked() -> None:
    """Load of 32: 99.9 % answered within 100 ms, the longest within 250 ms; not those that it had taken before."""
    shares, longest, lost, taken, counts = [], [], [], [], []
    for _ in range(arena.ROUNDS):
        requests, begun, pid = of_one_block()
        during = [one for one in requests if begun - 0.1 < one.begun < begun + BLOCK]
        # Whom the blocked worker answers after all, it had taken: it takes nothing while it is blocked, and what lay
        # in its mailbox was answered by others or would have waited for it, which counts.
        before = [one for one in during if one.body == pid and one.begun < begun + 0.1 and one.took > BLOCK / 2]
        others = [one for one in during if one not in before]
        shares.append(100 * sum(one.took <= 0.1 and one.end is End.ANSWERED for one in others) / len(others))
        longest.append(max(one.took for one in others) * 1000)
        lost.append(float(sum(one.end is not End.ANSWERED for one in requests)))
        taken.append(float(len(before)))
        counts.append(len(others))
    arena.report(
        "blocked",
        [
            arena.Figure("answered within 100 ms", "at least 99.9 %", shares, lambda v: v >= 99.9, unit=" %"),
            arena.Figure("the longest", "250 ms", longest, lambda v: v <= 250, unit=" ms", details={"of": counts}),
            arena.Figure("not answered", "0", lost, lambda v: v == 0),
            arena.Figure("taken by the blocked worker before, and excluded", "shown", taken, lambda v: True),
        ],
    )
