import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns

import pytest

from clusterd.core import facts as f
from clusterd.ops import notify
from clusterd.ops.notify import Notify, summary
from clusterd.unix.notify import Notifier
from tests.ops.staged import Staged, healthy_view, pool_view, slot_view, worker_view

DEADLINE = 5.0


class Manager:
    """The service manager's end: a real datagram socket."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.environ = {"NOTIFY_SOCKET": str(path)}

    def waiting(self) -> list[list[str]]:
        """The datagrams that are there now."""
        found = []
        while True:
            try:
                found.append(self.sock.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found


@pytest.fixture
def manager(run_dir: Path) -> Iterator[Manager]:
    one = Manager(run_dir / "notify")
    yield one
    one.sock.close()


def told(manager: Manager, source: Staged, *facts: f.Fact, at_least: int = 0) -> list[list[str]]:
    """What the manager gets by these facts, and then until it has ``at_least`` so many datagrams."""

    async def run() -> list[list[str]]:
        observer = Notify(notifier, source)
        for fact in facts:
            observer.fact(fact)
        found = manager.waiting()
        async with asyncio.timeout(DEADLINE):
            while len(found) < at_least:
                found.append((await asyncio.get_running_loop().sock_recv(manager.sock, 4096)).decode().split("\n"))
        observer.close()
        return found + manager.waiting()

    notifier = Notifier(manager.environ)
    try:
        return asyncio.run(run())
    finally:
        notifier.close()


def test_ready_is_said_once_and_only_when_the_service_is_ready(manager: Manager) -> None:
    unready = replace(healthy_view(2), ready=False)
    early = told(manager, Staged(unready), f.WorkerOnline(1, "web", 0), f.WorkerReady(1, "web", 0, 1, 0.1, None))
    assert [line for lines in early for line in lines if "READY" in line] == []
    late = told(manager, Staged(), f.ServiceReady(True), f.ServiceUnready(("web",)), f.ServiceReady(False))
    assert [line for lines in late for line in lines if "READY" in line] == ["READY=1"]
    assert late[0] == ["READY=1", "STATUS=2/2 ready, generation 1"]


def test_stopping_is_said_with_what_is_left(manager: Manager) -> None:
    source = Staged(replace(healthy_view(2), phase="draining", ready=False))
    assert told(manager, source, f.StopBegan(False, "SIGTERM")) == [["STOPPING=1", "STATUS=draining, 2 workers left"]]


def test_the_status_follows_at_a_bounded_rate(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSE", 60.0)

    class Changing(Staged):
        looked = 0

        def view(self) -> f.View:
            self.looked += 1
            return healthy_view(self.looked)

    said = told(manager, Changing(), *[f.WorkerOnline(n, "web", 0) for n in range(1000)])
    assert said == [["STATUS=1/1 ready, generation 1"]]


def test_what_changed_in_the_pause_is_said_after_it(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSE", 0.05)
    views = [healthy_view(1), healthy_view(2), healthy_view(2)]

    class Changing(Staged):
        def view(self) -> f.View:
            return views.pop(0) if len(views) > 1 else views[0]

    said = told(manager, Changing(), f.WorkerOnline(1, "web", 0), f.WorkerOnline(2, "web", 0), at_least=2)
    assert said == [["STATUS=1/1 ready, generation 1"], ["STATUS=2/2 ready, generation 1"]]


def test_ready_is_said_again_until_a_stalled_manager_takes_it(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PAUSE", 0.02)
    filler = Notifier(manager.environ)
    while filler.send("X=" + "x" * 1000):
        pass

    async def run() -> None:
        notifier = Notifier(manager.environ)
        observer = Notify(notifier, Staged())
        observer.fact(f.ServiceReady(True))
        seen = manager.waiting()
        assert not any("READY=1" in lines for lines in seen)
        async with asyncio.timeout(DEADLINE):
            while not any("READY=1" in lines for lines in seen):
                await asyncio.sleep(notify.PAUSE)
                seen += manager.waiting()
        assert sum("READY=1" in lines for lines in seen) == 1
        observer.close()
        notifier.close()

    asyncio.run(run())
    filler.close()


def test_without_a_manager_nothing_is_computed() -> None:
    class Untouched(Staged):
        def view(self) -> f.View:
            raise AssertionError("looked")

    Notify(Notifier({}), Untouched()).fact(f.ServiceReady(True))


def test_a_reason_with_a_line_break_is_one_line(manager: Manager) -> None:
    assert told(manager, Staged(), f.Stopped(1, "no\nREADY=1", ())) == [["STATUS=stopped: no READY=1"]]


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (healthy_view(4), "4/4 ready, generation 1"),
        (
            f.View(100.0, "running", True, True, (pool_view(
                [slot_view(0, 1), slot_view(2, None, next_start=101.6, last_reason=f.ExitReason.CRASH)],
                [worker_view(1, 0)]),)),
            "1/2 ready, generation 1; web/2 restarting in 1.6 s: crash",
        ),
        (
            f.View(100.0, "running", True, True, (
                pool_view([slot_view(0, 1)], [worker_view(1, 0)]),
                pool_view([slot_view(0, None)], [], name="cpu", given_up=True))),
            "web 1/1 ready, generation 1; cpu 0/1 ready, generation 1, given up",
        ),
        (
            f.View(100.0, "running", True, True, (pool_view(
                [slot_view(0, 1), slot_view(1, None, held=True)], [worker_view(1, 0)]),)),
            "1/2 ready, generation 1, held: 1",
        ),
        (replace(healthy_view(1), phase="lame_duck"), "lame duck, 1 worker left"),
    ],
)  # fmt: skip
def test_the_summary_says_what_matters(view: f.View, line: str) -> None:
    assert summary(view) == line


# -- reloads -----------------------------------------------------------------------------------------------------------


def ended(verdict: f.Verdict, reason: str) -> f.ReloadEnded:
    return f.ReloadEnded(2, verdict, reason, "", 1.0)


def test_a_reload_is_told_with_the_time_and_ready_is_said_after_it(manager: Manager) -> None:
    before = monotonic_ns() // 1000
    said = told(manager, Staged(), f.ReloadBegan(2, ("web",)), ended(f.Verdict.PROMOTED, "every worker is ready"))
    assert said[0][0] == "RELOADING=1"
    assert before <= int(said[0][1].removeprefix("MONOTONIC_USEC=")) <= monotonic_ns() // 1000
    assert said[1][0] == "READY=1"
    assert "failed" not in str(said)


def test_a_reload_that_failed_is_ready_with_a_status_that_says_so(manager: Manager) -> None:
    said = told(manager, Staged(), f.ReloadBegan(2, ("web",)), ended(f.Verdict.ROLLED_BACK, "no\nimport"))
    assert said[-1] == ["READY=1", "STATUS=2/2 ready, generation 1; reload failed: no import"]


def test_a_reload_that_was_refused_before_it_began_is_told_as_one(manager: Manager) -> None:
    """A manager that has asked by a signal waits until it hears RELOADING (Type=notify-reload)."""
    said = told(manager, Staged(), f.ReloadEnded(None, f.Verdict.REFUSED, "shop.toml:3: bad", "", 0.0))
    assert [lines[0] for lines in said] == ["RELOADING=1", "READY=1"]
    assert said[-1][1].endswith("reload failed: shop.toml:3: bad")


def test_the_failure_is_told_until_the_next_reload(manager: Manager) -> None:
    failed, promoted = ended(f.Verdict.ROLLED_BACK, "no"), ended(f.Verdict.PROMOTED, "yes")
    said = told(manager, Staged(), f.ReloadBegan(2, ()), failed, f.ReloadBegan(3, ()), promoted)
    assert [("failed" in lines[-1]) for lines in said] == [False, True, False, False]


def test_one_that_a_stop_ends_is_not_called_ready(manager: Manager) -> None:
    stopping = Staged(replace(healthy_view(), phase="draining"))
    said = told(manager, stopping, f.StopBegan(False, "SIGTERM"), ended(f.Verdict.STOPPED, "asked to stop"))
    assert "READY=1" not in str(said)


def test_before_the_first_ready_a_reload_says_none(manager: Manager) -> None:
    source = Staged(replace(healthy_view(), was_ready=False, ready=False))
    said = told(manager, source, f.ReloadBegan(2, ()), ended(f.Verdict.ROLLED_BACK, "no"))
    assert "READY=1" not in str(said)
