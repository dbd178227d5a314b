"""``create_server`` and its like: what is served, through the primary in a worker, by itself in a primary."""

import asyncio
import socket
import ssl as tls
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..worker import loops
from ..worker.listening import MailSocket, Relay
from ..worker.servers import SharedServer
from ..worker.sharing import Grant, Shares, Wanted

Host = str | Sequence[str] | None
ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]

BACKLOG = 511


async def create_server(
    shares: Shares | None,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Host,
    port: int | None,
    *,
    path: str | None,
    fd: int | None,
    backlog: int,
    ssl: tls.SSLContext | None,
    exclusive: bool,
    reuse_port: bool,
    ipv6_only: bool,
    readable_all: bool,
    writable_all: bool,
    max_connections: int | None,
    start_serving: bool,
) -> asyncio.AbstractServer:
    """See ``cluster.create_server``."""
    loop = asyncio.get_running_loop()
    if shares is None or exclusive or reuse_port:
        return await _own(
            loop, protocol_factory, host, port, path, fd, backlog, ssl, reuse_port, ipv6_only, start_serving
        )
    if path is not None:
        wanted = [loops.unix(path, backlog, readable_all=readable_all, writable_all=writable_all)]
    elif fd is not None:
        wanted = [Wanted(None, None, None, fd=fd, backlog=backlog)]
    else:
        wanted = await loops.resolve(loop, host, port or 0, backlog, ipv6_only=ipv6_only or None)
    return await loops.serve(
        loop,
        shares,
        protocol_factory,
        wanted,
        ssl=ssl,
        start_serving=start_serving,
        several=True,
        max_connections=max_connections,
    )


async def _own(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Host,
    port: int | None,
    path: str | None,
    fd: int | None,
    backlog: int,
    ssl: tls.SSLContext | None,
    reuse_port: bool,
    ipv6_only: bool,
    start_serving: bool,
) -> asyncio.AbstractServer:
    """A server of this process alone, on a socket that it has bound itself."""
    more: dict[str, Any] = {"ssl": ssl, "start_serving": start_serving, "backlog": backlog}
    if path is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
        except BaseException:
            sock.close()
            raise
        return await loop.create_unix_server(protocol_factory, sock=sock, **more)
    if fd is not None:
        return await loop.create_server(protocol_factory, sock=socket.socket(fileno=fd), **more)
    name = host if host is None or isinstance(host, str) else host[0]
    family, address = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET, ("::", port or 0)
    if name:
        found = await loop.getaddrinfo(name, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, address = found[0][0], found[0][4][:2]  # type: ignore[assignment]
    sock = socket.create_server(
        address,
        family=family,
        backlog=backlog,
        reuse_port=reuse_port,
        dualstack_ipv6=family == socket.AF_INET6 and not ipv6_only and address[0] == "::",
    )
    return await loop.create_server(protocol_factory, sock=sock, **more)


def streams(client_connected: ClientConnected, limit: int) -> Callable[[], asyncio.BaseProtocol]:
    """The protocol factory of ``asyncio.start_server``."""
    loop = asyncio.get_running_loop()

    def make() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected, loop=loop)

    return make


async def create_datagram_endpoint(
    shares: Shares | None,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    local_addr: tuple[str | None, int] | None,
    fd: int | None,
    family: int,
    exclusive: bool,
    reuse_address: bool,
    reuse_port: bool,
    ipv6_only: bool,
    allow_broadcast: bool,
) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
    """See ``cluster.create_datagram_endpoint``."""
    loop = asyncio.get_running_loop()
    if shares is None or exclusive or (local_addr is None and fd is None):
        return await _own_datagrams(loop, protocol_factory, local_addr, family, reuse_port, allow_broadcast)
    if fd is not None:
        wanted = Wanted(None, None, "udp6" if family == socket.AF_INET6 else "udp4", fd=fd)
    else:
        assert local_addr is not None
        wanted = await loops.resolve_datagram(
            loop, local_addr, family, reuse_address=reuse_address, ipv6_only=ipv6_only
        )
    return await loops.datagram(loop, shares, protocol_factory, wanted, allow_broadcast=allow_broadcast)


async def _own_datagrams(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    local_addr: tuple[str | None, int] | None,
    family: int,
    reuse_port: bool,
    allow_broadcast: bool,
) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
    """A datagram socket of this process alone. Bound here, for the loop would ask the primary."""
    host, port = local_addr if local_addr is not None else (None, 0)
    found = await loop.getaddrinfo(
        host or "0.0.0.0", port, family=family or (0 if host else socket.AF_INET), type=socket.SOCK_DGRAM
    )
    sock = socket.socket(found[0][0], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if allow_broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if local_addr is not None:
            sock.bind(found[0][4])
        return await loop.create_datagram_endpoint(protocol_factory, sock=sock)
    except BaseException:
        sock.close()
        raise


async def adopt(connection: socket.socket, server: asyncio.AbstractServer) -> None:
    """See ``cluster.adopt``."""
    if isinstance(server, SharedServer):
        server.adopt(connection)
        return
    make = getattr(server, "_protocol_factory", None)
    if not isinstance(server, asyncio.Server) or make is None:
        raise TypeError(f"a {type(server).__name__} cannot adopt connections; a server of cluster's or asyncio's can")
    connection.setblocking(False)
    context = getattr(server, "_ssl_context", None)
    await server.get_loop().connect_accepted_socket(make, connection, ssl=context)


async def listen(shares: Shares, wanted: Wanted, run: Callable[..., Any]) -> socket.socket:
    """See ``cluster.listen``.

    Args:
        run: has a function called on the loop, from whichever thread.
    """
    grant = await shares.query(wanted)
    if not grant.mailbox and grant.fd is not None:
        sock = _Shared(grant, lambda: run(shares.release, grant))
        shares.listening(grant)
        return sock
    relay = None
    inbox = grant.fd
    if inbox is None:
        relay = Relay()
        inbox = relay.reading
        early, grant.early[:] = grant.early[:], []
        shares.link.serve(grant.key, relay)
        for fd in early:
            relay(fd)
    told = False

    def changed(sock: MailSocket) -> None:
        nonlocal told
        if (sock.stopped or sock.fileno() < 0) and not told:
            told = True
            run(shares.release, grant)
            if relay is not None:
                run(relay.close)
        run(shares.look, sock)

    mailbox = MailSocket(grant, inbox, changed)
    if relay is None:
        shares.link.serve(grant.key, mailbox.visit)
    shares.add(mailbox)
    shares.listening(grant)
    return mailbox


class _Shared(socket.socket):
    """The kernel's own listening socket, which every worker of this address has."""

    __slots__ = ("_on_close",)

    def __init__(self, grant: Grant, on_close: Callable[[], None]) -> None:
        super().__init__(fileno=grant.fd)
        self._on_close: Callable[[], None] | None = on_close
        self.listen(grant.wanted.backlog or BACKLOG)

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc]
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


def call_on(loop: Callable[[], asyncio.AbstractEventLoop], function: Callable[..., object], *arguments: object) -> None:
    """Have a function called on a loop of another thread, or later on that of this one."""
    loop().call_soon_threadsafe(function, *arguments)
