"""Twenty thousand connections at once against a backlog of 2,048: each is answered or refused.

Whom the kernel has no room for it may refuse late: it has answered the handshake, forgets it, and resets when it has
sent its last answer again in vain, a minute later. The client has seen a connection, but nobody has accepted one. So
those that were accepted are counted where they were.
"""

import multiprocessing
import os
import re
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


def taken(server: arena.Server) -> int:
    """Connections that workers have taken so far."""
    page = arena.request(server.monitoring, "/metrics").decode()
    return sum(int(float(one)) for one in re.findall(r"^clusterd_connections_total\{.*\} (\S+)$", page, re.MULTILINE))


def test_crowd() -> None:
    """Every one answered or refused, none reset after being accepted, none hung."""
    ends: list[Counter[End]] = []
    cut, longest = [], []
    with ProcessPoolExecutor(PARTS, multiprocessing.get_context("forkserver")) as clients:
        for _ in range(arena.ROUNDS):
            with arena.clusterd("hello:app", settings=("listeners.http.backlog=2048",)) as server:
                before = taken(server)
                parts = list(clients.map(part, [server.port] * PARTS, [CROWD // PARTS] * PARTS))
                accepted = taken(server) - before
            ends.append(sum((counted for counted, _ in parts), Counter[End]()))
            cut.append(float(accepted - ends[-1][End.ANSWERED]))
            longest.append(max(took for _, took in parts))
    arena.report(
        "crowd",
        [
            arena.Figure(
                f"answered or refused, of {CROWD}",
                "all",
                [CROWD - one[End.HUNG] - lost for one, lost in zip(ends, cut, strict=True)],
                lambda v: v == CROWD,
                details={
                    "answered": [one[End.ANSWERED] for one in ends],
                    "refused at once": [one[End.REFUSED] for one in ends],
                    "refused late": [one[End.RESET] for one in ends],
                },
            ),
            arena.Figure("accepted and not answered", "0", cut, lambda v: v == 0),
            arena.Figure("hung", "0", [float(one[End.HUNG]) for one in ends], lambda v: v == 0),
            arena.Figure("the longest", "shown", longest, lambda v: True, unit=" s"),
        ],
    )
