"""A listener from which the workers accept by themselves: the scheduling ``none``.

The primary keeps the socket, so that the kernel's queue outlives any worker, and touches no connection. It can take
nothing back from a worker that hangs: what that one has accepted is its own, what it has not is for all.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from ..unix import sockets, synfilter

LOOK_EVERY: Final = 0.01
"""Seconds between two looks at the queue while it empties for the end."""


class Shared:
    """One such listener; stands beside :class:`~clusterd.primary.dispatch.Dispatch`.

    Args:
        loop: the primary's loop.
        name: the listener's.
        sock: the listening socket, owned from here on.
        inherited: the socket is shared with whoever passed it: it goes on listening when we have closed our end.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, sock: socket.socket, *, inherited: bool = False
    ) -> None:
        self.name = name
        self.sock = sock
        self._loop = loop
        self._inherited = inherited
        self.workers: set[int] = set()
        self._closed: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._empty_seen = 0

    def lend(self) -> int:
        """A descriptor of the socket for a worker to be; the caller closes it.

        Raises:
            OSError: EMFILE, ENFILE; or the listener is closed (EBADF).
        """
        return self.sock.dup().detach()

    def add(self, worker: int) -> None:
        """The worker accepts from now on."""
        self.workers.add(worker)

    def remove(self, worker: int) -> None:
        """The worker is told to stop, or has ended."""
        self.workers.discard(worker)

    def close(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Let the workers empty the queue, then close the socket for all of them.

        Args:
            hand_on: false closes at once; asked while a close is under way, it hurries that.
            done: called once, from the loop.
        """
        first = self._closed is None
        if first:
            self._closed = done
        if first and not self._inherited:
            synfilter.refuse_new(self.sock)
        if not hand_on or self._inherited:  # the queue of an inherited one is there for whoever serves it next
            self._finish_close()
        elif first:
            self._look()

    def _look(self) -> None:
        """Empty twice: the second time for those whose handshake the first one overlapped."""
        self._timer = None
        try:
            waiting = sockets.accept_queue(self.sock.fileno())[0] if self.workers else 0
        except OSError:
            waiting = 0
        self._empty_seen = 0 if waiting else self._empty_seen + 1
        if self._empty_seen >= 2 or not self.workers:
            self._finish_close()
        else:
            self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def _finish_close(self) -> None:
        if self.sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._inherited:
            try:
                # For all who hold it: a worker that hangs must not keep a port open that nobody serves.
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sock.close()
        done, self._closed = self._closed, lambda: None
        if done is not None:
            self._loop.call_soon(done)

    def discard(self) -> int:
        """At the very end: nothing is held here; returns 0."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return 0
