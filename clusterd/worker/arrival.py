"""What comes before a connection's HTTP: the header of a proxy, then the handshake of TLS. Bounded in bytes and time.

The proxy's header is taken out of the socket to the byte, so that what follows it is all there for TLS or HTTP. Nothing
here waits: a client that is slow, silent or speaks garbage costs its own connection.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from ..errors import PeerError
from ..unix.sockets import unread
from ..wire import proxy
from .mailbox import Taken
from .options import Door

PATIENCE: Final = 10.0
"""Seconds from the accept to the end of header and handshake. A far client on a bad line needs one or two."""

FAREWELL: Final = 2.0
"""Seconds that a client gets to answer TLS's close_notify; asyncio's own 30 would outlast a drain."""

TELL_EVERY: Final = 60.0
"""Seconds between two complaints about connections that did not get in."""

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_TAKE: Final = int(socket.MSG_DONTWAIT)

logger = logging.getLogger("clusterd")


class Guest(Protocol):
    """The connection's protocol, as far as it is used here."""

    told: proxy.Header | None
    """What the proxy has said."""


class Complaints:
    """Tells that connections do not get in: the first at once, then once a minute how many it were.

    A proxy that sends no header where one is expected makes every connection fail: somebody must be told. A scanner
    that speaks HTTP to a TLS port must not fill the log.
    """

    def __init__(self) -> None:
        self._told_at = -TELL_EVERY
        self._since = 0

    def tell(self, listener: str, why: str) -> None:
        """One more of this listener's did not get in."""
        self._since += 1
        now = monotonic()
        if now - self._told_at >= TELL_EVERY:
            more = f" ({self._since} since the last such message)" if self._since > 1 else ""
            logger.warning("a connection of %s was closed before its first request: %s%s", listener, why, more)
            self._told_at, self._since = now, 0


class Arrival:
    """One connection on its way in.

    Args:
        loop: the worker's.
        sock: non-blocking. It stays the caller's, who is told by one of the two calls what is to be done with it.
        door: how it comes in; not plain.
        token: told when the first byte has come.
        guest: whose ``told`` is set.
        enter: called once with the seconds that are left, when the next byte is TLS's, or HTTP's.
        fail: called once with the reason if it does not get there; empty if that is no news.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        door: Door,
        token: Taken,
        guest: Guest,
        enter: Callable[[float], None],
        fail: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._token = token
        self._guest = guest
        self._enter = enter
        self._fail = fail
        self._header = b""
        self._wants_header = door.proxy
        self._watching = False
        self._until = loop.time() + PATIENCE
        self._timer: asyncio.TimerHandle | None = loop.call_later(PATIENCE, self._late)
        #: Calls the handshake off, once it is under way.
        self.abort: Callable[[], object] | None = None

    @property
    def begun(self) -> bool:
        """The client has said something."""
        return bool(self._header) or self.abort is not None or unread(self._sock.fileno())

    def go(self) -> None:
        """Do what can be done now; called again by itself when there is more."""
        try:
            ready = self._read_header() if self._wants_header else unread(self._sock.fileno())
        except PeerError as error:
            self.stop(str(error))
        except OSError:
            self.stop("")  # reset, or gone: that happens
        else:
            if ready:
                self._over()
                self._token.read()
                self._enter(max(0.1, self._until - self._loop.time()))
            elif not self._watching:
                self._watching = True
                self._loop.add_reader(self._sock, self.go)

    def stop(self, why: str) -> None:
        """It does not get in. Harmless when it is in, or has been stopped."""
        if self._timer is not None:
            self._over()
            self._fail(why)

    def _late(self) -> None:
        self.stop(f"the PROXY header was not complete after {PATIENCE:g} s" if self._header else "")

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._sock)

    def _read_header(self) -> bool:
        """Whether it is complete. Of what has come, not a byte more is taken than belongs to it."""
        room = proxy.MAX_V2 + 1 - len(self._header)
        try:
            seen = self._sock.recv(room, _PEEK)
        except BlockingIOError:
            return False
        if not seen:
            raise ConnectionResetError  # it has ended: a health check that only connects
        self._token.read()
        header = proxy.parse(self._header + seen)
        mine = len(seen) if header is None else header.size - len(self._header)
        self._header += self._sock.recv(mine, _TAKE)
        if header is None:
            return False
        self._wants_header = False
        self._guest.told = header
        return True
