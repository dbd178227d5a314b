"""``python -m clusterd.worker.hooks MODULE:FUNCTION CHANNEL PRIMARY``: the process in which ``on_message`` runs.

The function is called with each message of the pool's workers: ``handle(worker, message)``, where ``worker`` has
``id``, ``pool``, ``slot`` and ``send(message)``. It may be a coroutine function. What it raises is printed, and the
next message comes all the same. The process ends with the primary, whatever the function is at: its answers would
reach nobody.
"""

import asyncio
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..unix import process
from ..unix.stream import FdStream
from ..wire.channel import Channel, Received
from ..wire.conversation import Conversation

EXIT_BOOT = 3


@dataclass(frozen=True, slots=True)
class Worker:
    """Who has said it.

    Attributes:
        id: its number, never used twice.
        pool: its pool's name.
        slot: its place there.
    """

    id: int
    pool: str
    slot: int
    _talk: Conversation = field(repr=False)

    def send(self, message: Any) -> None:
        """Send it a message; of one that is gone it is dropped."""
        self._talk.send({"worker": self.id, "message": message})


def load(target: str) -> Callable[..., Any]:
    """The function; the working directory is first on ``sys.path``."""
    if os.getcwd() not in sys.path[:1]:
        sys.path.insert(0, os.getcwd())
    module, _, name = target.partition(":")
    function: Any = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{target} is a {type(function).__name__} and cannot be called")
    return function  # type: ignore[no-any-return]


async def listen(function: Callable[..., Any], sock: socket.socket) -> None:
    """Call the function with what comes, until the primary is gone."""
    loop = asyncio.get_running_loop()
    gone = loop.create_future()
    running: set[asyncio.Task[Any]] = set()

    def heard(received: Received) -> None:
        if received.fd is not None:
            os.close(received.fd)
        said = received.message
        try:
            result = function(Worker(said["worker"], said["pool"], said["slot"], talk), said["message"])
        except Exception:
            traceback.print_exc()
            return
        if asyncio.iscoroutine(result):
            task = loop.create_task(result)
            running.add(task)
            task.add_done_callback(ended)

    def ended(task: asyncio.Task[Any]) -> None:
        running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            traceback.print_exception(error)

    def over() -> None:
        if not gone.done():
            gone.set_result(None)

    talk = Conversation(Channel(), heard, lambda error: over())
    talk.attach(FdStream(loop, sock, talk.data, over))
    await gone
    talk.close()


def main(target: str, number: str, primary_pid: str) -> None:
    """Be the process."""
    process.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != int(primary_pid):
        return
    sock = socket.socket(fileno=int(number))
    sock.set_inheritable(False)
    try:
        function = load(target)
    except Exception:
        traceback.print_exc()
        raise SystemExit(EXIT_BOOT) from None
    asyncio.run(listen(function, sock))


if __name__ == "__main__":
    main(*sys.argv[1:4])
