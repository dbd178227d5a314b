"""A worker that prints without end: what it costs the primary in memory, and the other workers in latency."""

import http.client
import time

import psutil

from tests.bench import arena


def p99(client: http.client.HTTPConnection, seconds: float) -> float:
    """Milliseconds, of requests one after another on one connection."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        client.request("GET", "/")
        client.getresponse().read()
        times.append(time.monotonic() - began)
    return sorted(times)[int(len(times) * 0.99)] * 1e3


def test_output_flood() -> None:
    """Primary memory grows under 10 MB; the others' p99 within 1.2 of without."""
    grown, slower = [], []
    for _ in range(arena.ROUNDS):
        with arena.clusterd(
            "flood:app", workers=2, settings=["log.format=json", "pools.web.http.keep_alive=60s"]
        ) as server:
            clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=30) for _ in range(2)]
            pids = []
            for client in clients:
                client.request("GET", "/")
                pids.append(client.getresponse().read())
            assert len(set(pids)) == 2
            primary = psutil.Process(server.process.pid)
            p99(clients[1], 1.0)
            before, memory = p99(clients[1], arena.SECONDS), primary.memory_info().rss
            clients[0].request("GET", "/flood")
            clients[0].getresponse().read()
            after = p99(clients[1], arena.SECONDS)
            grown.append((primary.memory_info().rss - memory) / 1e6)
            slower.append(after / before)
            for client in clients:
                client.close()
    arena.report(
        "output_flood",
        [
            arena.Figure("growth of the primary's memory", "under 10", grown, lambda v: v < 10, unit=" MB"),
            arena.Figure("p99 of another worker over that without a flood", "at most 1.2", slower, lambda v: v <= 1.2),
        ],
    )
