"""What this worker shares with others through the primary: it asks for an address, and is granted connections.

Node's ``queryServer`` from the worker's side. Whoever serves a grant is a *server* here: something that can be closed,
and that says when the last of its connections has ended. A worker that is to end closes them all and waits for that.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import PeerError
from ..wire import messages
from ..wire.acts import AddressType
from ..wire.channel import Received
from .link import Link


@dataclass(frozen=True, slots=True)
class Wanted:
    """An address that a program wants to serve.

    Attributes:
        address: an IP address, an absolute path, ``None`` for every address.
        port: -1 for a path, ``None`` for a descriptor.
        address_type: see :data:`clusterd.wire.acts.AddressType`.
        fd: the primary's descriptor; -1 for UDP.
        flags: 1 is "IPv6 only", 4 "reuse the address" (UDP).
        backlog: connections that may wait.
        readable_all, writable_all: who may connect to a path.
        shared: the kernel's own socket is wanted.
    """

    address: str | None
    port: int | None
    address_type: AddressType
    fd: int | None = None
    flags: int | None = None
    backlog: int | None = None
    readable_all: bool = False
    writable_all: bool = False
    shared: bool = False

    @property
    def place(self) -> tuple[object, ...]:
        """What two servers of a worker have in common that compete for one address."""
        return self.address, self.port, self.address_type, self.fd


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """What the primary has answered.

    Attributes:
        key: the server's name on the wire.
        wanted: what was asked for.
        index: how many of the same had been asked for before.
        query: the question as it went out.
        sockname: where the primary listens, as ``getsockname`` has it; ``None`` if that is not told.
        fd: a mailbox's reading end or the socket itself; ``None`` if connections come by channel.
        mailbox: which of the two.
        early: connections that came by channel before there was a server for them.
    """

    key: str
    wanted: Wanted
    index: int
    query: dict[str, Any]
    sockname: tuple[str, int] | None
    fd: int | None
    mailbox: bool
    early: list[int] = field(default_factory=list)

    def hold(self, fd: int) -> bool:
        """Keep a connection that came by channel for the server that will be there in a moment."""
        self.early.append(fd)
        return True

    @property
    def port(self) -> int | None:
        """The real port."""
        if self.sockname is not None:
            return self.sockname[1]
        if self.fd is not None and not self.mailbox and self.wanted.port == 0:
            with socket.socket(fileno=os.dup(self.fd)) as sock:
                return int(sock.getsockname()[1])
        return self.wanted.port


class Server(Protocol):
    """Who serves a grant."""

    def close(self) -> None: ...
    @property
    def ended(self) -> bool:
        """Closed, and the last connection has ended."""
        ...


class Shares:
    """All that this worker shares.

    Args:
        link: its channel.

    Attributes:
        servers: those that are open, or still have connections.
        closing: this worker is about to end.
        words: its row of the scoreboard, if it has one.
        on_change: called when a server has ended.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.servers: dict[Server, None] = {}
        self.closing = False
        self.words: memoryview | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._indices: dict[tuple[object, ...], set[int]] = {}
        self._next: dict[tuple[object, ...], int] = {}
        self._on_drained: list[Callable[[], None]] = []
        self._asking: set[asyncio.Future[Grant]] = set()
        link.on_primary_gone(self._primary_gone)

    async def query(self, wanted: Wanted) -> Grant:
        """Ask the primary.

        Raises:
            OSError: it cannot be had; its number says why.
        """
        if self.closing or not self.link.connected:
            raise OSError(errno.ECANCELED, "this worker is about to end and listens no more")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Grant] = loop.create_future()
        index = self._take_index(wanted.place)
        query = messages.query_server(
            index,
            wanted.address,
            wanted.port,
            wanted.address_type,
            wanted.fd,
            flags=wanted.flags,
            backlog=wanted.backlog,
            readable_all=wanted.readable_all,
            writable_all=wanted.writable_all,
            mailbox=wanted.address_type not in ("udp4", "udp6") and not wanted.shared,
            shared=wanted.shared,
        )

        def answer(received: Received) -> None:
            try:
                grant = _grant(received, wanted, index, query)
            except OSError as error:
                self._free_index(wanted.place, index)
                if not answered.done():
                    answered.set_exception(error)
                return
            if answered.done():  # nobody waits any more
                self.give_back(grant)
            else:
                if grant.fd is None:
                    self.link.serve(grant.key, grant.hold)
                answered.set_result(grant)

        self.link.ask(query, answer)
        self._asking.add(answered)
        try:
            return await answered
        finally:
            self._asking.discard(answered)

    def _primary_gone(self) -> None:
        for answered in self._asking:
            if not answered.done():
                answered.set_exception(OSError(errno.ECANCELED, "the primary has gone"))

    def give_back(self, grant: Grant) -> None:
        """Close the server of ``grant``: tell the primary, close the descriptor."""
        for fd in (grant.fd, *grant.early):
            if fd is not None:
                os.close(fd)
        grant.early.clear()
        self.release(grant)

    def release(self, grant: Grant) -> None:
        """As ``give_back``, where the descriptor is somebody else's by now."""
        self._free_index(grant.wanted.place, grant.index)
        self.link.serve(grant.key, None)
        self.link.tell(messages.close(grant.key))

    def listening(self, grant: Grant) -> None:
        """The grant is served."""
        self.link.tell(messages.listening_for(grant.query, grant.port))

    # -- the end -------------------------------------------------------------------------------------------------

    def add(self, server: Server) -> None:
        """A server is open."""
        self.servers[server] = None
        if self.closing:
            _stop(server)

    def look(self, server: Server) -> None:
        """A server may have ended."""
        if server.ended:
            self.servers.pop(server, None)
        if self.closing and not self.servers:
            waiting, self._on_drained = self._on_drained, []
            for callback in waiting:
                callback()
        self.on_change()

    @property
    def holding(self) -> bool:
        """Whether some server keeps an idle worker alive, or will."""
        return bool(self._asking) or any(getattr(server, "holds", True) for server in self.servers)

    def close(self, on_drained: Callable[[], None]) -> None:
        """Close every server; ``on_drained`` is called, perhaps at once, when the last connection has ended."""
        self.closing = True
        self._on_drained.append(on_drained)
        for server in list(self.servers):
            _stop(server)
        if not self.servers:
            waiting, self._on_drained = self._on_drained, []
            for callback in waiting:
                callback()

    def _take_index(self, place: tuple[object, ...]) -> int:
        index = self._next.get(place, 0)
        self._next[place] = index + 1
        self._indices.setdefault(place, set()).add(index)
        return index

    def _free_index(self, place: tuple[object, ...], index: int) -> None:
        taken = self._indices.get(place, set())
        taken.discard(index)
        if not taken:
            self._indices.pop(place, None)
            self._next.pop(place, None)


def _grant(received: Received, wanted: Wanted, index: int, query: dict[str, Any]) -> Grant:
    try:
        reply = messages.read(received.message)
        if not isinstance(reply, messages.Reply) or reply.key is None:
            raise PeerError("no answer to queryServer")
    except PeerError:
        if received.fd is not None:
            os.close(received.fd)
        raise OSError(errno.EPROTO, "the primary's answer cannot be understood") from None
    if received.fd is None and reply.errno:
        number = abs(reply.errno)
        raise OSError(number, f"bind {errno.errorcode.get(number, number)} {_shown(wanted)}: {os.strerror(number)}")
    return Grant(reply.key, wanted, index, query, reply.sockname, received.fd, reply.mailbox)


def _shown(wanted: Wanted) -> str:
    """As Node writes it: ``null:3000`` where no host was given."""
    if wanted.address_type == -1:
        return str(wanted.address)
    if wanted.address_type is None:
        return f"fd {wanted.fd}"
    return f"{wanted.address or 'null'}:{wanted.port}"


def _stop(server: Server) -> None:
    """Have it take no more; one that another thread polls must not be closed under it."""
    getattr(server, "stop", server.close)()
