"""Asking workers for the metrics that they compute, with a deadline: a page waits for nobody who is blocked."""

import asyncio

from clusterd.ops.appmetrics import AppMetrics
from clusterd.ops.source import ComputedFamily, Source

PATIENCE = 0.5
"""Seconds that a page waits for the answers; what comes later is for the next one. A scrape has 10 s as a rule."""


class Asking:
    """Who was asked, and has not answered yet.

    A worker that owes an answer is neither asked again nor waited for: it is blocked, and until it answers the page has
    what it told last.

    Args:
        source: where the workers are.
        app: what takes the answers in.
    """

    def __init__(self, source: Source, app: AppMetrics) -> None:
        self._source = source
        self._app = app
        self._round = 0
        self._owing: dict[int, int] = {}
        self._changed = asyncio.Event()

    async def ask(self, patience: float = PATIENCE) -> None:
        """Ask all who have something to compute, and wait for their answers, but not for ever."""
        self._round += 1
        for worker, segment in list(self._source.segments().items()):
            if segment.collects and worker not in self._owing:
                self._owing[worker] = self._round
                self._source.ask(worker, self._round)
        deadline = asyncio.get_running_loop().time() + patience
        try:
            async with asyncio.timeout_at(deadline):
                while self._round in self._owing.values():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def answered(self, worker: int, round_: int, families: list[ComputedFamily]) -> None:
        """A worker's answer. One that nobody asked for is passed over."""
        segment = self._source.segments().get(worker)
        if segment is not None and self._owing.get(worker) == round_:
            del self._owing[worker]
            self._app.computed(worker, segment, families)
            self._changed.set()

    def forget(self, worker: int) -> None:
        """A worker has ended, and owes nothing."""
        if self._owing.pop(worker, None) is not None:
            self._changed.set()
