"""A machine that has more to do than it can: stealing must neither help nor hurt, for nobody is blocked."""

import re
import time

from tests.bench import arena
from tests.bench.swarm import End, share, swarm

CLIENTS = 32
OFF = ("pools.web.steal_after=0s",)


def of(server: arena.Server) -> tuple[float, float]:
    """The 99th percentile in milliseconds, and how many of a hundred connections were stolen."""
    end = time.monotonic() + arena.SECONDS
    requests = list(swarm(server.port, together=CLIENTS, path="/busy", go_on=lambda _: time.monotonic() < end))
    assert all(one.end is End.ANSWERED for one in requests)
    page = arena.request(server.monitoring, "/metrics").decode()
    stolen = re.findall(r'connections_reclaimed_total\{[^}]*reason="blocked"[^}]*\} ([\d.e+]+)', page)
    return share([one.took for one in requests], 0.99) * 1000, 100 * sum(map(float, stolen)) / len(requests)


def test_saturated() -> None:
    """8 ms handlers, load of 32: p99 with stealing within 1.1 of that without; under 1 % stolen."""
    ratios, steals, on, off = [], [], [], []
    for _ in range(max(arena.ROUNDS, 5)):
        with arena.clusterd("busy:app") as server:
            with_it, stolen = of(server)
        with arena.clusterd("busy:app", settings=OFF) as server:
            without, _ = of(server)
        ratios.append(with_it / without)
        steals.append(stolen)
        on.append(with_it)
        off.append(without)
    arena.report(
        "saturated",
        [
            arena.Figure("p99 with stealing over p99 without", "within 1.1", ratios, lambda v: v <= 1.1),
            arena.Figure("stolen", "under 1 %", steals, lambda v: v < 1, unit=" %"),
            arena.Figure("p99 with stealing", "shown", on, lambda v: True, unit=" ms"),
            arena.Figure("p99 without", "shown", off, lambda v: True, unit=" ms"),
        ],
    )
