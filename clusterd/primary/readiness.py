"""When a worker of a script pool is ready, where it is not its servers or messages that say so (``ready_when``).

``notify``: it says ``READY=1`` on a socket of its own, as a systemd service would. ``running``: it has run for
``restart.rapid_exit``, which is all that can be seen of a program that says nothing. ``http:/path`` is asked from
outside (``ops.probe``).
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final, Protocol

from ..config.schema import Pool
from ..errors import HostError
from ..unix import spawn
from ..unix.notified import Notified

MESSAGES_A_TURN: Final = 16
"""Messages read from one program in one turn of the loop."""


def awaited(pool: Pool) -> str:
    """What makes a worker of this pool ready, in words that follow "it was waited for"; empty where it is no script."""
    if not pool.script:
        return ""
    if pool.ready_when.startswith("http:"):
        return f'a 2xx answer to GET {pool.ready_when.removeprefix("http:")} (ready_when = "{pool.ready_when}")'
    ways = {
        "auto": 'it to listen, or to send "ready" or {"type":"READY"}',
        "listening": "it to listen",
        "message": 'it to send "ready" or {"type":"READY"}',
        "notify": "READY=1 on its NOTIFY_SOCKET",
        "running": f"it to have run for restart.rapid_exit, {pool.restart.rapid_exit:g} s",
    }
    return f'{ways[pool.ready_when]} (ready_when = "{pool.ready_when}")'


class Worker(Protocol):
    """A worker, as far as this is concerned with it.

    Attributes:
        notified: where it says that it is ready, if it says it so.
    """

    id: int
    ready: bool
    notified: Notified | None


class Readiness:
    """Waits for those that are not ready yet.

    Args:
        loop: the primary's.
        on_ready: called with a worker that is ready; may be called again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ready: Callable[[int], None]) -> None:
        self._loop = loop
        self._on_ready = on_ready
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def begin(self, worker: Worker, pool: Pool) -> None:
        """It exists."""
        if worker.notified is not None:
            heard = {0, os.getuid(), _uid(pool)}
            self._loop.add_reader(worker.notified, self._read, worker, worker.notified, heard)
        elif pool.ready_when == "running" and not worker.ready:
            self._timers[worker.id] = self._loop.call_later(pool.restart.rapid_exit, self._has_run, worker.id)

    def end(self, worker: Worker) -> None:
        """It exists no more. Harmless when repeated."""
        timer = self._timers.pop(worker.id, None)
        if timer is not None:
            timer.cancel()
        if worker.notified is not None:
            if worker.notified.fileno() >= 0:
                self._loop.remove_reader(worker.notified)
            worker.notified.close()

    def _has_run(self, worker: int) -> None:
        del self._timers[worker]
        self._on_ready(worker)

    def _read(self, worker: Worker, notified: Notified, heard: set[int]) -> None:
        for _ in range(MESSAGES_A_TURN):
            try:
                message = notified.receive()
            except OSError:
                return  # no memory for it now
            if message is None:
                return
            uid, lines = message
            if uid in heard and "READY=1" in lines:
                self._on_ready(worker.id)


def _uid(pool: Pool) -> int:
    try:
        who = spawn.identity(pool.user or None, pool.group or None)
    except HostError:  # whom it runs as has been deleted since
        return os.getuid()
    return os.getuid() if who is None else who.uid
