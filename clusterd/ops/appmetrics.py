"""The app's own metrics, once: summed over workers and generations, dead and alive.

What a worker's counters rose by is added when its memory is read, so a sum never falls and the dead cost nothing.
Gauges are the living's. Reading goes in steps, and only what changed is looked at; whatever a worker wrote there, it
costs bounded time and memory.
"""

import asyncio
import struct
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from clusterd.ops.aggregate import Families, Family, Labels, Part, Warn
from clusterd.ops.exposition import SLICE, Steps, at_once
from clusterd.ops.source import AppFamily, AppSeries, ComputedFamily, Segment

BLOCK = 64
"""Values compared at once."""

BLOCKS_A_STEP = 16

END: Final = object()

ABSENT = struct.pack("=Q", 0x7FF4_DEAD_DEAD_DEAD)
"""What stands in the place of a gauge that is none any more; as in ``wire.series``."""


@dataclass(slots=True)
class _Member:
    """One worker, as far as it was read.

    Attributes:
        parts: by cell, what its value belongs to; ``None`` for what was refused.
        values: by cell, for a gauge's time the cell of its value.
        raw: the cells when they were last read.
        seen: by cell, what of a rising one has been added.
        fresh: cells of gauges that were not read yet.
        carried: what ``seen`` was to another that has read this worker before.
        reading: a reading under way.
        computed: of what it computes, what has been added, by the samples' names and labels.
    """

    worker: int
    segment: Segment
    place: tuple[str, str]
    families: list[AppFamily] = field(default_factory=list)
    parts: list[Part | None] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=dict)
    by_series: list[Part | None] = field(default_factory=list)
    raw: bytes = b""
    seen: "array[float]" = field(default_factory=lambda: array("d"))
    fresh: list[int] = field(default_factory=list)
    gauges: set[int] = field(default_factory=set)
    carried: Sequence[float] = ()
    reading: Steps[None] | None = None
    computed: dict[tuple[str, Labels], float] = field(default_factory=dict)
    computed_gauges: list[Part] = field(default_factory=list)


