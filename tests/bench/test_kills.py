"""SIGKILL of a worker every half second under load: what is lost, and how long the longest client waits."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import psutil

from tests.bench import arena

KILLS = int(os.environ.get("KILLS", "100"))
CLIENTS = 16
#: Operators' kills are no crash loop: the delays that tame one are off here, or the load would have nobody left.
SETTINGS = ("pools.web.restart.healthy_after=0s", "pools.web.restart.give_up_after=0")


class Client(threading.Thread):
    """A new connection a request, one after another; counts what it gets, what it loses and its longest wait."""

    def __init__(self, port: int, over: threading.Event) -> None:
        super().__init__()
        self.port = port
        self.over = over
        self.answered = 0
        self.lost: list[str] = []
        self.longest = 0.0

    def run(self) -> None:
        while not self.over.is_set():
            begun = time.monotonic()
            try:
                if b"HTTP/1.1 200" in arena.request(self.port, timeout=5.0):
                    self.answered += 1
                else:
                    self.lost.append("closed without an answer")
            except (TimeoutError, OSError) as error:
                self.lost.append(repr(error))
            self.longest = max(self.longest, time.monotonic() - begun)


def workers(server: arena.Server) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if " worker " in " ".join(child.cmdline())]


def test_kills() -> None:
    """100 kills, load of 16: lost only what the dead had taken, unread at most 2 a kill; no wait over 1 s."""
    over = threading.Event()
    killed = 0
    with arena.clusterd("hello:app", settings=SETTINGS) as server:
        clients = [Client(server.port, over) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        due = time.monotonic()
        while killed < KILLS:
            due += 0.5
            time.sleep(max(0.0, due - time.monotonic()))
            living = workers(server)
            if living:
                living[killed % len(living)].send_signal(signal.SIGKILL)
                killed += 1
        time.sleep(1.0)
        over.set()
        for client in clients:
            client.join()
        log = Path(server.output).read_text()
    reports = re.findall(r'"event":"crash_report".*?"connections_open":(\d+),"connections_unread":(\d+)', log)
    had, unread = sum(int(one) for one, _ in reports), [int(two) for _, two in reports]
    lost = sum(len(client.lost) for client in clients)
    arena.report(
        "kills",
        [
            arena.Figure(
                "lost, less what the crash reports say was open",
                "at most 0",
                [float(lost - had)],
                lambda v: v <= 0,
                details={
                    "kills": killed,
                    "reported": len(reports),
                    "answered": sum(client.answered for client in clients),
                    "lost": lost,
                    "open at death, by the reports": had,
                    "a sample": [text for client in clients for text in client.lost][:5],
                },
            ),
            arena.Figure("unread at death", "at most 2 a kill", [float(max(unread, default=0))], lambda v: v <= 2),
            arena.Figure(
                "longest wait", "1 s", [max(client.longest for client in clients)], lambda v: v <= 1.0, unit=" s"
            ),
        ],
    )
