"""``EXTEND_TIMEOUT_USEC=`` to the service manager while a start, a reload or a drain really proceeds (sd_notify(3)).

The manager's own time limits stand for one that hangs. A start proceeds when a slot reaches a stage that it never had
reached: a retry is no progress, and an import without ``start_timeout`` may never end. So does a reload, where a stage
may also have to wait for a drain, or for the canary. A drain proceeds while requests are answered, connections close or
workers end.
"""

import asyncio
from collections.abc import Mapping

from clusterd.core import facts as f
from clusterd.ops.notify import Sends
from clusterd.ops.source import Source

LOOK = 2.0
"""Seconds between two looks at a drain."""

SPAN = 10.0
"""Seconds that progress buys, beyond what the next stage may take by the configuration."""


class Patience:
    """Asks the manager for it. Lives in the primary's loop.

    Args:
        notifier: where to.
        source: what is looked at while a drain is on.
        start_timeouts: by pool, seconds that each stage of a start may take; 0 is unbounded.
        lame_duck: seconds from the order to stop until the drain begins.
        drain: seconds that a worker which is replaced may take to end; 0 is unbounded.
    """

    def __init__(
        self,
        notifier: Sends,
        source: Source,
        start_timeouts: Mapping[str, float],
        lame_duck: float,
        drain: float = 0.0,
    ) -> None:
        self._notifier = notifier
        self._source = source
        self._start_timeouts = start_timeouts
        self._lame_duck = lame_duck
        self._drain = drain
        self._starting = True
        self._reloading = False
        self._reached: set[tuple[str, str, int, int]] = set()
        self._seen: tuple[int, ...] = ()
        self._next: asyncio.TimerHandle | None = None

    def fact(self, fact: f.Fact) -> None:
        """Takes in what has become true."""
        if not self._notifier.available:
            return
        match fact:
            case f.ZygoteStarted() | f.ZygoteIsReady():
                self._stage(type(fact).__name__, fact.pool, fact.generation, -1)
            case f.WorkerReady():
                self._stage("ready", fact.pool, fact.generation, fact.slot)
            case f.ServiceReady(first=True):
                self._starting = False
            case f.ReloadBegan():
                self._reloading = True
            case f.CanaryBegan():
                self._ask(fact.watched_for + SPAN)
            case f.ReloadEnded():
                self._reloading = False
            case f.StopBegan(now=False):
                self._starting = self._reloading = False
                self._ask(self._lame_duck + SPAN)
                self._look()
            case f.Stopped():
                self.close()

    def close(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _stage(self, name: str, pool: str, generation: int, slot: int) -> None:
        stage = (name, pool, generation, slot)
        may_take = self._start_timeouts.get(pool, 0.0)
        if (self._starting or self._reloading) and may_take and stage not in self._reached:
            self._reached.add(stage)
            self._ask(may_take + (self._drain if self._reloading else 0.0) + SPAN)

    def _look(self) -> None:
        """Whether the drain has come further since the last look."""
        view, samples = self._source.view(), self._source.samples()
        living = {worker.id for pool in view.pools for worker in pool.workers}
        rows = [samples[worker].row for worker in living if worker in samples]
        answered = sum(value for row in rows for word, value in row.items() if word.startswith("requests_"))
        seen = (len(living), answered, sum(row.get("connections_open", 0) for row in rows))
        if self._seen and seen != self._seen:
            self._ask(SPAN)
        self._seen = seen
        self._next = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _ask(self, seconds: float) -> None:
        self._notifier.send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")
