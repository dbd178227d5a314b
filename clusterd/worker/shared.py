"""Taking connections from listening sockets that all workers share: ``scheduling = "none"``.

Who accepts first has it. A connection that no worker has accepted lies in the kernel's queue, which is the primary's
too: it outlives every worker. How many a worker has accepted and not read is bounded by nothing; it accepts one in a
turn of its loop, so that those of a worker whose turns are long go to others.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from ..unix.sockets import EXHAUSTED, accept
from ..wire.rows import ACCEPTED, Row
from .options import Door, Inboxed
from .sockets import handed

RETRY_AFTER: Final = 0.1
"""Seconds without accepting while this process is short of descriptors or the kernel of memory."""

TELL_AFTER: Final = 60.0
"""Seconds without a shortage after which the next one is news."""

_TAKEN: Final = int(Row.CONNECTIONS_TAKEN)

logger = logging.getLogger("clusterd")


class Accepted:
    """The token of a connection that nobody bounds: see :class:`clusterd.worker.mailbox.Taken`."""

    __slots__ = ()
    bounded = False

    def read(self) -> None:
        """Of no consequence here."""


_ACCEPTED: Final = Accepted()
VISIT: Final = _ACCEPTED
"""… and of one that came by the control channel, for this worker alone."""


class _Source:
    """One listening socket."""

    __slots__ = ("door", "family", "kind", "name", "plain", "proto", "sock", "word")

    def __init__(self, box: Inboxed, word: int) -> None:
        self.name = box.name
        self.door = box.door
        self.plain = box.door.plain
        self.sock = socket.socket(fileno=box.fd)
        self.family, self.kind, self.proto = int(self.sock.family), int(self.sock.type), self.sock.proto
        self.word = word


class Accepting:
    """Accepts for one worker, on its event loop.

    Args:
        loop: the worker's.
        boxes: the listening sockets; their descriptors are closed by ``stop``.
        on_connection: called with each connection, its token and its door. The socket is blocking. What it raises
            closes that connection and is logged.
        on_end: called once, when no more will be accepted.
        words: the worker's row of the scoreboard.
        on_plain: called instead, with descriptor and family, for each that comes plain; it owns what it is given.

    Attributes:
        ended: no more connections will come.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        boxes: Sequence[Inboxed],
        on_connection: Callable[[socket.socket, Accepted, Door], None],
        on_end: Callable[[], None],
        words: memoryview,
        on_plain: Callable[[int, int], None] | None = None,
    ) -> None:
        self.ended = not boxes
        self._loop = loop
        self._sources = [_Source(box, int(ACCEPTED) + number) for number, box in enumerate(boxes)]
        self._on_connection = on_connection
        self._on_plain = on_plain
        self._on_end = on_end
        self._words = words
        self._retry: asyncio.TimerHandle | None = None
        self._short_at = -TELL_AFTER
        self._watching = False

    def start(self) -> None:
        """Begin to accept."""
        if not self._watching and not self.ended:
            self._watching = True
            for source in self._sources:
                self._loop.add_reader(source.sock, self._readable, source)

    def stop(self, *, take_all: bool = False) -> None:
        """Accept no more. Idempotent.

        Args:
            take_all: nobody else has the queue any more, for the primary is dead: accept what is in it first.
        """
        self._unwatch()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if take_all and self._sources:
            self._take_all(2)
        else:
            self._close()

    def _close(self) -> None:
        for source in self._sources:
            source.sock.close()
        self._sources = []
        if not self.ended:
            self.ended = True
            self._on_end()

    def _take_all(self, looks: int) -> None:
        """Until all queues were empty ``looks`` times: the last time for those whose handshake the first overlapped."""
        try:
            found = any(self._accept(source) for source in self._sources)
        except OSError:
            found = False  # no descriptor is free; waiting for one would hold up the drain
        if found or looks > 1:
            self._loop.call_soon(self._take_all, looks if found else looks - 1)
        else:
            self._close()

    def _readable(self, source: _Source) -> None:
        try:
            self._accept(source)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._pause(error)
            else:  # the primary has shut it down: nothing comes through it any more
                self._loop.remove_reader(source.sock)
                self._sources.remove(source)
                source.sock.close()
                if not self._sources:
                    self._close()

    def _accept(self, source: _Source) -> bool:
        """Accept one; whether there was one.

        All workers are woken for each connection, and one gets it: to ask first whether it is still there would spare
        the others half of their vain accept, and cost a busy service more than it spares.

        Raises:
            OSError: as :func:`clusterd.unix.sockets.accept`.
        """
        # The open file description is shared with every worker and may be so with whoever passed the socket: one who
        # makes it blocking would have the loser of a race for a connection wait in accept.
        source.sock.setblocking(False)
        accepted = accept(source.sock)
        if accepted is None:
            return False
        words = self._words
        words[_TAKEN] += 1
        words[source.word] += 1
        try:
            if source.plain and self._on_plain is not None:
                self._on_plain(accepted[0], source.family)
            else:
                self._hand_over(source, accepted[0])
        except Exception:
            logger.exception("a connection of %s could not be served", source.name)
        return True

    def _hand_over(self, source: _Source, fd: int) -> None:
        sock = handed(source.family, source.kind, source.proto, fd)
        try:
            self._on_connection(sock, _ACCEPTED, source.door)
        except BaseException:
            sock.close()
            raise

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            for source in self._sources:
                self._loop.remove_reader(source.sock)

    def _pause(self, error: OSError) -> None:
        """Others accept meanwhile. At the limit each connection that ends lets one in: that is told once."""
        self._unwatch()
        now = monotonic()
        before, self._short_at = self._short_at, now
        if now - before > TELL_AFTER:
            why = os.strerror(error.errno or 0)
            if error.errno == errno.EMFILE:
                why += "; raise [pools.NAME.limits] nofile, or find out what leaks"
            logger.error("no connections are taken for now: %s", why)
        self._retry = self._loop.call_later(RETRY_AFTER, self._again)

    def _again(self) -> None:
        self._retry = None
        self.start()
