"""Unmodified Node workers under clusterd against the same program under Node's own cluster."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import arena

SETTINGS = """
config_version = 1
[clusterd]
run_dir = "{run_dir}"
[pools.web]
script = "{script}"
args = ["{port}", "{workers}"]
workers = {workers}
[monitoring]
address = "127.0.0.1:{monitoring}"
[log]
level = "error"
"""


@contextmanager
def script_pool(folder: Path) -> Iterator[arena.Server]:
    """``cluster.js`` as a script pool."""
    port, monitoring = arena.free_port(), arena.free_port()
    file = folder / "clusterd.toml"
    file.write_text(
        SETTINGS.format(
            run_dir=f"/tmp/clusterd-bench-{os.getpid()}-{port}",
            script=arena.APPS / "cluster.js",
            port=port,
            workers=arena.WORKERS,
            monitoring=monitoring,
        )
    )
    argv = [sys.executable, "-m", "clusterd", "run", "--config", str(file)]
    with arena.served(argv, port, monitoring=monitoring) as server:
        yield server


def load(server: arena.Server) -> tuple[float, float]:
    """New connections a second, and microseconds of the primary for each."""
    before = server.primary_cpu()
    seen = arena.wrk(server, connections=32, new_connections=True)
    return seen.rate, (server.primary_cpu() - before) / seen.requests * 1e6


def test_cluster_node(tmp_path: Path) -> None:
    """Node workers under clusterd: at least 1.05 times Node's rate, at most 0.6 of its primary's CPU."""
    rates, costs = [], []
    with script_pool(tmp_path) as ours, arena.node_cluster() as node:
        load(ours), load(node)
        for _ in range(arena.ROUNDS):
            (rate, cost), (their_rate, their_cost) = load(ours), load(node)
            rates.append(rate / their_rate)
            costs.append(cost / their_cost)
    arena.report(
        "cluster_node",
        [
            arena.Figure("new connections a second, over Node's", "at least 1.05", rates, lambda v: v >= 1.05),
            arena.Figure("primary CPU a connection, over Node's", "at most 0.6", costs, lambda v: v <= 0.6),
        ],
    )
