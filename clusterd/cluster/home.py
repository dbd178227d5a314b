"""The event loop that a process's ``cluster`` lives on: the one that runs, or one of its own until ``run`` runs it."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..worker import ending
from ..worker.loops import sharing
from ..worker.sharing import Shares

T = TypeVar("T")

WIND_UP = 5.0
"""Seconds that tasks get which were cancelled because the program ends."""


class Home:
    """Which loop, and who runs it.

    Args:
        shares: gives what this worker shares; ``None`` in a primary.
        on_move: called with the loop when it becomes another.
    """

    def __init__(
        self, shares: Callable[[], Shares | None], on_move: Callable[[asyncio.AbstractEventLoop], None]
    ) -> None:
        self._shares = shares
        self._on_move = on_move
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        running = asyncio._get_running_loop()
        if self._loop is None:
            self._loop = running or self.make(asyncio.SelectorEventLoop)
        elif running is not None and running is not self._loop and not self._loop.is_running():
            self._loop = running
            self._on_move(running)
        return self._loop

    def make(self, loop_class: type[asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
        """A new loop whose servers share through the primary."""
        return sharing(loop_class, self._shares)()

    @property
    def threaded(self) -> bool:
        """The loop runs in a thread of its own."""
        return self._thread is not None

    def run(self, main: Coroutine[Any, Any, T], loop_class: type[asyncio.AbstractEventLoop] | None) -> T:
        """Run the loop until ``main`` has ended; then end what is left on it.

        Raises:
            RuntimeError: a loop runs already.
        """
        if asyncio._get_running_loop() is not None:
            main.close()
            raise RuntimeError("cluster.run() cannot be called while an event loop runs; await what it would run")
        self._stop_thread()
        if loop_class is not None and (self._loop is None or not isinstance(self._loop, loop_class)):
            old, self._loop = self._loop, self.make(loop_class)
            self._on_move(self._loop)
            if old is not None:
                old.close()
        loop = self.loop()
        asyncio.set_event_loop(loop)
        task = loop.create_task(main)
        interrupted = False
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._wind_up(loop)
            if interrupted:
                ending.by_signal(signal.SIGINT)  # as Node's programs end by it: Ctrl-C reaches all of them
        raise AssertionError("by_signal does not return")

    def _wind_up(self, loop: asyncio.AbstractEventLoop) -> None:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        for _ in range(len(left) + 1):  # a task may end by SystemExit, which ends the loop's run and not the others
            try:
                loop.run_until_complete(_wait(loop, left))
                break
            except (SystemExit, KeyboardInterrupt):
                continue
        asyncio.set_event_loop(None)
        self._loop = None

    def start_thread(self) -> asyncio.AbstractEventLoop:
        """Run the loop in a thread, beside a program that has none. Once is enough."""
        if self._thread is None:
            loop = self.loop()
            if loop.is_running():
                raise RuntimeError("an event loop runs here; use the coroutine functions of cluster")
            self._thread = threading.Thread(target=self._run_forever, args=(loop,), name="clusterd", daemon=True)
            self._thread.start()
        assert self._loop is not None
        return self._loop

    def _stop_thread(self) -> None:
        """The loop goes on in this thread."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    @staticmethod
    def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()


async def _wait(loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[Any]]) -> None:
    """Wait for tasks that were cancelled, and for asynchronous generators, a few seconds at most."""
    if tasks:
        await asyncio.wait(tasks, timeout=WIND_UP)
    await loop.shutdown_asyncgens()
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            loop.call_exception_handler({"message": "a task failed while it was ended", "exception": error})
