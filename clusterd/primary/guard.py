"""What looks at the container's limits once a second: memory that runs out, CPUs that are given or taken away."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from ..config.policies import as_many_as
from ..config.schema import Config
from ..core import events as e
from ..unix import cgroup
from .memory import Advice, GiveUp, Guard, Leak, Replace, Weight

#: Seconds between two looks, and from three quarters of the first threshold on: a worker can fill the rest in a second.
EVERY = 1.0
SOON = 0.2
NEAR = 0.75

#: Looks between two at the CPUs, which nobody changes every second.
CPU_EVERY = 2


class Watch:
    """Feeds the core what the control group makes necessary.

    Args:
        loop: the primary's loop.
        config: gives the configuration that is in force.
        weights: weighs the living workers.
        report: takes events for the core.
        warn: called with an event name, a sentence and fields.
        root: where the file systems are, as of :func:`cgroup.cpu_count`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Callable[[], Config],
        weights: Callable[[], list[Weight]],
        report: Callable[[e.Event], None],
        warn: Callable[..., None],
        root: Path = Path("/"),
    ) -> None:
        self._loop = loop
        self._config = config
        self._weights = weights
        self._report = report
        self._warn = warn
        self._root = root
        self._memory = cgroup.Memory(root)
        self._guard = Guard(0.0, 0.0)
        self._cpus = cgroup.cpu_count(root)
        self._looks = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The first look is now."""
        if self._config().memory.guard is True and self._memory.usage() is None:
            self._warn("memory_unguarded", "memory.guard is true, but nothing limits this service's memory")
        self._look()

    def stop(self) -> None:
        """No more looks. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        near = self._look_at_memory()
        if self._looks % CPU_EVERY == 0:
            self._look_at_cpus()
        self._looks += 1
        self._timer = self._loop.call_later(SOON if near else EVERY, self._look)

    def _look_at_memory(self) -> bool:
        """True near the limit."""
        thresholds = self._config().memory
        self._guard.soft, self._guard.hard = thresholds.soft, thresholds.hard
        usage = self._memory.usage() if thresholds.guard else None
        for advice in self._guard.look(self._loop.time(), usage, self._weights()):
            self._follow(advice)
        first = self._guard.soft or self._guard.hard
        return usage is not None and first > 0 and usage.used >= NEAR * first * usage.limit

    def _follow(self, advice: Advice) -> None:
        match advice:
            case Replace(worker, why):
                self._warn("memory_pressure", f"{why}; it is replaced", worker=worker)
                self._report(e.Recycle(worker, why))
            case GiveUp(worker, why):
                self._warn("memory_pressure", f"{why}; it is killed", worker=worker)
                self._report(e.MemoryKill(worker))
            case Leak(worker, rate, why):
                self._warn("memory_leak", why, worker=worker, bytes_per_second=round(rate))

    def _look_at_cpus(self) -> None:
        """Pools follow a change of the CPUs, and not the number itself: an operator may have scaled them since."""
        cpus = cgroup.cpu_count(self._root)
        if cpus == self._cpus:
            return
        was, self._cpus = self._cpus, cpus
        following = {name: pool for name, pool in self._config().pools.items() if pool.workers == "auto"}
        who = f"pools that follow: {', '.join(following)}" if following else 'no pool has workers = "auto"'
        self._warn("cpus_changed", f"this service may use {cpus} CPUs now, and not {was}; {who}", cpus=cpus)
        for name, pool in following.items():
            self._report(e.ScaleTo(name, as_many_as(cpus, pool)))
