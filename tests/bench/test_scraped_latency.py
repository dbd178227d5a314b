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


def measured(server: arena.Server) -> tuple[list[float], list[float]]:
    """Ratios of p99.9 with scrapes and without, and that without; rounds alternate."""
    ratios, plain = [], []
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
    return ratios, plain


def test_scraped_latency() -> None:
    """With 4 slots and with 500 that really run, p99.9 within 1.5 of that without scrapes."""
    figures = []
    for slots in (4, 500):
        with arena.clusterd("hello:app", workers=slots, patience=120.0) as server:
            ratios, plain = measured(server)
            page = arena.request(server.monitoring, "/metrics")
        assert page.count(b"clusterd_worker_heartbeat_age_seconds{") == slots
        what = f"with {slots} slots"
        figures += [
            arena.Figure(f"p99.9 {what} and a scrape a second over without", "at most 1.5", ratios, lambda v: v <= 1.5),
            arena.Figure(f"p99.9 {what}, no scrapes", "shown", plain, lambda v: True, unit=" ms"),
        ]
    arena.report("scraped_latency", figures)
