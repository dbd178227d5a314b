"""What a new connection costs the primary, against Node's own cluster under the same load."""

from tests.bench import arena


def cost(server: arena.Server) -> float:
    """Microseconds of the main process's processor time a connection."""
    before = server.primary_cpu()
    load = arena.wrk(server, connections=32, new_connections=True)
    return (server.primary_cpu() - before) / load.requests * 1e6


def test_primary_cpu() -> None:
    """Primary CPU per new connection against Node's cluster: at most a half."""
    ours, theirs = [], []
    with arena.clusterd("hello:app") as server, arena.node_cluster() as node:
        cost(server)
        cost(node)
        for _ in range(arena.ROUNDS):
            ours.append(cost(server))
            theirs.append(cost(node))
    ratios = [mine / yours for mine, yours in zip(ours, theirs, strict=True)]
    arena.report(
        "primary_cpu",
        [
            arena.Figure(
                "primary CPU a connection, clusterd over Node's cluster", "at most 0.5", ratios, lambda v: v <= 0.5
            ),
            arena.Figure("clusterd's primary", "shown", ours, lambda v: True, unit=" µs"),
            arena.Figure("Node's primary", "shown", theirs, lambda v: True, unit=" µs"),
        ],
    )
