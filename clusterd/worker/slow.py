"""Requests that take long: a thread looks at what is under way, and tells once where each of them is.

A thread and no timer, for what makes a request slow is often that it holds up the event loop. It only looks: at the
frames of what runs and of what waits. Nothing of it is there while ``slow_request`` is 0.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import Context, ContextVar
from functools import partial
from time import monotonic_ns
from types import FrameType
from typing import Any, Final

from ..wire import reports

LOOKS: Final = 4
"""Looks within the threshold: a request is told of at most this part of it late."""

MOST_OFTEN: Final = 0.02
"""Seconds between two looks, at least."""

SERVERS: Final = ("uvicorn", "clusterd")
"""Packages whose frames stand above the app's own and say nothing."""

MOST_FRAMES: Final = 60
MOST_AT_ONCE: Final = 20
"""Requests told of in one look: a worker that stands still has hundreds that are slow for the same reason."""

_request: ContextVar[Any] = ContextVar("request")


async def watched(cycle: Any, run: Awaitable[None]) -> None:
    """Run a request so that threads that work for it can be told: they get a copy of its context."""
    _request.set(cycle)
    await run


class Watch:
    """The thread.

    Args:
        loop: the worker's, whose thread calls this.
        tasks: those of requests; uvicorn's set.
        threshold: seconds.
        tell: called with the message to the primary, on the loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tasks: "set[asyncio.Task[Any]]",
        threshold: float,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._threshold_ns = int(threshold * 1e9)
        self._every = max(threshold / LOOKS, MOST_OFTEN)
        self._tell = tell
        self._of_loop = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clusterd-slow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._look()
            except RuntimeError:
                continue  # a collection changed under our eyes, or the loop is closed and we end soon

    def _look(self) -> None:
        now = monotonic_ns()
        told = 0
        for task in list(self._tasks):
            coroutine: Any = task.get_coro()
            frame = getattr(coroutine, "cr_frame", None)
            cycle = None if frame is None else frame.f_locals.get("cycle")
            if cycle is None or cycle.response_complete or getattr(cycle, "told_slow", False):
                continue
            if now - cycle.began_ns < self._threshold_ns or told >= MOST_AT_ONCE:
                continue
            cycle.told_slow = True
            told += 1
            where, frames = self._where(cycle, coroutine)
            stack = "".join(traceback.format_list(traceback.StackSummary.extract(frames))).rstrip()
            slow = reports.SlowRequest(
                str(cycle.scope.get("method", "")),
                str(cycle.scope.get("path", "")),
                round((now - cycle.began_ns) / 1e9, 3),
                where,
                stack,
            )
            self._loop.call_soon_threadsafe(self._tell, reports.slow_request(slow))

    def _where(self, cycle: Any, coroutine: Any) -> tuple[str, list[tuple[FrameType, int]]]:
        """What has the request in hand, and its frames, the innermost last."""
        threads = sys._current_frames()
        running = list(_frames(threads.pop(self._of_loop, None)))
        if coroutine.cr_frame in running:
            return "loop", _lines(running[: running.index(coroutine.cr_frame)])
        threads.pop(threading.get_ident(), None)
        for innermost in threads.values():
            frames = list(_frames(innermost))
            for depth, frame in enumerate(frames):
                if any(_is_of(cycle, value) for value in list(frame.f_locals.values())):
                    return "thread", _lines(frames[:depth])
        return "task", _lines(list(_awaiting(coroutine))[::-1])


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaiting(awaited: Any) -> Iterator[FrameType]:
    """What a coroutine awaits, and that, and so on; from the outermost inwards."""
    for _ in range(MOST_FRAMES):
        for kind, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if isinstance(frame, FrameType):
                yield frame
                awaited = getattr(awaited, inner)
                break
        else:
            return


def _is_of(cycle: Any, value: Any) -> bool:
    """Whether this is, or calls something in, a copy of the request's context (anyio's and asyncio's ``to_thread``)."""
    call = getattr(value, "fn", value) if type(value).__name__ == "_WorkItem" else value
    if type(call) is partial:
        call = getattr(call.func, "__self__", None)
    return type(call) is Context and call.get(_request) is cycle


def _lines(frames: Iterable[FrameType]) -> list[tuple[FrameType, int]]:
    """The frames with their lines, outermost first, without the plumbing of servers above the app."""
    found = [(frame, frame.f_lineno) for frame in list(frames)[:MOST_FRAMES]][::-1]
    return [one for one in found if one[0].f_globals.get("__name__", "").partition(".")[0] not in SERVERS]
