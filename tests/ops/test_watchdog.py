"""The watchdog's beats, and what buys more of the manager's patience."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from clusterd.core import facts as f
from clusterd.ops import patience as patience_module
from clusterd.ops import watchdog
from clusterd.ops.patience import SPAN, Patience
from clusterd.ops.watchdog import Watchdog
from tests.ops.staged import Staged, healthy_view

DEADLINE = 5.0


class Told:
    """A notifier's place, written down."""

    available = True

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.changed = asyncio.Event()

    def send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        self.lines += lines
        self.changed.set()
        return True

    async def until(self, condition: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition(self.lines):
                self.changed.clear()
                await self.changed.wait()


def test_it_beats_while_the_primary_is_sound() -> None:
    async def run() -> None:
        told = Told()
        dog = Watchdog(told, Staged(), 0.03)
        await told.until(lambda lines: lines.count("WATCHDOG=1") >= 3)
        dog.close()
        assert set(told.lines) == {"WATCHDOG=1"}

    asyncio.run(run())


def test_a_primary_that_is_late_withholds_the_beat_and_goes_on_when_it_is_not() -> None:
    async def run() -> None:
        told, source = Told(), Staged(late=10.0)
        dog = Watchdog(told, source, 0.03)
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert told.lines == []
        source.late = 0.0
        await told.until(lambda lines: "WATCHDOG=1" in lines)
        dog.close()

    asyncio.run(run())


def test_a_pool_in_trouble_never_withholds_it() -> None:
    async def run() -> None:
        told = Told()
        view = replace(healthy_view(), ready=False)
        view = replace(view, pools=tuple(replace(pool, given_up=True, workers=()) for pool in view.pools))
        dog = Watchdog(told, Staged(view), 0.03)
        await told.until(lambda lines: "WATCHDOG=1" in lines)
        dog.close()

    asyncio.run(run())


@pytest.mark.parametrize("interval", [0.03, None])
def test_a_primary_that_knows_itself_broken_triggers_it_once(
    interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LOOK", 0.01)

    async def run() -> None:
        told = Told()
        dog = Watchdog(told, Staged(fault="the rules failed"), interval)
        for _ in range(5):
            await asyncio.sleep(0.01)
        dog.close()
        assert told.lines == ["WATCHDOG=trigger", "STATUS=broken: the rules failed"]

    asyncio.run(run())


# -- patience ---------------------------------------------------------------------------------------------------------


def extensions(told: Told) -> list[float]:
    return [int(line.partition("=")[2]) / 1e6 for line in told.lines if line.startswith("EXTEND_TIMEOUT_USEC=")]


def starts(*facts: f.Fact, timeout: float = 60.0, drain: float = 0.0) -> list[float]:
    async def run() -> list[float]:
        told = Told()
        one = Patience(told, Staged(), {"web": timeout}, 0.0, drain)
        for fact in facts:
            one.fact(fact)
        one.close()
        return extensions(told)

    return asyncio.run(run())


def test_each_new_stage_of_a_start_buys_the_time_that_it_may_take() -> None:
    facts = (
        f.ZygoteStarted("web", 1),
        f.ZygoteIsReady("web", 1, True, 0.1),
        f.WorkerReady(1, "web", 0, 1, 0.1, None),
        f.WorkerReady(2, "web", 1, 1, 0.1, None),
    )
    assert starts(*facts) == [60.0 + SPAN] * 4


def test_a_retry_is_no_progress() -> None:
    again = [f.ZygoteStarted("web", 1), f.ZygoteIsReady("web", 1, True, 0.1)] * 5
    assert len(starts(*again)) == 2


def test_an_unbounded_import_buys_nothing_and_neither_does_a_worker_of_a_ready_service() -> None:
    assert starts(f.ZygoteStarted("web", 1), timeout=0.0) == []
    assert starts(f.ServiceReady(True), f.WorkerReady(1, "web", 0, 1, 0.1, None)) == []


def test_each_stage_of_a_reload_buys_the_time_of_a_drain_too() -> None:
    facts = (
        f.ServiceReady(True),
        f.ReloadBegan(2, ("web",)),
        f.ZygoteStarted("web", 2),
        f.CanaryBegan("web", 3, 2, 300.0),
        f.WorkerReady(3, "web", 0, 2, 0.1, None),
        f.WorkerReady(3, "web", 0, 2, 0.1, None),
        f.ReloadEnded(2, f.Verdict.PROMOTED, "", "", 1.0),
        f.WorkerReady(4, "web", 1, 2, 0.1, None),
    )
    assert starts(*facts, drain=27.0) == [60.0 + 27.0 + SPAN, 300.0 + SPAN, 60.0 + 27.0 + SPAN]


def test_a_drain_buys_time_while_something_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience_module, "LOOK", 0.01)

    async def run() -> None:
        told, source = Told(), Staged(rows={1: {"requests_2xx": 5}, 2: {}})
        one = Patience(told, source, {"web": 60.0}, 7.0)
        one.fact(f.StopBegan(False, "SIGTERM"))
        assert extensions(told) == [7.0 + SPAN]
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert extensions(told) == [7.0 + SPAN]  # nothing has happened, so nothing is asked for
        source.rows[1]["requests_2xx"] = 6
        await told.until(lambda lines: len(lines) == 2)
        one.fact(f.Stopped(0, "asked to stop", ()))
        assert extensions(told) == [7.0 + SPAN, SPAN]

    asyncio.run(run())
