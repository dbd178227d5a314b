"""Twenty thousand connections at once against a backlog of 2,048: each is answered or refused."""

import multiprocessing
import os
import resource
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.bench import arena
from tests.bench.swarm import End, swarm

CROWD = int(os.environ.get("CROWD", "20000"))
PARTS = 4
"""Processes that the clients are in: twenty thousand are more than one may have open everywhere."""


def part(port: int, count: int) -> tuple[Counter[End], float]:
    """What became of ``count`` connections, and how long the longest took."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    requests = list(swarm(port, together=count, go_on=lambda begun: begun < count, patience=120.0))
    return Counter(one.end for one in requests), max(one.took for one in requests)


def test_crowd() -> None:
    """Every one answered or refused, none reset after being accepted, none hung."""
    ends: list[Counter[End]] = []
    longest = []
    with ProcessPoolExecutor(PARTS, multiprocessing.get_context("forkserver")) as clients:
        for _ in range(arena.ROUNDS):
            with arena.clusterd("hello:app", settings=("listeners.http.backlog=2048",)) as server:
                parts = list(clients.map(part, [server.port] * PARTS, [CROWD // PARTS] * PARTS))
            ends.append(sum((counted for counted, _ in parts), Counter[End]()))
            longest.append(max(took for _, took in parts))
    arena.report(
        "crowd",
        [
            arena.Figure(
                f"answered or refused, of {CROWD}",
                "all",
                [float(one[End.ANSWERED] + one[End.REFUSED]) for one in ends],
                lambda v: v == CROWD,
                details={"refused": [one[End.REFUSED] for one in ends]},
            ),
            arena.Figure("reset after being accepted", "0", [float(one[End.RESET]) for one in ends], lambda v: v == 0),
            arena.Figure("hung", "0", [float(one[End.HUNG]) for one in ends], lambda v: v == 0),
            arena.Figure("the longest", "shown", longest, lambda v: True, unit=" s"),
        ],
    )
