"""Families of the app's metrics and their series, summed or chosen from many workers, and as samples of a page."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import Exemplar, Metric
from prometheus_client.samples import Sample

RISING = frozenset({"counter", "histogram", "summary"})
KINDS = RISING | {"gauge", "info", "stateset", "unknown", "gaugehistogram"}

MODES = frozenset({"all", "min", "max", "sum", "mostrecent"})
"""How a gauge's values become one; ``all`` is one sample a worker. ``live…`` is the same: the dead have no gauges."""

MAX_FAMILIES = 5_000
MAX_PARTS = 100_000
"""Numbers on the page, over all families: what comes on top is refused. They are kept for the primary's life."""

MAX_REFUSED = 1_000
"""Names that are remembered as told of."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")

Labels = tuple[tuple[str, str], ...]
Warn = Callable[[str, str], None]


class Part:
    """One number of a series: a counter's, a bucket's, a sum's; or a gauge's values by worker.

    Attributes:
        total: of a rising one.
        gauges: of a gauge: by worker its value, its Unix time, and its pool and slot.
    """

    __slots__ = ("exemplar", "gauges", "imported", "is_gauge", "signed", "timed", "total")

    def __init__(self, is_gauge: bool, timed: bool, signed: bool) -> None:
        self.is_gauge = is_gauge
        self.timed = timed
        self.signed = signed
        self.total = 0.0
        self.gauges: dict[int, tuple[float, float, tuple[str, str]]] = {}
        self.exemplar: Exemplar | None = None
        self.imported: tuple[tuple[str, int], ...] = ()

    def rise(self, value: float, before: float) -> bool:
        """A worker's own went from ``before`` to ``value``; false if that is not to be believed, and was not added.

        A counter that fell was reset and has risen from zero since, as Prometheus itself would take it.
        """
        if not math.isfinite(value) or (value < 0 and not self.signed):
            return False
        total = self.total + (value if value < before and not self.signed else value - before)
        if not math.isfinite(total):
            return False
        self.total = total
        return True

    def inherit(self, value: float, pool: str, generation: int) -> None:
        """What was counted at import: once for each generation of a pool, however many workers it has."""
        if (pool, generation) not in self.imported and self.rise(self.total + value, self.total):
            kept = [one for one in self.imported if one[0] != pool or one[1] >= generation - 3]
            self.imported = (*kept, (pool, generation))

    def show(self, labels: dict[str, str], value: float, timestamp: float) -> None:
        """An exemplar; the youngest of all workers is kept."""
        young = self.exemplar is None or timestamp >= float(self.exemplar.timestamp or 0)
        fits = sum(map(len, [*labels, *labels.values()])) <= 128 and math.isfinite(value) and math.isfinite(timestamp)
        if young and fits and all(_LABEL.match(name) for name in labels):
            self.exemplar = Exemplar(labels, value, timestamp)


@dataclass(slots=True)
class Family:
    """A family.

    Attributes:
        groups: by labels without ``le``, the parts by suffix and ``le``.
        by: the youngest worker that defined it, whose help text and mode count.
    """

    name: str
    kind: str
    help: str
    mode: str
    by: int
    groups: dict[Labels, dict[tuple[str, str], Part]] = field(default_factory=dict)

    def metric(self) -> Metric:
        """Its head."""
        return Metric(self.name, self.help, self.kind)

    def samples(self) -> Iterator[Sample]:
        """Its samples."""
        if self.kind == "stateset":  # the states of one thing stand together, as the format demands
            yield from sorted(self._samples(), key=lambda sample: sorted(self._thing(sample).items()))
        else:
            yield from self._samples()

    def _thing(self, sample: Sample) -> dict[str, str]:
        return {key: text for key, text in sample.labels.items() if key != self.name}

    def _samples(self) -> Iterator[Sample]:
        for labels, parts in list(self.groups.items()):
            if self.kind == "histogram":
                yield from self._histogram(dict(labels), parts)
                continue
            for (suffix, _), part in list(parts.items()):
                if part.is_gauge:
                    yield from self._gauge(suffix, dict(labels), part)
                else:
                    yield Sample(self.name + suffix, dict(labels), part.total, None, part.exemplar)

    def _histogram(self, labels: dict[str, str], parts: dict[tuple[str, str], Part]) -> Iterator[Sample]:
        buckets = sorted((float(le), le, part) for (suffix, le), part in parts.items() if suffix == "_bucket")
        if not buckets:
            return
        total = 0.0
        for _, le, part in buckets:
            total += part.total
            yield Sample(self.name + "_bucket", {**labels, "le": le}, total, None, part.exemplar)
        if not math.isinf(buckets[-1][0]):  # its buckets are not all there yet
            yield Sample(self.name + "_bucket", {**labels, "le": "+Inf"}, total)
        yield Sample(self.name + "_count", labels, total)
        if buckets[0][0] >= 0 and ("_sum", "") in parts:
            yield Sample(self.name + "_sum", labels, parts["_sum", ""].total)

    def _gauge(self, suffix: str, labels: dict[str, str], part: Part) -> Iterator[Sample]:
        if not part.gauges:
            return
        name = self.name + suffix
        values = [value for value, _, _ in part.gauges.values()]
        match self.mode:
            case "sum":
                yield Sample(name, labels, math.fsum(values) if all(map(math.isfinite, values)) else sum(values))
            case "min":
                yield Sample(name, labels, min(values))
            case "max":
                yield Sample(name, labels, max(values))
            case "mostrecent":
                yield Sample(name, labels, max(part.gauges.values(), key=lambda gauge: gauge[1])[0])
            case _:
                # While a slot's worker is replaced there are two of it: the younger one's counts.
                places = {place: value for _, (value, _, place) in sorted(part.gauges.items())}
                own = {f"exported_{key}" if key in ("pool", "slot") else key: text for key, text in labels.items()}
                for (pool, slot), value in places.items():
                    yield Sample(name, {**own, "pool": pool, "slot": slot}, value)


class Families:
    """All of them, within their bounds.

    Args:
        reserved: names that are taken.
        warn: told a name and why it is refused, once for each.
    """

    def __init__(self, reserved: frozenset[str], warn: Warn) -> None:
        self._reserved = reserved
        self._warn = warn
        self._by_name: dict[str, Family] = {}
        self._parts = 0
        self._refused: set[str] = set()

    def __iter__(self) -> Iterator[Family]:
        return iter(list(self._by_name.values()))

    def books(self) -> list[Any]:
        """What was counted in all, in plain containers."""
        return [
            [
                family.name, family.kind, family.help, family.mode,
                [
                    [labels, [[suffix, le, part.total, part.imported] for (suffix, le), part in parts.items()]]
                    for labels, parts in family.groups.items()
                ],
            ]
            for family in self
            if family.kind in RISING
        ]  # fmt: skip

    def go_on(self, books: Sequence[Any]) -> None:
        """Take over what another has counted."""
        for name, kind, text, mode, groups in books:
            for labels, parts in groups:
                for suffix, le, total, imported in parts:
                    key = tuple((label, value) for label, value in labels)
                    part = self.part(0, name, kind, text, mode, suffix, key, le)
                    if part is not None:
                        part.rise(part.total + total, part.total)
                        part.imported = tuple((pool, generation) for pool, generation in imported)

    def part(
        self,
        worker: int,
        name: str,
        kind: str,
        text: str,
        mode: str,
        suffix: str,
        labels: Labels,
        le: str = "",
    ) -> Part | None:
        """The part of that name; ``None`` if it is refused.

        A family that comes again as another kind is another one from then on, if a younger worker says so: the new
        code's word counts. Until the old workers have gone, what they count of it is refused.
        """
        family = self._by_name.get(name)
        mode = mode.removeprefix("live")
        if family is None or (family.kind != kind and worker > family.by):
            why = self._why_not(name, kind, family is None)
            if why:
                self._refuse(name, why)
                return None
            family = self._by_name[name] = Family(name, kind, text, mode, worker)
        elif family.kind != kind:
            return None
        elif worker > family.by:
            family.help, family.mode, family.by = text, mode, worker
        group = family.groups.get(labels)
        part = None if group is None else group.get((suffix, le))
        if part is None:
            why = self._why_no_part(family, suffix, labels, le)
            if why:
                self._refuse(name, why)
                return None
            part = Part(kind not in RISING, family.mode == "mostrecent", suffix == "_sum")
            family.groups.setdefault(labels, {})[suffix, le] = part
            self._parts += 1
        return part

    def _why_not(self, name: str, kind: str, is_new: bool) -> str:
        if name.startswith("clusterd_"):
            return "names that begin with clusterd_ are clusterd's own"
        if name in self._reserved:
            return "the page has a metric of that name of the primary's own"
        if is_new and len(self._by_name) >= MAX_FAMILIES:
            return f"there are {MAX_FAMILIES} metrics already"
        if kind not in KINDS:
            return f"{kind:.40} is no type of metric"
        if not _NAME.match(name):  # what else the formats know they may write as another one's name
            return "a name has letters, digits, _ and : alone"
        return ""

    def _why_no_part(self, family: Family, suffix: str, labels: Labels, le: str) -> str:
        if self._parts >= MAX_PARTS:
            return f"there are {MAX_PARTS} series already"
        if not all(_LABEL.match(label) for label, _ in labels) or len(dict(labels)) != len(labels):
            return "the names of its labels are none"
        fits = _FITS[family.kind]
        if suffix not in fits:
            return f"a {family.kind} has no sample {suffix[:40]!r}"
        if suffix == "_bucket" and family.kind == "histogram":
            try:
                if math.isnan(float(le)):
                    return "a bucket's bound is no number"
            except ValueError:
                return "a bucket's bound is no number"
        return ""

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused and len(self._refused) < MAX_REFUSED:
            self._refused.add(name)
            self._warn(name[:200], why)


_FITS = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum"),
    "summary": ("_count", "_sum", ""),
    "gauge": ("",),
    "info": ("_info",),
    "stateset": ("",),
    "unknown": ("",),
    "gaugehistogram": ("_bucket", "_gcount", "_gsum"),
}
"""Kind to the suffixes of its samples. What a histogram counts in all is the sum of its buckets."""
