"""A source whose every answer a test sets, and views to answer with."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clusterd.core.facts import ExitReason, PoolView, SlotView, View, WorkerView
from clusterd.ops.source import ListenerSample, Sample
from clusterd.ops.status import About

ABOUT = About("shop", 4711, "1.2.3", "/run/clusterd/shop", 40.0, "127.0.0.1:9190")


def worker_view(
    worker: int, slot: int, state: str = "ready", generation: int = 1, started_at: float = 90.0
) -> WorkerView:
    return WorkerView(worker, "web", slot, generation, state, started_at, 91.0 if state == "ready" else None)


def slot_view(
    index: int,
    worker: int | None,
    *,
    next_start: float | None = None,
    last_reason: ExitReason | None = None,
    given_up: bool = False,
    starts: int = 1,
) -> SlotView:
    ends = starts - 1 if worker is not None else starts
    return SlotView(index, worker, ends, given_up, next_start, starts, ends, last_reason)


def pool_view(
    slots: Sequence[SlotView],
    workers: Sequence[WorkerView],
    name: str = "web",
    min_ready: int = 1,
    given_up: bool = False,
) -> PoolView:
    ready = sum(worker.state == "ready" for worker in workers)
    return PoolView(name, 1, len(slots), ready, min_ready, given_up, "ready", True, tuple(slots), tuple(workers))


def healthy_view(workers: int = 2) -> View:
    """``workers`` ready workers, ids from 1, ten seconds old."""
    pool = pool_view(
        [slot_view(index, index + 1) for index in range(workers)],
        [worker_view(index + 1, index) for index in range(workers)],
    )
    return View(100.0, "running", True, True, (pool,))


@dataclass
class Staged:
    """What :class:`clusterd.ops.source.Source` asks for, as attributes."""

    now_view: View = field(default_factory=healthy_view)
    rows: dict[int, dict[str, int]] = field(default_factory=dict)
    given: dict[tuple[int, str], int] = field(default_factory=dict)
    bound: list[ListenerSample] = field(default_factory=lambda: [ListenerSample("http", "127.0.0.1:8000", 3, 2048)])
    left: list[int] = field(default_factory=list)
    read_back: dict[tuple[str, str], int] = field(default_factory=dict)
    age: float = 0.01
    full: float = 0.25
    throttled: float | None = 1.5
    oom_kills: int | None = 2
    lines: dict[int, list[str]] = field(default_factory=dict)

    def view(self) -> View:
        return self.now_view

    def samples(self) -> Mapping[int, Sample]:
        return {worker: Sample(os.getpid(), row) for worker, row in self.rows.items()}

    def handed(self) -> Mapping[tuple[int, str], int]:
        return self.given

    def listeners(self) -> Sequence[ListenerSample]:
        return self.bound

    def leftovers(self) -> Sequence[int]:
        return self.left

    def reclaimed(self) -> Mapping[tuple[str, str], int]:
        return self.read_back

    def saturation(self) -> Mapping[str, float]:
        return {"web": self.full}

    def cgroup(self) -> tuple[float | None, int | None]:
        return self.throttled, self.oom_kills

    def loop_age(self) -> float:
        return self.age

    def crash_lines(self, worker: int) -> Sequence[str]:
        return self.lines.get(worker, [])
