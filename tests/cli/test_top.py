"""The live screen: what it shows, kept as text in ``screens/``, and what its keys do.

``CLUSTERD_SCREENS=write`` writes the screens anew, to be looked at before they are committed.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot
from textual.widgets import DataTable

from clusterd.cli.top import Page, Top
from clusterd.errors import NotRunning, Refused

pytestmark = pytest.mark.slow

SCREENS = Path(__file__).parent / "screens"
DEADLINE = 20.0


def worker(number: int, **values: Any) -> dict[str, Any]:
    return {
        "id": number, "slot": number - 1, "state": "ready", "generation": 1, "uptime": 100.0 * number,
        "pid": 4000 + number, "ready_for": 1.0,
        "connections": 3, "requests": 70, "in_flight": 1,
        "memory": 45_000_000 + number * 1_000_000,
        "heartbeat_age": 0.5, "requests_per_second": 12.5 * number, "cpu": 0.25, "latency": 0.0042, "loop_lag": 0.0001,
        **values,
    }  # fmt: skip


class Staged:
    """A service whose every answer a test sets, and what it was asked."""

    def __init__(self) -> None:
        self.looks = 0
        self.asked: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.reloading: dict[str, Any] | None = None
        self.slots = [
            {"index": 0, "worker": worker(1), "restarts": 0, "given_up": False, "last_reason": None},
            {
                "index": 1,
                "worker": worker(2, state="draining"),
                "restarts": 2,
                "given_up": False,
                "last_reason": "crash",
            },
            {"index": 2, "worker": None, "restarts": 5, "given_up": True, "last_reason": "boot"},
        ]

    def status(self) -> dict[str, Any]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return {
            "api": 1,
            "service": {
                "name": "shop", "pid": 4711, "state": "running", "ready": True, "uptime": 3725.0,
                "listeners": [{"name": "http", "address": "127.0.0.1:8000"}],
            },
            "pools": [{"name": "web", "slots": self.slots}],
            "reload": self.reloading,
        }  # fmt: skip

    def logs(self, *, pool: str | None, slot: int | None, lines: int) -> list[dict[str, Any]]:
        return [
            {"time": "no time", "pool": pool, "slot": slot, "stream": "stdout", "text": f"hello from {pool}/{slot}"},
            {"time": "no time", "pool": pool, "slot": slot, "stream": "stderr", "text": "\x1b[2J[bold]trouble[/bold]"},
        ]

    def _do(self, *asked: Any) -> None:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error

    def stacks(self, worker: int) -> str:
        self._do("stacks", worker)
        return f"Thread 0x1 of worker {worker}:\n  File [app.py], line 7 in handler\x1b[2J"

    def scale(self, pool: str, *, by: int) -> dict[str, Any]:
        self._do("scale", pool, by)
        return {"pool": pool, "wanted": 3 + by, "was": 3}

    def restart(self, pool: str | None = None, *, worker: int | None = None) -> dict[str, Any]:
        self._do("restart", worker)
        return {"workers": [worker], "done": True}

    def hold(self, pool: str, slot: int) -> dict[str, Any]:
        self._do("hold", pool, slot)
        self.slots[slot] |= {"worker": None, "held": True}
        return {"pool": pool, "slot": slot, "held": True, "worker": None}

    def release(self, pool: str, slot: int) -> dict[str, Any]:
        self._do("release", pool, slot)
        self.slots[slot] |= {"worker": worker(9, slot=slot), "held": False}
        return {"pool": pool, "slot": slot, "held": False, "worker": 9}

    def reload(self, pool: str | None = None) -> dict[str, Any]:
        self._do("reload", pool)
        return {
            "generation": 2, "verdict": "rolled_back", "reason": "it is bad", "report": "Traceback\x1b[2J", "took": 1.5,
        }  # fmt: skip


def text_of(app: Top) -> str:
    """What stands on the screen."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips) + "\n"


async def until(app: Pilot[None], condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():
            await app.pause(0.01)

    await asyncio.wait_for(wait(), DEADLINE)
    await app.pause()


Scenario = Callable[[Top, Pilot[None], Staged], Coroutine[Any, Any, None]]


def on_screen(scenario: Scenario, size: tuple[int, int] = (120, 24)) -> None:
    async def run() -> None:
        service = Staged()
        app = Top(service, every=0)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: "hello from web/0" in text_of(app))
            await scenario(app, pilot, service)

    asyncio.run(run())


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return


def assert_kept(app: Top, name: str) -> None:
    """The screen is as the one that has been looked at."""
    kept, found = SCREENS / f"{name}.txt", text_of(app)
    if os.environ.get("CLUSTERD_SCREENS") == "write":
        SCREENS.mkdir(exist_ok=True)
        kept.write_text(found)
    assert found == kept.read_text()
    assert "\x1b" not in found


