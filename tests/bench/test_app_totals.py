"""The app's own counters under load, kills and reloads, against what the load generator counted."""

import signal
import threading
import time
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from tests.bench import arena

CLIENTS = 8
SERIES = 200
RELOADS = 3


def totals(server: arena.Server) -> dict[str, float]:
    """What the page says of each series."""
    text = arena.request(server.monitoring, "/metrics").partition(b"\r\n\r\n")[2].decode()
    return {
        sample.labels["series"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "counted_requests_total"
    }


def reloaded(server: arena.Server) -> float:
    text = arena.request(server.monitoring, "/metrics").partition(b"\r\n\r\n")[2].decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "clusterd_reloads_total"
    )


def test_app_totals() -> None:
    """8 workers, 200 series, 3 reloads, kills under load: the totals equal the counts exactly."""
    settings = [
        "pools.web.reload.canary=200ms",
        "pools.web.restart.max_delay=200ms",
        "pools.web.restart.give_up_after=0",
    ]
    off, seen = [], []
    for _ in range(min(arena.ROUNDS, 3)):
        with arena.clusterd("counted:app", workers=8, settings=settings) as server:
            counted: Counter[str] = Counter()
            lock, done = threading.Lock(), threading.Event()

            def client(number: int, server: arena.Server = server, counted: Counter[str] = counted,
                       lock: threading.Lock = lock, done: threading.Event = done) -> None:  # fmt: skip
                turn = 0
                while not done.is_set():
                    turn += 1
                    series, path = str((turn * CLIENTS + number) % SERIES), "/"
                    if turn % 200 == 100:
                        series, path = "killed", "/die"
                    try:
                        answer = arena.request(server.port, f"{path}?{series}")
                    except OSError:
                        answer = b""
                    if answer.endswith(b"ok"):
                        with lock:
                            counted[series] += 1

            threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for number in range(1, RELOADS + 1):
                server.process.send_signal(signal.SIGHUP)
                end = time.monotonic() + 60
                while reloaded(server) < number and time.monotonic() < end:
                    time.sleep(0.1)
            done.set()
            for thread in threads:
                thread.join()
            time.sleep(1)  # a page may be some milliseconds old
            page = totals(server)
            page.pop("killed", None)
            off.append(float(sum(abs(page.get(series, 0) - count) for series, count in counted.items())))
            seen.append(float(counted.total()))
    arena.report(
        "app_totals",
        [
            arena.Figure("difference between page and load generator", "0", off, lambda v: v == 0, unit=" requests"),
            arena.Figure("requests counted", "shown", seen, lambda v: True),
        ],
    )
