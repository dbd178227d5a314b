"""A fork of the primary that hands connections on while the primary replaces its own code.

It does the one thing that cannot wait a tenth of a second: accept, choose the next worker in turn, post. It holds
nothing, knows no rules, and ends when the successor closes its end of a pipe, or dies. Both may accept at the same
time: each connection goes to one of them, and both post into the same mailboxes. Its last word is how many it has
posted, for the books.
"""

import asyncio
import os
import select
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..unix import process, sockets
from ..unix.mail import Posted
from ..wire import mail as letters
from .box import Box
from .dispatch import Dispatch
from .rotation import Rotation
from .shared import Shared

PAUSE_MS: Final = 5
"""Milliseconds until it looks again where no worker has room."""

LONGEST: Final = 60.0
"""Seconds after which it ends whatever happens: a successor needs a tenth of one."""

LAST: Final = 5.0
"""Seconds in which it finds somebody for what it still holds when the successor has come."""

_ENTRY: Final = struct.Struct("=iI")
"""The descriptor of a mailbox, and how many were posted there."""


def fork(queues: Iterable[Dispatch | Shared]) -> tuple[int, int, int]:
    """Fork it.

    Args:
        queues: whose connections it hands on; from those that are shared workers accept by themselves.

    Returns:
        Its pid, the descriptor that keeps it going, for the successor to close, and the one from which that is told at
        the end how many it has handed on (:func:`hear`): both inheritable.

    Raises:
        OSError: EMFILE, ENFILE, EAGAIN or ENOMEM.
    """
    pipes: list[int] = []
    try:
        pipes += os.pipe2(os.O_CLOEXEC)
        pipes += os.pipe2(os.O_CLOEXEC)
        until, going, counts, telling = pipes
        for fd in (going, counts):
            os.set_inheritable(fd, True)
        pid = os.fork()  # noqa: TID251  # it runs a dozen lines that take no lock
    except BaseException:
        for fd in pipes:
            os.close(fd)
        raise
    if pid == 0:
        try:
            os.close(going)
            os.close(counts)
            process.title("clusterd: caretaker")
            posted = _care([one for one in queues if isinstance(one, Dispatch) and _can_serve(one)], until)
            os.write(telling, b"".join(map(_ENTRY.pack, posted.keys(), posted.values())))
        finally:
            os._exit(0)
    os.close(until)
    os.close(telling)
    return pid, going, counts


def hear(loop: asyncio.AbstractEventLoop, fd: int, boxes: Mapping[int, Box]) -> None:
    """In the successor: put into the books, when it says so, what it has handed on. Of one that was killed nothing.

    Args:
        fd: from :func:`fork`; it is closed at the end.
        boxes: by descriptor, those that were left.
    """
    os.set_blocking(fd, False)
    told = bytearray()

    def read() -> None:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        told.extend(data)
        if not data:
            loop.remove_reader(fd)
            os.close(fd)
            for writing, count in _ENTRY.iter_unpack(bytes(told[: len(told) - len(told) % _ENTRY.size])):
                if writing in boxes:
                    boxes[writing].handed += count

    loop.add_reader(fd, read)


def _can_serve(dispatch: Dispatch) -> bool:
    """Into mailboxes it can post; a worker without one is handed connections over its channel, which has one writer:
    those wait in the kernel's queue for the successor."""
    return dispatch.sock.fileno() >= 0 and any(box.fd >= 0 for box in dispatch.boxes)


def _care(dispatches: Sequence[Dispatch], until: int) -> Counter[int]:
    """Until the other end of ``until`` is closed; returns how many it has posted, by the mailbox's descriptor."""
    posted: Counter[int] = Counter()
    poll = select.poll()
    poll.register(until, 0)  # POLLHUP is always told
    turns = {one.sock.fileno(): _Turn(one, posted) for one in dispatches}
    for fd in turns:
        poll.register(fd, select.POLLIN)
    end, over = time.monotonic() + LONGEST, False
    while time.monotonic() < end and not (over and not any(turn.holds for turn in turns.values())):
        for fd, _ in poll.poll(PAUSE_MS if any(turn.holds for turn in turns.values()) else 1000):
            if fd == until:
                over, end = True, time.monotonic() + LAST
                for every in (until, *turns):
                    poll.unregister(every)
                break
            if not turns[fd].serve():
                select.select([], [], [], PAUSE_MS / 1000)
        for turn in turns.values():
            if turn.holds:
                turn.post()
    return posted


class _Turn:
    """One listener's rotation; it goes on where the primary's stands."""

    def __init__(self, dispatch: Dispatch, posted: Counter[int]) -> None:
        self._posted = posted
        self._sock = dispatch.sock
        self._rotation = Rotation(box for box in dispatch.in_turn() if box.fd >= 0 and not box.robbed)
        for box in self._rotation.boxes:
            box.doubt()  # the successor posts too
        self._held: tuple[bytes, int] | None = None

    @property
    def holds(self) -> bool:
        """It has accepted a connection for which nobody had room then, after all."""
        return self._held is not None

    def serve(self) -> bool:
        """Accept one connection and hand it on; false if nobody has room, or the kernel is short of something."""
        if self._held is not None or self._rotation.choose() is None:
            return False
        try:
            accepted = sockets.accept(self._sock)
        except OSError:
            return False
        if accepted is None:
            return True  # the successor was faster
        fd, address = accepted
        self._held = letters.of(address, time.monotonic_ns()), fd
        return self.post()

    def post(self) -> bool:
        """Hand on what is held; false if nobody has room for it now: it cannot be put back into the kernel's queue."""
        assert self._held is not None
        letter, fd = self._held
        while (box := self._rotation.choose()) is not None:
            match box.outbox.post(letter, fd):
                case Posted.SENT:
                    self._posted[box.fd] += 1
                    self._rotation.next = self._rotation.after
                    self._held = None
                    os.close(fd)
                    return True
                case Posted.BROKEN:
                    self._rotation.remove(box.worker)
                case _:
                    return False
        return False
