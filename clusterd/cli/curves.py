"""What ``clusterd top`` draws: a row for each slot, and how its figures have gone."""

from collections import deque
from collections.abc import Callable
from typing import Any

from rich.text import Text

from clusterd.cli.choose import Document
from clusterd.ops.escapes import harmless
from clusterd.ops.terminal import COLOURS
from clusterd.ops.words import seconds, size

KEPT = 60
"""Looks that the curves show."""

COLUMNS = ("pool", "slot", "worker", "state", "gen", "uptime", "restarts", "conns", "req/s", "latency", "cpu", "memory")

CURVES = ("requests", "latency", "memory", "restarts")

Place = tuple[str, int]
"""Pool and slot."""


class History:
    """What the curves are drawn from, by place."""

    def __init__(self) -> None:
        self._curves: dict[Place, dict[str, deque[float]]] = {}
        self._restarts: dict[Place, int] = {}

    def add(self, place: Place, slot: Document) -> None:
        """One look at one slot."""
        worker = slot.get("worker") or {}
        curves = self._curves.setdefault(place, {name: deque([0.0] * KEPT, maxlen=KEPT) for name in CURVES})
        restarts = int(slot.get("restarts", 0))
        curves["requests"].append(float(worker.get("requests_per_second") or 0.0))
        curves["latency"].append(float(worker.get("latency") or 0.0))
        curves["memory"].append(float(worker.get("memory") or 0.0))
        curves["restarts"].append(float(max(0, restarts - self._restarts.get(place, restarts))))
        self._restarts[place] = restarts

    def of(self, place: Place, name: str) -> list[float]:
        """One curve."""
        curves = self._curves.get(place)
        return [0.0] * KEPT if curves is None else list(curves[name])


def cells(pool: str, slot: Document) -> list[Text]:
    """The row of one slot."""
    worker = slot.get("worker")
    if worker:
        state = str(worker.get("state"))
    elif slot.get("held"):
        state = "held"
    elif slot.get("given_up"):
        state = "given up"
    else:
        state = "vacant"
    reason = slot.get("last_reason")
    known: Document = worker or {}

    def show(name: str, how: Callable[[Any], str] = str) -> str:
        value = known.get(name)
        return "-" if value is None else how(value)

    row = [
        pool,
        str(slot.get("index")),
        show("id"),
        state,
        show("generation"),
        show("uptime", seconds),
        f"{slot.get('restarts', 0)}" + (f" ({reason})" if reason else ""),
        show("connections"),
        show("requests_per_second", "{:.1f}".format),
        show("latency", lambda value: f"{value * 1000:.1f} ms"),
        show("cpu", lambda value: f"{value * 100:.0f} %"),
        show("memory", size),
    ]
    return [
        Text(harmless(text), style=COLOURS.get(state, "") if name == "state" else "")
        for name, text in zip(COLUMNS, row, strict=True)
    ]
