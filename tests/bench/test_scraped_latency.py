"""What scrapes every second cost those who connect meanwhile."""

import threading
import time

from tests.bench import arena


def p999(server: arena.Server, seconds: float) -> float:
    """Milliseconds, of new connections with one request each, one after another."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        arena.request(server.port)
        times.append(time.monotonic() - began)
    return sorted(times)[int(len(times) * 0.999)] * 1e3


def test_scraped_latency() -> None:
    """With 4 slots, p99.9 within 1.5 of that without scrapes; rounds alternate."""
    ratios, plain = [], []
    with arena.clusterd("hello:app") as server:
        p999(server, 1.0)
        for _ in range(arena.ROUNDS):
            without = p999(server, arena.SECONDS)
            stop = threading.Event()

            def scrape(stop: threading.Event = stop) -> None:
                while not stop.wait(1.0):
                    arena.request(server.monitoring, "/metrics")

            scraping = threading.Thread(target=scrape)
            scraping.start()
            with_scrapes = p999(server, arena.SECONDS)
            stop.set()
            scraping.join()
            ratios.append(with_scrapes / without)
            plain.append(without)
    arena.report(
        "scraped_latency",
        [
            arena.Figure("p99.9 with a scrape a second over without", "at most 1.5", ratios, lambda v: v <= 1.5),
            arena.Figure("p99.9 without", "shown", plain, lambda v: True, unit=" ms"),
        ],
    )
