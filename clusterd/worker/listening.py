"""A listening socket for servers that know nothing of event loops: its ``accept`` takes from the mailbox."""

import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..errors import PeerError
from ..unix import mail
from ..unix.mail import Inbox, Outbox, Posted
from ..wire import mail as letters
from .doors import Connection
from .sharing import Grant

LOCAL: Final[dict[socket.AddressFamily, Any]] = {
    socket.AF_INET: ("127.0.0.1", 0),
    socket.AF_INET6: ("::1", 0, 0, 0),
}
"""Whom a server takes for the client that came by channel."""


class MailSocket(socket.socket):
    """A mailbox that a server takes for a listening socket.

    It can be polled, ``accept`` takes what was handed over, ``getsockname`` tells where the primary listens. After a
    poll ``accept`` never sleeps: if another has taken it, that is ``BlockingIOError``. TLS goes over the connections:
    ``SSLContext.wrap_socket`` refuses this one, for it is no stream.

    Args:
        grant: where the primary listens.
        inbox: the mailbox's reading end, this object's from now on.
        on_change: called when this or a connection of it is closed, or it is stopped.
    """

    __slots__ = ("_connections", "_grant", "_inbox", "_on_change", "_timeout", "_visits", "stopped")

    def __init__(self, grant: Grant, inbox: int, on_change: "Callable[[MailSocket], None]") -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=inbox)
        super().setblocking(False)
        self._grant = grant
        self._inbox = Inbox(os.dup(inbox))
        self._on_change: Callable[[MailSocket], None] | None = on_change
        self._connections: set[Connection] = set()
        self._visits: deque[int] = deque()
        self._timeout: float | None = None
        self.stopped = False

    @property
    def family(self) -> socket.AddressFamily:
        """That of the connections."""
        if self._grant.wanted.address_type == -1:
            return socket.AF_UNIX
        host = (self._grant.sockname or ("",))[0]
        return socket.AF_INET6 if ":" in host else socket.AF_INET

    @property
    def type(self) -> socket.SocketKind:
        """That of the connections."""
        return socket.SOCK_STREAM

    def getsockname(self) -> Any:
        """Where the primary listens."""
        if self._grant.wanted.address_type == -1:
            return self._grant.wanted.address
        host, port = self._grant.sockname or (self._grant.wanted.address or "", self._grant.port or 0)
        return (host, port, 0, 0) if ":" in host else (host, port)

    def listen(self, backlog: int = 0, /) -> None:
        """The primary does."""

    def settimeout(self, value: float | None, /) -> None:
        """Seconds that ``accept`` waits; 0 not at all, ``None`` for ever."""
        self._timeout = value

    def gettimeout(self) -> float | None:
        """See ``settimeout``."""
        return self._timeout

    def setblocking(self, flag: bool, /) -> None:
        """See ``settimeout``."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether ``accept`` waits."""
        return self._timeout != 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """Take the next connection.

        Returns:
            It, blocking, and its peer's address.

        Raises:
            BlockingIOError: there is none, and none is to be waited for.
            TimeoutError: none has come in time.
            OSError: EBADF, this is closed; ECONNABORTED, no more will ever come.
        """
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while self.fileno() >= 0:
            taken = self._take() if not self.stopped else None
            if taken is not None:
                return taken
            left = None if deadline is None else deadline - time.monotonic()
            if self._timeout == 0.0:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            poll = select.poll()
            poll.register(self.fileno(), select.POLLIN)
            poll.poll(None if left is None else left * 1000)
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def visit(self, fd: int) -> bool:
        """Have ``accept`` return a connection that is meant for this worker alone, a health check: before all others.

        Whoever hands it over sees to it that the mailbox polls readable: with an empty letter, where there is none.
        May be called while another thread polls.
        """
        if self.stopped or self.fileno() < 0:
            return False
        self._visits.append(fd)
        return True

    def _visited(self) -> tuple[socket.socket, Any] | None:
        try:
            fd = self._visits.popleft()
        except IndexError:
            return None
        family = self.family
        address = "" if family == socket.AF_UNIX else LOCAL[family]
        connection = Visit(fd, address, self._gone)
        connection.setblocking(True)
        self._connections.add(connection)
        return connection, address

    def _take(self) -> tuple[socket.socket, Any] | None:
        if (visit := self._visited()) is not None:
            return visit
        try:
            os.close(os.dup(self.fileno()))  # without a free descriptor the kernel would drop the connection: EMFILE
            got = self._inbox.take()
        except EOFError:
            if self.fileno() >= 0:
                mail.silence(self.fileno())  # a poll would be told "readable" for ever
            raise OSError(errno.ECONNABORTED, "the primary hands over no more connections") from None
        if got is None or got.fd is None:
            return self._visited()  # nothing; or a probe, of which it is enough that it was taken
        try:
            letter = letters.unpack(got.payload)
        except PeerError:
            os.close(got.fd)
            return None
        with socket.socket(fileno=got.fd) as found:
            family, kind, proto = int(found.family), int(found.type), found.proto
            connection = Connection(family, kind, proto, found.detach(), self._gone)
        connection.setblocking(True)  # as accept(2) leaves it
        self._connections.add(connection)
        if self.family == socket.AF_UNIX:
            return connection, ""
        address = (letter.host, letter.port, 0, 0) if ":" in letter.host else (letter.host, letter.port)
        return connection, address

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changed()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self)

    @property
    def ended(self) -> bool:
        """It is closed, or stopped, and its last connection has ended."""
        return (self.stopped or self.fileno() < 0) and not self._connections

    def stop(self) -> None:
        """No more come, though the server may go on polling: what another thread polls must not be closed under it."""
        if not self.stopped and self.fileno() >= 0:
            self.stopped = True
            mail.silence(self.fileno())
            self._turn_away()
            self._changed()

    def _turn_away(self) -> None:
        while self._visits:
            os.close(self._visits.popleft())

    def _real_close(self, *arguments: Any) -> None:
        self._inbox.close()
        self._turn_away()
        super()._real_close(*arguments)  # type: ignore[misc]
        self._changed()


class Visit(Connection):
    """A connection that came by channel: no TCP, but a server that expects it sets its options and asks whose it is."""

    __slots__ = ("_peer",)

    def __init__(self, fd: int, peer: Any, on_close: Callable[[Connection], None]) -> None:
        self._peer = peer
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd, on_close)

    def setsockopt(self, level: int, *arguments: Any) -> None:
        """As ``socket.setsockopt``; TCP's own are let pass."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *arguments)

    def getpeername(self) -> Any:
        """As ``accept`` has told it."""
        return self._peer


class Relay:
    """Puts connections that come by channel into a mailbox of our own, for a :class:`MailSocket`.

    Attributes:
        reading: the mailbox's other end.
    """

    def __init__(self) -> None:
        writing, self.reading = mail.pair()
        self._outbox = Outbox(writing)

    def __call__(self, fd: int) -> bool:
        """Take one in; false if there is no room: Node gives it to another worker."""
        with socket.socket(fileno=os.dup(fd)) as sock:
            try:
                peer = sock.getpeername()
            except OSError:
                peer = ""
        if self._outbox.post(letters.of(peer, time.monotonic_ns()), fd) is not Posted.SENT:
            return False
        os.close(fd)
        return True

    def close(self) -> None:
        """No more come."""
        self._outbox.close()
