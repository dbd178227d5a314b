"""What the rooms that only look (:mod:`clusterd.ops`) see of the primary, which they must not know."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..core.facts import View
from ..ops.probe import LOOK_EVERY, NO_ANSWER, Question
from ..ops.source import ListenerSample, Sample, Segment
from ..primary import readiness
from ..primary.child import Child
from ..primary.service import Primary
from ..unix import cgroup, cpus
from ..wire import reports
from ..wire.rows import HISTOGRAMS, Histogram, Row


def _words(name: str, histogram: Histogram) -> tuple[str, ...]:
    """What the words of a histogram are called: its buckets', then its sum's."""
    return (*(f"{name}_{bucket}" for bucket in range(len(histogram.buckets))), f"{name}_sum_ns")


_NAMES = [(row.name.lower(), row.value) for row in Row] + [
    (word, index)
    for name, histogram in HISTOGRAMS.items()
    for word, index in zip(_words(name, histogram), (*histogram.buckets, histogram.sum_ns), strict=True)
]

HISTOGRAM_WORDS = {name: (_words(name, histogram), histogram.bounds) for name, histogram in HISTOGRAMS.items()}
"""What :class:`~clusterd.ops.metrics.Metrics` is told of the rows' histograms."""


class _Samples(Mapping[int, Sample]):
    """By worker id, of those that are born; a row is read when somebody asks for it: most want one of hundreds."""

    def __init__(self, primary: Primary) -> None:
        self._children = primary.children.by_id

    def __getitem__(self, worker: int) -> Sample:
        child = self._children[worker]
        if not child.pid:
            raise KeyError(worker)
        words = child.row()
        return Sample(child.pid, {name: words[index] for name, index in _NAMES})

    def __iter__(self) -> Iterator[int]:
        return iter([child.id for child in self._children.values() if child.pid])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Segment:
    """A worker's memory for the app's metrics, and whose it is."""

    def __init__(self, child: Child) -> None:
        self.pool = child.pool
        self.slot = child.slot
        self.generation = child.generation
        self._reader = child.values
        self.news = child.values.news
        self.cells = child.values.cells
        self.exemplars = child.values.exemplars
        self.keep = child.values.keep

    @property
    def collects(self) -> bool:
        return self._reader.collects


class _Segments(Mapping[int, Segment]):
    """By worker id, of those that are born."""

    def __init__(self, primary: Primary) -> None:
        self._children = primary.children.by_id

    def __getitem__(self, worker: int) -> Segment:
        child = self._children[worker]
        if not child.pid:
            raise KeyError(worker)
        return _Segment(child)

    def __iter__(self) -> Iterator[int]:
        return iter([child.id for child in self._children.values() if child.pid])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Sight:
    """A :class:`~clusterd.ops.source.Source`; ``primary`` is set once there is one."""

    primary: Primary

    def __init__(self) -> None:
        self._cgroup = cgroup.Counters()

    def view(self) -> View:
        return self.primary.view()

    def samples(self) -> Mapping[int, Sample]:
        return _Samples(self.primary)

    def cpus(self, worker: int) -> Sequence[int] | None:
        child = self.primary.children.by_id.get(worker)
        return None if child is None or not child.pid else cpus.of(child.pid)

    def handed(self) -> Mapping[tuple[int, str], int]:
        return self.primary.handed()

    def listeners(self) -> Sequence[ListenerSample]:
        return [ListenerSample(*queue) for queue in self.primary.queues()]

    def leftovers(self) -> Sequence[int]:
        return [*self.primary.leftovers.pids]

    def reclaimed(self) -> Mapping[tuple[str, str], int]:
        return self.primary.children.reclaimed

    def segments(self) -> Mapping[int, Segment]:
        return _Segments(self.primary)

    def ask(self, worker: int, round_: int) -> None:
        child = self.primary.children.by_id.get(worker)
        if child is not None:
            child.talk.send(reports.collect(round_))

    def saturation(self) -> Mapping[str, float]:
        return self.primary.saturation()

    def cgroup(self) -> tuple[float | None, int | None]:
        return self._cgroup.throttled_seconds(), self._cgroup.oom_kills()

    def loop_age(self) -> float:
        return self.primary.loop_age()

    def overdue(self) -> float:
        return self.primary.overdue()

    def broken(self) -> str:
        return self.primary.broken

    def crash_lines(self, worker: int) -> Sequence[str]:
        return self.primary.last_lines(worker)

    def awaited(self, pool: str) -> str:
        known = self.primary.config.pools.get(pool)
        return "" if known is None else readiness.awaited(known)


class Visits:
    """Whom :class:`~clusterd.ops.probe.Probe` asks: of pools with a ``health.http_path``, or an ``http:`` for ready."""

    def __init__(self, primary: Primary) -> None:
        self._primary = primary

    def questions(self) -> Mapping[str, Question]:
        return {
            name: Question(pool.health.http_path, pool.health.http_interval, pool.health.http_timeout)
            for name, pool in self._primary.config.pools.items()
            if pool.health.http_path and pool.health.http_interval and pool.health.http_timeout
        }

    def starts(self) -> Mapping[str, Question]:
        return {
            name: Question(pool.ready_when.removeprefix("http:"), LOOK_EVERY, pool.health.http_timeout or NO_ANSWER)
            for name, pool in self._primary.config.pools.items()
            if pool.ready_when.startswith("http:")
        }

    def visit(self, worker: int, refused: Callable[[], None], *, starting: bool) -> socket.socket | None:
        return self._primary.children.visit(worker, refused, starting=starting)

    def well(self, worker: int) -> None:
        self._primary.children.script_ready(worker)