@pytest.mark.parametrize("size", [(120, 24), (80, 20), (60, 16)])
def test_the_screen_is_as_kept(size: tuple[int, int]) -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        assert_kept(app, f"top-{size[0]}x{size[1]}")

    on_screen(scenario, size)


def test_a_slot_is_drained_and_held_and_released_again() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        await pilot.press("h")
        await until(pilot, lambda: "drain web/0 and hold it empty? (y/n)" in text_of(app))
        assert_kept(app, "top-hold")
        assert service.asked == []
        await pilot.press("y")
        await until(pilot, lambda: [note.message for note in app._notifications] == ["empty until it is released"])
        await until(pilot, lambda: "held" in text_of(app).splitlines()[2])
        assert service.asked == [("hold", "web", 0)]
        assert text_of(app).splitlines()[2].split() == ["web", "0", "-", "held", "-", "-", "0", *"-----"]
        app.clear_notifications()
        await pilot.press("h")
        await until(pilot, lambda: [note.message for note in app._notifications] == ["worker 9 is ready"])
        assert service.asked == [("hold", "web", 0), ("release", "web", 0)]

    on_screen(scenario)


def test_the_log_and_the_curves_are_of_the_selected_worker() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        assert "requests 12.5/s" in text_of(app)
        await pilot.press("down")
        await until(pilot, lambda: "hello from web/1" in text_of(app))
        assert "requests 25.0/s" in text_of(app)
        assert "memory 44.8 MiB" in text_of(app)

    on_screen(scenario)


def test_a_new_row_leaves_the_cursor_where_it_is() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        await pilot.press("down")
        await until(pilot, lambda: app.chosen() == ("web", 1))
        service.slots.append({"index": 3, "worker": worker(4), "restarts": 0})
        app.look()
        await until(pilot, lambda: app.query_one(DataTable).row_count == 4)
        assert app.chosen() == ("web", 1)
        service.slots[1]["worker"]["requests_per_second"] = 99.5
        app.look()
        await until(pilot, lambda: "99.5" in text_of(app))

    on_screen(scenario)


@pytest.mark.parametrize(
    ("key", "asked"), [("plus", ("scale", "web", 1)), ("minus", ("scale", "web", -1)), ("s", ("stacks", 1))]
)
def test_a_key_does_what_the_footer_says(key: str, asked: tuple[Any, ...]) -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        await pilot.press(key)
        await until(pilot, lambda: service.asked == [asked])

    on_screen(scenario)


@pytest.mark.parametrize(("key", "asked"), [("r", ("restart", 1)), ("R", ("reload", None))])
def test_what_replaces_workers_is_done_only_after_a_yes(key: str, asked: tuple[Any, ...]) -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        await pilot.press(key)
        await until(pilot, lambda: "? (y/n)" in text_of(app))
        await pilot.press("n")
        await until(pilot, lambda: "? (y/n)" not in text_of(app))
        assert service.asked == []
        await pilot.press(key)
        await until(pilot, lambda: "? (y/n)" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: service.asked == [asked])

    on_screen(scenario)


def test_a_reload_shows_its_verdict_and_how_far_it_is() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        service.reloading = {
            "generation": 2, "stage": "canary", "left": 4.0, "replaced": 1, "of": 3,
        }  # fmt: skip
        app.look()
        await until(pilot, lambda: "generation 2: the first new worker proves itself, 4 s left, 1 of 3" in text_of(app))
        service.reloading = None
        await pilot.press("R")
        await until(pilot, lambda: "? (y/n)" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: "generation 2 was rolled back: it is bad, after 1.5 s" in text_of(app))
        assert "Traceback\\x1b[2J" in text_of(app)

    on_screen(scenario)


def test_stacks_are_a_page_of_their_own() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Page))
        await until(pilot, lambda: "File [app.py], line 7 in handler\\x1b[2J" in text_of(app))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Page))

    on_screen(scenario)


def test_a_vacant_slot_has_no_stacks() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        await pilot.press("down", "down")
        await until(pilot, lambda: app.chosen() == ("web", 2))
        await pilot.press("s")
        await pilot.press("plus")
        await until(pilot, lambda: service.asked == [("scale", "web", 1)])

    on_screen(scenario)


def test_a_refusal_is_shown_and_the_screen_goes_on() -> None:
    async def scenario(app: Top, pilot: Pilot[None], service: Staged) -> None:
        service.error = Refused("this takes the role operator")
        await pilot.press("plus")
        await until(pilot, lambda: [note.message for note in app._notifications] == ["this takes the role operator"])
        service.error = NotRunning("no clusterd is running at /run/shop")
        app.look()
        await until(pilot, lambda: "no clusterd is running at /run/shop" in text_of(app))
        service.error = None
        app.look()
        await until(pilot, lambda: "shop: running, ready" in text_of(app))

    on_screen(scenario)
