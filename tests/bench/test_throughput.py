"""Requests and connections a second against `uvicorn --workers 4`: the same uvicorn, loop and parser, logs off."""

from tests.bench import arena

NONE = ('pools.web.scheduling="none"',)


def test_throughput() -> None:
    """Keep-alive requests/s at least 0.97 of uvicorn's; new connections/s at least 0.9, with ``none`` 0.97."""
    kept, new, none = [], [], []
    ours_kept, ours_new, ours_none = [], [], []
    with (
        arena.clusterd("hello:app") as server,
        arena.clusterd("hello:app", settings=NONE) as shared,
        arena.uvicorn("hello:app") as peer,
    ):
        for one in (server, shared, peer):
            arena.wrk(one, connections=32, seconds=1, new_connections=False)
        for _ in range(arena.ROUNDS):
            mine = arena.wrk(server, connections=32, new_connections=False)
            yours = arena.wrk(peer, connections=32, new_connections=False)
            kept.append(mine.rate / yours.rate)
            ours_kept.append(mine.rate)
            mine = arena.wrk(server, connections=32, new_connections=True)
            yours = arena.wrk(peer, connections=32, new_connections=True)
            theirs = arena.wrk(shared, connections=32, new_connections=True)
            new.append(mine.rate / yours.rate)
            none.append(theirs.rate / yours.rate)
            ours_new.append(mine.rate)
            ours_none.append(theirs.rate)
    arena.report(
        "throughput",
        [
            arena.Figure("keep-alive requests/s over uvicorn's", "at least 0.97", kept, lambda v: v >= 0.97),
            arena.Figure("new connections/s over uvicorn's", "at least 0.9", new, lambda v: v >= 0.9),
            arena.Figure("the same with scheduling none", "at least 0.97", none, lambda v: v >= 0.97),
            arena.Figure("clusterd, keep-alive", "shown", ours_kept, lambda v: True, unit=" requests/s"),
            arena.Figure("clusterd, new connections", "shown", ours_new, lambda v: True, unit=" connections/s"),
            arena.Figure("clusterd, new, none", "shown", ours_none, lambda v: True, unit=" connections/s"),
        ],
    )
