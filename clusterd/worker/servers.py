"""An asyncio server whose connections come from the primary."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .doors import Connection, Door, door_of
from .sharing import Grant, Shares, Wanted


class SharedSocket:
    """What a shared server shows as its listening socket: a name and a kind, and nothing that could be done with it."""

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        kind = grant.wanted.address_type
        host = (grant.sockname or ("", 0))[0]
        self.family = socket.AF_UNIX if kind == -1 else socket.AF_INET6 if ":" in host or kind == 6 else socket.AF_INET
        self.type = socket.SOCK_STREAM
        self.proto = 0

    def getsockname(self) -> Any:
        """Where the primary listens."""
        if self._grant.wanted.address_type == -1:
            return self._grant.wanted.address
        host, port = self._grant.sockname or (self._grant.wanted.address or "::", self._grant.port or 0)
        return (host, port, 0, 0) if self.family == socket.AF_INET6 else (host, port)

    def fileno(self) -> int:
        """-1: it is the primary's."""
        return -1

    def __repr__(self) -> str:
        return f"<clusterd shared socket {self.getsockname()!r}>"


class SharedServer(asyncio.AbstractServer):
    """As ``asyncio.Server``, for addresses that the primary has granted.

    Args:
        loop: the loop it serves on.
        shares: what this worker shares.
        grants: its addresses.
        make_protocol: makes a connection's protocol.
        tls: for TLS.
        tls_patience: seconds for the handshake and for the goodbye.
        max_connections: connections served at once; above it others get them. ``None`` is any number.

    Attributes:
        holds: it keeps a worker alive that has nothing else to do.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shares: Shares,
        grants: Sequence[Grant],
        make_protocol: Callable[[], asyncio.BaseProtocol],
        *,
        tls: ssl.SSLContext | None = None,
        tls_patience: tuple[float | None, float | None] = (None, None),
        max_connections: int | None = None,
    ) -> None:
        self._loop = loop
        self._shares = shares
        self._grants = list(grants)
        self._make_protocol = make_protocol
        self._tls = tls
        self._tls_patience = tls_patience
        self._max = max_connections
        self._sockets: set[Connection] = set()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._doors: list[Door] = [door_of(loop, shares.link, grant, self._take, shares.words) for grant in grants]
        self._serving = False
        self._closing = self._closed = False
        self._waiters: list[asyncio.Future[None]] = []
        self._forever: asyncio.Future[None] | None = None
        self._transports: set[asyncio.BaseTransport] = set()
        self.holds = True
        shares.add(self)

    def __repr__(self) -> str:
        return f"<SharedServer sockets={self.sockets!r}>"

    # -- asyncio's interface -------------------------------------------------------------------------------------

    @property
    def sockets(self) -> tuple[SharedSocket, ...]:
        """Where it listens; empty once closed."""
        return () if self._closed else tuple(map(SharedSocket, self._grants))

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._sockets)

    @property
    def max_connections(self) -> int | None:
        """Connections served at once; above it others get them. Node's ``maxConnections``: 0 serves none."""
        return self._max

    @max_connections.setter
    def max_connections(self, value: int | None) -> None:
        self._max = value
        self._let_in()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it serves on."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it takes connections."""
        return self._serving

    def _start(self) -> None:
        if not self._serving and not self._closed:
            self._serving = True
            self._let_in()
            for grant in self._grants:
                self._shares.listening(grant)

    async def start_serving(self) -> None:
        """Take connections from now on."""
        self._start()

    async def serve_forever(self) -> None:
        """Until it is closed, by whomever; then, as with asyncio's own, ``CancelledError``."""
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._start()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Take no more connections; those that are open go on."""
        if self._closing or self._closed:
            return
        self._closing = True
        self._serving = False
        for door, grant in zip(self._doors, self._grants, strict=True):
            door.close(take_rest=self._shares.closing)
            self._shares.release(grant)
        self._closed = True
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._look()

    async def wait_closed(self) -> None:
        """Until it is closed and its last connection has ended."""
        if not self.ended:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def close_clients(self) -> None:
        """Close every connection after what is to be sent still."""
        for transport in list(self._transports):
            transport.close()

    def abort_clients(self) -> None:
        """Cut every connection."""
        for transport in list(self._transports):
            getattr(transport, "abort", transport.close)()

    def ref(self) -> None:
        """It keeps an idle worker alive; so it is at first."""
        self.holds = True

    def unref(self) -> None:
        """It does not."""
        self.holds = False
        self._shares.look(self)

    @property
    def ended(self) -> bool:
        """It is closed and its last connection has ended."""
        return self._closed and not self._sockets

    # -- connections ---------------------------------------------------------------------------------------------

    def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that came by another way. The socket is the server's from now on."""
        self._take(connection)

    def _take(self, sock: socket.socket) -> None:
        family, kind, proto = int(sock.family), int(sock.type), sock.proto
        connection = Connection(family, kind, proto, sock.detach(), self._gone)
        self._sockets.add(connection)
        self._let_in()
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: Connection) -> None:
        handshake, goodbye = self._tls_patience
        patience: dict[str, float | None] = {}
        if self._tls is not None:
            patience = {"ssl_handshake_timeout": handshake, "ssl_shutdown_timeout": goodbye}
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=self._tls, **patience
            )
        except (OSError, EOFError):  # a client that left, or whose handshake failed, is no news
            connection.close()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            connection.close()
            if not isinstance(error, asyncio.CancelledError):
                self._loop.call_exception_handler({"message": "a connection could not be served", "exception": error})
        else:
            if connection in self._sockets:
                self._transports.add(transport)
                connection.transport = transport

    def _gone(self, connection: Connection) -> None:
        self._sockets.discard(connection)
        if connection.transport is not None:
            self._transports.discard(connection.transport)
        if self._closed:
            self._loop.call_soon(self._look)
        else:
            self._let_in()

    def _let_in(self) -> None:
        full = self._max is not None and len(self._sockets) >= self._max
        for door in self._doors if not self._closing else ():
            if self._serving and not full:
                door.open()
            else:
                door.shut()

    def _look(self) -> None:
        if self.ended:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self._shares.look(self)


async def grant_all(shares: Shares, wanted: Iterable[Wanted], *, several: bool) -> list[Grant]:
    """Ask for every address; if one cannot be had the others are given back.

    Args:
        several: of a name that has several addresses those may be missing that this machine has not.
    """
    grants: list[Grant] = []
    last: OSError | None = None
    try:
        for one in wanted:
            try:
                grants.append(await shares.query(one))
            except OSError as error:
                if not several or error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                last = error
        if not grants and last is not None:
            raise last
    except BaseException:
        for grant in grants:
            shares.give_back(grant)
        raise
    return grants
