"""What a new connection costs the primary: against Node's own cluster, and against the least that it can cost, in C."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import arena


def cost(server: arena.Server) -> float:
    """Microseconds of the main process's processor time a connection."""
    before = server.primary_cpu()
    load = arena.wrk(server, connections=32, new_connections=True)
    return (server.primary_cpu() - before) / load.requests * 1e6


@contextmanager
def floor(folder: Path) -> Iterator[arena.Server]:
    """The few lines of C."""
    program = folder / "floor"
    subprocess.run(["gcc", "-O2", "-o", program, arena.APPS / "floor.c"], check=True)
    port = arena.free_port()
    with arena.served([str(program), str(port), str(arena.WORKERS)], port) as server:
        yield server


def test_primary_cpu(tmp_path: Path) -> None:
    """Primary CPU per new connection: at most a half of Node's cluster's, and 1.6 of the C floor's."""
    ours, theirs, least = [], [], []
    with arena.clusterd("hello:app") as server, arena.node_cluster() as node, floor(tmp_path) as program:
        for one in (server, node, program):
            cost(one)
        for _ in range(arena.ROUNDS):
            ours.append(cost(server))
            theirs.append(cost(node))
            least.append(cost(program))
    ratios = [mine / yours for mine, yours in zip(ours, theirs, strict=True)]
    above = [mine / floor for mine, floor in zip(ours, least, strict=True)]
    arena.report(
        "primary_cpu",
        [
            arena.Figure(
                "primary CPU a connection, clusterd over Node's cluster", "at most 0.5", ratios, lambda v: v <= 0.5
            ),
            arena.Figure("the same over accept, sendmsg and close in C", "at most 1.6", above, lambda v: v <= 1.6),
            arena.Figure("clusterd's primary", "shown", ours, lambda v: True, unit=" µs"),
            arena.Figure("Node's primary", "shown", theirs, lambda v: True, unit=" µs"),
            arena.Figure("the C floor", "shown", least, lambda v: True, unit=" µs"),
        ],
    )
