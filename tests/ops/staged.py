"""A source whose every answer a test sets, and views to answer with."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clusterd.config.changes import Change
from clusterd.core import events as e
from clusterd.core.facts import ExitReason, PoolView, SlotView, View, WorkerRecycled, WorkerView
from clusterd.errors import UsageError
from clusterd.ops.control import Control
from clusterd.ops.exchange import Answerer
from clusterd.ops.journal import Journal
from clusterd.ops.roles import Roles
from clusterd.ops.source import ListenerSample, Sample, Segment
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
    held: bool = False,
) -> SlotView:
    ends = starts - 1 if worker is not None else starts
    return SlotView(index, worker, ends, given_up, next_start, starts, ends, last_reason, held)


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
    late: float = 0.0
    fault: str = ""
    memory: dict[int, Segment] = field(default_factory=dict)
    asked: list[tuple[int, int]] = field(default_factory=list)
    full: float = 0.25
    throttled: float | None = 1.5
    oom_kills: int | None = 2
    lines: dict[int, list[str]] = field(default_factory=dict)
    waits_for: dict[str, str] = field(default_factory=dict)

    def view(self) -> View:
        return self.now_view

    def samples(self) -> Mapping[int, Sample]:
        return {worker: Sample(os.getpid(), row) for worker, row in self.rows.items()}

    def cpus(self, worker: int) -> Sequence[int] | None:
        return (0, 1, 3)

    def handed(self) -> Mapping[tuple[int, str], int]:
        return self.given

    def listeners(self) -> Sequence[ListenerSample]:
        return self.bound

    def leftovers(self) -> Sequence[int]:
        return self.left

    def reclaimed(self) -> Mapping[tuple[str, str], int]:
        return self.read_back

    def segments(self) -> Mapping[int, Segment]:
        return self.memory

    def ask(self, worker: int, round_: int) -> None:
        self.asked.append((worker, round_))

    def saturation(self) -> Mapping[str, float]:
        return {"web": self.full}

    def cgroup(self) -> tuple[float | None, int | None]:
        return self.throttled, self.oom_kills

    def loop_age(self) -> float:
        return self.age

    def overdue(self) -> float:
        return self.late

    def broken(self) -> str:
        return self.fault

    def crash_lines(self, worker: int) -> Sequence[str]:
        return self.lines.get(worker, [])

    def awaited(self, pool: str) -> str:
        return self.waits_for.get(pool, "")


@dataclass
class Steered:
    """What :class:`clusterd.ops.control.Controls` asks for, of a staged source: it does what it is told at once.

    Attributes:
        events: what it was told.
        audited: the audit lines.
        reloads: the pools of the reloads that were asked for.
        generation: what a reload is told to be.
        slow: what takes its time never ends.
        journal: where facts are told.
    """

    source: Staged
    events: list[e.Event] = field(default_factory=list)
    audited: list[dict[str, Any]] = field(default_factory=list)
    reloads: list[str] = field(default_factory=list)
    generation: int | None = 2
    slow: bool = False
    journal: Journal = field(default_factory=Journal)

    def command(self, event: e.Event) -> None:
        self.events.append(event)
        view = self.source.now_view
        (pool, *others) = view.pools
        match event:
            case e.Restart():
                for worker in pool.workers:
                    self.journal.fact(WorkerRecycled(worker.id, "web", worker.slot, "restart"))
            case e.StopPool():
                pool = replace(pool, stopped=True, workers=pool.workers if self.slow else ())
                self.source.now_view = replace(view, pools=(pool, *others))
            case e.StartPool():
                pool = replace(pool, stopped=False, wanted=pool.ready + self.slow)
                self.source.now_view = replace(view, pools=(pool, *others))
            case e.Hold(_, index) | e.Release(_, index) if not self.slow:
                held = isinstance(event, e.Hold)
                gone = {slot.worker for slot in pool.slots if slot.index == index and held}
                slots = tuple(
                    replace(slot, held=held, worker=None if held else slot.worker or index + 1)
                    if slot.index == index
                    else slot
                    for slot in pool.slots
                )
                workers = tuple(worker for worker in pool.workers if worker.id not in gone)
                if not held and all(worker.id != index + 1 for worker in workers):
                    workers += (worker_view(index + 1, index),)
                self.source.now_view = replace(view, pools=(replace(pool, slots=slots, workers=workers), *others))
            case e.Scale(name, by):
                pools = [replace(pool, wanted=pool.wanted + by) if pool.name == name else pool for pool in view.pools]
                self.source.now_view = replace(view, pools=tuple(pools))
            case e.Stop():
                self.source.now_view = replace(view, phase="draining")

    def stacks(self, worker: int, done: Callable[[str], None]) -> bool:
        known = any(one.id == worker for pool in self.source.now_view.pools for one in pool.workers)
        if known:
            asyncio.get_running_loop().call_soon(done, f"the stacks of {worker}")
        return known

    async def reload(self, pool: str) -> int | None:
        if pool not in ("", "web"):
            raise UsageError(f"there is no pool {pool}")
        self.reloads.append(pool)
        return self.generation

    async def asked(self) -> None:
        pass

    async def changes(self) -> list[Change]:
        return [Change("pools.web.workers", "2", "3", False), Change("log.level", '"info"', '"debug"', True)]

    def audit(self, action: str, **fields: Any) -> None:
        self.audited.append({"action": action, **fields})


def control(source: Staged, roles: Roles | None = None, journal: Journal | None = None) -> Answerer:
    """The answers of a control socket over this source."""
    return steered(Steered(source), roles, journal)


def steered(steer: Steered, roles: Roles | None = None, journal: Journal | None = None) -> Answerer:
    """Likewise, with what was changed to be looked at."""
    if journal is not None:
        steer.journal = journal
    made = Control(steer.source, ABOUT, steer, steer.journal, None, steer.audit)
    return made.answers(roles or Roles())
