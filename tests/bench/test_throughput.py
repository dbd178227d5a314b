"""Requests and connections a second against `uvicorn --workers 4`: the same uvicorn, loop and parser, logs off."""

from tests.bench import arena


def test_throughput() -> None:
    """Keep-alive requests/s at least 0.97 of uvicorn's; new connections/s at least 0.88."""
    kept, new = [], []
    ours_kept, ours_new = [], []
    with arena.clusterd("hello:app") as server, arena.uvicorn("hello:app") as peer:
        for one in (server, peer):
            arena.wrk(one, connections=32, seconds=1, new_connections=False)
        for _ in range(arena.ROUNDS):
            mine = arena.wrk(server, connections=32, new_connections=False)
            yours = arena.wrk(peer, connections=32, new_connections=False)
            kept.append(mine.rate / yours.rate)
            ours_kept.append(mine.rate)
            mine = arena.wrk(server, connections=32, new_connections=True)
            yours = arena.wrk(peer, connections=32, new_connections=True)
            new.append(mine.rate / yours.rate)
            ours_new.append(mine.rate)
    arena.report(
        "throughput",
        [
            arena.Figure("keep-alive requests/s over uvicorn's", "at least 0.97", kept, lambda v: v >= 0.97),
            arena.Figure("new connections/s over uvicorn's", "at least 0.88", new, lambda v: v >= 0.88),
            arena.Figure("clusterd, keep-alive", "shown", ours_kept, lambda v: True, unit=" requests/s"),
            arena.Figure("clusterd, new connections", "shown", ours_new, lambda v: True, unit=" connections/s"),
        ],
    )