class AppMetrics:
    """The aggregate.

    Args:
        reserved: names of families that are the page's own; an app's of the same name are refused.
        warn: told a metric's name and why it is refused, once for each name.
    """

    def __init__(self, reserved: Sequence[str] = (), warn: Warn = lambda name, why: None) -> None:
        self._families = Families(frozenset(reserved), warn)
        self._members: dict[int, _Member] = {}
        self._dying: deque[Steps[None]] = deque()
        self._carried: dict[int, tuple[Sequence[float], dict[tuple[str, Labels], float]]] = {}

    def families(self) -> Iterator[Family]:
        """What there is."""
        return iter(self._families)

    # -- for another that goes on counting -----------------------------------------------------------------------

    def books(self) -> dict[str, Any]:
        """What has been counted so far, in plain containers; exemplars are left out."""
        while self._dying:
            at_once(self._dying.popleft())
        return {
            "families": self._families.books(),
            "read": {
                worker: [
                    list(member.seen),
                    [[name, labels, value] for (name, labels), value in member.computed.items()],
                ]
                for worker, member in self._members.items()
            },
        }

    def go_on(self, books: Mapping[str, Any]) -> None:
        """Go on from another's books: nothing that it has counted is counted again. Before anything is read."""
        self._families.go_on(books.get("families", ()))
        for worker, (seen, computed) in books.get("read", {}).items():
            known = {(name, tuple((key, text) for key, text in labels)): value for name, labels, value in computed}
            self._carried[int(worker)] = seen, known

    # -- what lies in the workers' memory ------------------------------------------------------------------------

    def read(self, segments: Mapping[int, Segment]) -> Steps[None]:
        """Take in what living workers counted since the last time."""
        while self._dying:  # their counts first, for a sum to be whole
            if next(self._dying[0], END) is END:
                self._dying.popleft()
            yield
        for worker in list(segments):
            segment = segments.get(worker)  # it may have ended since the last step, and is read by then
            if segment is None:
                continue
            member = self._member(worker, segment)
            if member.reading is None:
                member.reading = self._read_one(member)
            reading = member.reading
            for _ in reading:
                yield
            if member.reading is reading:
                member.reading = None
            yield

    def end(self, worker: int, segment: Segment | None) -> None:
        """A worker has ended: take in what it counted last, and drop its gauges.

        At once as a rule. One that had very much to tell is read on in the loop's next turns, from a copy.
        """
        steps = self._bury(worker, segment)
        until = monotonic() + SLICE
        for _ in steps:
            if monotonic() > until:
                break
        else:
            return
        if segment is not None:
            segment.keep()
        self._dying.append(steps)
        if len(self._dying) == 1:
            self._schedule()

    def _bury(self, worker: int, segment: Segment | None) -> Steps[None]:
        if segment is not None:
            member = self._member(worker, segment)
            if member.reading is not None:
                yield from member.reading
            yield from self._read_one(member)
        gone = self._members.pop(worker, None)
        if gone is not None:
            for part in [*(gone.parts[cell] for cell in gone.gauges), *gone.computed_gauges]:
                if part is not None:
                    part.gauges.pop(worker, None)

    def _schedule(self) -> None:
        try:
            asyncio.get_running_loop().call_soon(self._go_on)
        except RuntimeError:  # no loop, nobody to hold up
            while self._dying:
                at_once(self._dying.popleft())

    def _go_on(self) -> None:
        until = monotonic() + SLICE
        while self._dying and monotonic() < until:
            if next(self._dying[0], END) is END:
                self._dying.popleft()
        if self._dying:
            self._schedule()

    def move(self, worker: int, slot: int) -> None:
        """A worker has got another slot: a spare that takes a place."""
        member = self._members.get(worker)
        if member is not None:
            member.place = (member.segment.pool, str(slot))
            for part in [*(member.parts[cell] for cell in member.gauges), *member.computed_gauges]:
                if part is not None and worker in part.gauges:
                    value, timestamp, _ = part.gauges[worker]
                    part.gauges[worker] = (value, timestamp, member.place)

    def _member(self, worker: int, segment: Segment) -> _Member:
        member = self._members.get(worker)
        if member is None:
            member = _Member(worker, segment, (segment.pool, str(segment.slot)))
            member.carried, member.computed = self._carried.pop(worker, ((), {}))
            self._members[worker] = member
        return member

    def _read_one(self, member: _Member) -> Steps[None]:
        while True:
            families, series = member.segment.news()
            member.families += families
            for one in series:
                self._define(member, one)
            if not (families or series):
                break
            yield
        raw, exemplars = member.segment.cells(), member.segment.exemplars()
        old, member.raw = member.raw.ljust(len(raw), b"\0"), raw
        fresh, member.fresh = member.fresh, []
        for cell in fresh:
            self._gauge(member, cell)
        for block, start in enumerate(range(0, len(raw) // 8, BLOCK)):
            piece = slice(8 * start, 8 * (start + BLOCK))
            if raw[piece] != old[piece]:
                self._add(member, start, raw[piece], old[piece])
            if block % BLOCKS_A_STEP == 0:
                yield
        for number, labels, value, timestamp in exemplars:
            part = member.by_series[number] if number < len(member.by_series) else None
            if part is not None:
                part.show(labels, value, timestamp)

    def _define(self, member: _Member, series: AppSeries) -> None:
        number, suffix, label_values, le, inherited, cell = series
        name, kind, text, mode, label_names = member.families[number]
        labels = tuple(zip(label_names, label_values, strict=True))
        part = self._families.part(member.worker, name, kind, text, mode, suffix, labels, le)
        member.by_series.append(part)
        member.parts.append(part)
        member.seen.append(member.carried[cell] if cell < len(member.carried) else 0.0)
        if mode.endswith("mostrecent"):
            member.parts.append(None)
            member.seen.append(0.0)
            member.values[cell + 1] = cell
        if part is None:
            return
        if part.is_gauge:
            member.fresh.append(cell)
        elif inherited > 0:
            part.inherit(inherited, member.segment.pool, member.segment.generation)

    def _add(self, member: _Member, start: int, raw: bytes, old: bytes) -> None:
        now, before = memoryview(raw).cast("Q"), memoryview(old).cast("Q")
        values = memoryview(raw).cast("d")
        for index in range(len(now)):
            if now[index] == before[index]:
                continue
            cell = start + index
            part = member.parts[cell]
            if part is None:
                if cell in member.values:
                    self._gauge(member, member.values[cell])
            elif part.is_gauge:
                self._gauge(member, cell)
            elif part.rise(values[index], member.seen[cell]):
                member.seen[cell] = values[index]

    def _gauge(self, member: _Member, cell: int) -> None:
        part = member.parts[cell]
        raw = member.raw[8 * cell : 8 * cell + 8]
        if part is None or len(raw) < 8:
            return
        member.gauges.add(cell)
        if raw == ABSENT:
            part.gauges.pop(member.worker, None)
            return
        timestamp = 0.0
        if cell + 1 in member.values and len(member.raw) >= 8 * cell + 16:
            (timestamp,) = struct.unpack_from("=d", member.raw, 8 * cell + 8)
        (value,) = struct.unpack("=d", raw)
        part.gauges[member.worker] = (value, timestamp, member.place)

    # -- what workers compute when asked -------------------------------------------------------------------------

    def computed(self, worker: int, segment: Segment, families: Sequence[ComputedFamily]) -> None:
        """Take in what a worker computed. What it does not tell of any more is gone, if it is a gauge."""
        member = self._member(worker, segment)
        for gone in member.computed_gauges:
            gone.gauges.pop(worker, None)
        member.computed_gauges = []
        for name, kind, text, mode, samples in families:
            of_family = "max" if kind == "info" else mode if kind == "gauge" else "all"
            below: dict[Labels, float] = {}
            for sample_name, label_map, value in samples:
                labels = dict(label_map)
                le = labels.pop("le", "") if kind == "histogram" else ""
                suffix = sample_name.removeprefix(name)
                if kind == "histogram" and suffix == "_count":
                    continue  # it is the last bucket's
                key = tuple(labels.items())
                part = self._families.part(worker, name, kind, text, of_family, suffix, key, le)
                if part is None:
                    continue
                if part.is_gauge:
                    part.gauges[worker] = (value, 0.0, member.place)
                    member.computed_gauges.append(part)
                    continue
                own = value
                if suffix == "_bucket":  # told with all that is below it, kept alone
                    own, below[key] = value - below.get(key, 0.0), value
                seen = (sample_name + le, key)
                if part.rise(own, member.computed.get(seen, 0.0)):
                    member.computed[seen] = own
