"""Event loops whose servers share through the primary: asyncio's, or uvloop's, with four methods of another kind."""

import asyncio
import os
import socket
import ssl as tls
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .servers import SharedServer, grant_all
from .sharing import Grant, Shares, Wanted

T = TypeVar("T", bound=asyncio.AbstractEventLoop)

REUSE_ADDRESS = 4
IPV6_ONLY = 1


def sharing(loop_class: type[T], shares: Callable[[], Shares | None]) -> type[T]:
    """A subclass of a loop's class whose listening sockets and datagram sockets are the primary's.

    Args:
        loop_class: ``asyncio.SelectorEventLoop``, ``uvloop.Loop``, or another.
        shares: gives what this worker shares; ``None`` where there is no primary to ask.
    """

    class Sharing(loop_class):  # type: ignore[valid-type,misc]
        """See :func:`sharing`. Servers on a given socket, and those with ``reuse_port``, are this worker's own."""

        async def create_server(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            host: str | Sequence[str] | None = None,
            port: int | None = None,
            *,
            family: int = socket.AF_UNSPEC,
            flags: int = socket.AI_PASSIVE,
            sock: socket.socket | None = None,
            backlog: int = 100,
            ssl: tls.SSLContext | None = None,
            reuse_address: bool | None = None,
            reuse_port: bool | None = None,
            start_serving: bool = True,
            **options: Any,
        ) -> asyncio.AbstractServer:
            mine = shares()
            if mine is None or sock is not None or reuse_port:
                options |= {"reuse_address": reuse_address, "reuse_port": reuse_port, "start_serving": start_serving}
                made: asyncio.AbstractServer = await super().create_server(
                    protocol_factory, host, port, family=family, flags=flags, sock=sock, backlog=backlog, ssl=ssl,
                    **options,
                )  # fmt: skip
                return made
            wanted = await resolve(self, host, port or 0, backlog, family, flags, ipv6_only=True)
            return await serve(
                self, mine, protocol_factory, wanted, ssl=ssl, start_serving=start_serving, several=True,
                patience=_patience(options),
            )  # fmt: skip

        async def create_unix_server(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            path: Any = None,
            *,
            sock: socket.socket | None = None,
            backlog: int = 100,
            ssl: tls.SSLContext | None = None,
            start_serving: bool = True,
            **options: Any,
        ) -> asyncio.AbstractServer:
            mine = shares()
            if mine is None or path is None or sock is not None:
                made: asyncio.AbstractServer = await super().create_unix_server(
                    protocol_factory, path, sock=sock, backlog=backlog, ssl=ssl, start_serving=start_serving, **options
                )
                return made
            return await serve(
                self, mine, protocol_factory, [unix(path, backlog)], ssl=ssl, start_serving=start_serving,
                patience=_patience(options),
            )  # fmt: skip

        async def create_datagram_endpoint(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            local_addr: Any = None,
            remote_addr: Any = None,
            *,
            family: int = 0,
            proto: int = 0,
            flags: int = 0,
            reuse_port: bool | None = None,
            allow_broadcast: bool | None = None,
            sock: socket.socket | None = None,
            **options: Any,
        ) -> Any:
            mine = shares()
            shared = mine is not None and sock is None and not reuse_port and remote_addr is None
            if mine is not None and shared and isinstance(local_addr, tuple):
                wanted = await resolve_datagram(self, local_addr, family)
                return await datagram(self, mine, protocol_factory, wanted, allow_broadcast=allow_broadcast)
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, family=family, proto=proto, flags=flags,
                reuse_port=reuse_port, allow_broadcast=allow_broadcast, sock=sock, **options,
            )  # fmt: skip

    return Sharing


def _patience(options: dict[str, Any]) -> tuple[float | None, float | None]:
    return options.get("ssl_handshake_timeout"), options.get("ssl_shutdown_timeout")


