"""Memory of the whole tree for an app that holds 200,000 small dicts, against `gunicorn --preload`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench import arena

UVICORN = "uvicorn.workers.UvicornWorker"


@contextmanager
def gunicorn(engine: str, *flags: str) -> Iterator[arena.Server]:
    port = arena.free_port()
    argv = [sys.executable, "-m", "gunicorn", "-k", engine, "-w", str(arena.WORKERS), "-b", f"127.0.0.1:{port}", *flags]
    with arena.served([*argv, "heavy:app"], port) as server:
        yield server


def mebibytes(server: arena.Server) -> float:
    arena.wrk(server, connections=16, seconds=1, new_connections=False)
    return server.pss() / 2**20


def test_memory() -> None:
    """PSS of the tree after a second of load: not more than gunicorn's with preload and the same uvicorn."""
    ours, preloaded, own, plain = [], [], [], []
    for _ in range(arena.ROUNDS):
        with arena.clusterd("heavy:app") as server:
            ours.append(mebibytes(server))
        with gunicorn(UVICORN, "--preload") as peer:
            preloaded.append(mebibytes(peer))
        with gunicorn("asgi", "--preload") as peer:
            own.append(mebibytes(peer))
        with gunicorn(UVICORN) as peer:
            plain.append(mebibytes(peer))
    ratios = [mine / yours for mine, yours in zip(ours, preloaded, strict=True)]
    other = [mine / yours for mine, yours in zip(ours, own, strict=True)]
    arena.report(
        "memory",
        [
            arena.Figure(
                "PSS of the tree over gunicorn --preload's, both with uvicorn", "at most 1", ratios, lambda v: v <= 1.0
            ),
            arena.Figure("the same over gunicorn --preload with its own ASGI engine", "shown", other, lambda v: True),
            arena.Figure("clusterd", "shown", ours, lambda v: True, unit=" MiB"),
            arena.Figure("gunicorn --preload, uvicorn", "shown", preloaded, lambda v: True, unit=" MiB"),
            arena.Figure("gunicorn --preload, its own engine", "shown", own, lambda v: True, unit=" MiB"),
            arena.Figure("gunicorn, uvicorn", "shown", plain, lambda v: True, unit=" MiB"),
        ],
    )
