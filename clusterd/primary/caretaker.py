"""A fork of the primary that hands connections on while the primary replaces its own code.

It does the one thing that cannot wait a tenth of a second: accept, choose the next worker in turn, post. It holds
nothing, knows no rules, and ends when the successor closes its end of a pipe, or dies. Both may accept at the same
time: each connection goes to one of them, and both post into the same mailboxes.
"""

import os
import select
import time
from collections.abc import Iterable, Sequence
from typing import Final

from ..unix import process, sockets
from ..unix.mail import Posted
from ..wire import mail as letters
from .dispatch import Box, Dispatch
from .shared import Shared

PAUSE_MS: Final = 5
"""Milliseconds until it looks again where no worker has room."""

LONGEST: Final = 60.0
"""Seconds after which it ends whatever happens: a successor needs a tenth of one."""


def fork(queues: Iterable[Dispatch | Shared]) -> tuple[int, int]:
    """Fork it.

    Args:
        queues: whose connections it hands on; from those that are shared workers accept by themselves.

    Returns:
        Its pid, and the descriptor that keeps it going: inheritable, for the successor to close.

    Raises:
        OSError: EMFILE, ENFILE, EAGAIN or ENOMEM.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_inheritable(writing, True)
        pid = os.fork()  # noqa: TID251  # it runs a dozen lines that take no lock
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise
    if pid == 0:
        try:
            os.close(writing)
            process.title("clusterd: caretaker")
            _care([one for one in queues if isinstance(one, Dispatch) and _can_serve(one)], reading)
        finally:
            os._exit(0)
    os.close(reading)
    return pid, writing


def _can_serve(dispatch: Dispatch) -> bool:
    """Into mailboxes it can post; a worker without one is handed connections over its channel, which has one writer:
    those wait in the kernel's queue for the successor."""
    return dispatch.sock.fileno() >= 0 and any(box.fd >= 0 for box in dispatch.boxes)


def _care(dispatches: Sequence[Dispatch], until: int) -> None:
    poll = select.poll()
    poll.register(until, 0)  # POLLHUP is always told
    turns = {one.sock.fileno(): _Turn(one) for one in dispatches}
    for fd in turns:
        poll.register(fd, select.POLLIN)
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        for fd, _ in poll.poll(1000):
            if fd == until:
                return
            if not turns[fd].serve():
                select.select([], [], [], PAUSE_MS / 1000)


class _Turn:
    """One listener's rotation; it goes on where the primary's stands."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._sock = dispatch.sock
        self._boxes = [box for box in dispatch.in_turn() if box.fd >= 0 and not box.robbed]
        self._next = 0

    def serve(self) -> bool:
        """Accept one connection and hand it on; false if nobody has room, or the kernel is short of something."""
        box = self._choose()
        if box is None:
            return False
        try:
            accepted = sockets.accept(self._sock)
        except OSError:
            return False
        if accepted is None:
            return True  # the successor was faster
        fd, address = accepted
        host, port = (address[0], address[1]) if isinstance(address, tuple) else ("", 0)
        letter = letters.pack(host, port, time.monotonic_ns())
        while box is not None and box.outbox.post(letter, fd) is not Posted.SENT:
            self._boxes.remove(box)  # broken, or short of room for descriptors: another has some
            box = self._choose()
        os.close(fd)
        return True

    def _choose(self) -> Box | None:
        """The next in turn that is empty, else the next that has room."""
        count = len(self._boxes)
        order = [self._boxes[(self._next + step) % count] for step in range(count)]
        queued = {id(box): box.outbox.queued() for box in order}
        found = next((box for box in order if not queued[id(box)]), None)
        found = found or next((box for box in order if queued[id(box)] < box.outbox.limit), None)
        if found is not None:
            self._next = (self._boxes.index(found) + 1) % count
        return found