async def resolve(
    loop: asyncio.AbstractEventLoop,
    host: str | Sequence[str] | None,
    port: int,
    backlog: int,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    *,
    ipv6_only: bool | None = None,
) -> list[Wanted]:
    """The addresses that a host means: names are looked up here, the primary sees numbers.

    Args:
        ipv6_only: an IPv6 address leaves IPv4 out. asyncio has it so, Node has not; no host is both families in either.
    """
    if not host and family in (socket.AF_UNSPEC, socket.AF_INET6):
        return [Wanted(None, port, 4, backlog=backlog)]
    names: Iterable[str] = [host or "0.0.0.0"] if host is None or isinstance(host, str) else host
    found: dict[Wanted, None] = {}
    for name in names:
        for entry in await loop.getaddrinfo(name or None, port, family=family, type=socket.SOCK_STREAM, flags=flags):
            address = str(entry[4][0])
            six = ":" in address
            bits = int(ipv6_only) * IPV6_ONLY if six and ipv6_only is not None else None
            found[Wanted(address, port, 6 if six else 4, flags=bits, backlog=backlog)] = None
    return list(found)


def unix(path: Any, backlog: int, *, readable_all: bool = False, writable_all: bool = False) -> Wanted:
    """A unix socket; its path is made absolute here, where the worker's working directory is known."""
    text = os.fsdecode(path)
    where = text if text.startswith("\0") else os.path.abspath(text)
    return Wanted(where, -1, -1, backlog=backlog, readable_all=readable_all, writable_all=writable_all)


async def resolve_datagram(
    loop: asyncio.AbstractEventLoop,
    address: tuple[Any, ...],
    family: int = 0,
    *,
    reuse_address: bool = False,
    ipv6_only: bool = False,
) -> Wanted:
    """The one address that a datagram socket is bound to."""
    host, port = address[0] or None, int(address[1])
    entry = (await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE))[0]
    bits = REUSE_ADDRESS * reuse_address | IPV6_ONLY * ipv6_only
    six = entry[0] == socket.AF_INET6
    return Wanted(str(entry[4][0]), port, "udp6" if six else "udp4", fd=-1, flags=bits or None)


async def serve(
    loop: asyncio.AbstractEventLoop,
    shares: Shares,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    wanted: Sequence[Wanted],
    *,
    ssl: tls.SSLContext | None = None,
    start_serving: bool = True,
    several: bool = False,
    patience: tuple[float | None, float | None] = (None, None),
    max_connections: int | None = None,
) -> SharedServer:
    """Make a server of addresses that the primary is asked for.

    Raises:
        OSError: one of them cannot be had.
    """
    if ssl is not None and not isinstance(ssl, tls.SSLContext):
        raise TypeError("ssl argument must be an SSLContext or None")
    grants = await grant_all(shares, wanted, several=several and len(wanted) > 1)
    server = SharedServer(
        loop, shares, grants, make_protocol, tls=ssl, tls_patience=patience, max_connections=max_connections
    )
    if start_serving:
        await server.start_serving()
    return server


class _Datagrams(socket.socket):
    """A datagram socket that tells the primary when it is closed."""

    __slots__ = ("_grant", "_shares", "transport")

    def __init__(self, shares: Shares, grant: Grant) -> None:
        assert grant.fd is not None
        super().__init__(fileno=grant.fd)
        self._shares = shares
        self._grant: Grant | None = grant
        self.transport: asyncio.BaseTransport | None = None
        shares.add(self)

    @property
    def ended(self) -> bool:
        return self._grant is None

    def close(self) -> None:
        """As ``socket.close``; first through the transport, if it has one that is open."""
        transport, self.transport = self.transport, None
        if transport is not None and not transport.is_closing():
            transport.close()
        else:
            super().close()

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc]
        grant, self._grant = self._grant, None
        if grant is not None:
            self._shares.release(grant)
            self._shares.look(self)


async def datagram(
    loop: asyncio.AbstractEventLoop,
    shares: Shares,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    wanted: Wanted,
    *,
    allow_broadcast: bool | None = None,
) -> tuple[Any, Any]:
    """Make a datagram endpoint on the socket that all workers of this address have; each datagram goes to one."""
    sock = _Datagrams(shares, grant := await shares.query(wanted))
    try:
        sock.setblocking(False)
        if allow_broadcast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        transport, protocol = await loop.create_datagram_endpoint(make_protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    sock.transport = transport
    if not sock.ended:  # its protocol may have closed it at once
        shares.listening(grant)
    return transport, protocol
