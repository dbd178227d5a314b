"""What may travel with a message: sockets, as Node names them, and back."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from ..wire.channel import DGRAM, SERVER, SOCKET

Handle: TypeAlias = socket.socket | asyncio.StreamWriter | asyncio.BaseTransport | asyncio.AbstractServer
"""A connected, listening or datagram socket; the transport or the writer of a connection; a server of asyncio's."""


class Parcel(NamedTuple):
    """A handle made ready for the channel.

    Attributes:
        fd: a descriptor that the channel may keep.
        kind: the envelope's ``type``.
        details: further members of the envelope.
    """

    fd: int
    kind: str
    details: dict[str, object]


def pack(handle: Handle | None, keep_open: bool) -> Parcel | None:
    """Make a handle ready; the sender loses a connection unless ``keep_open``, and keeps everything else.

    Returns:
        ``None`` for no handle, and for one that was sent before: its message goes without, as in Node.

    Raises:
        TypeError: it is nothing that can be sent.
        OSError: no descriptor is left.
    """
    if handle is None:
        return None
    sock, lose = _socket_of(handle)
    transport = handle.transport if isinstance(handle, asyncio.StreamWriter) else handle
    if sock.fileno() < 0 or (isinstance(transport, asyncio.BaseTransport) and transport.is_closing()):
        return None
    fd = os.dup(sock.fileno())
    try:
        if sock.type == socket.SOCK_DGRAM:
            return Parcel(fd, DGRAM, {"dgramType": "udp6" if sock.family == socket.AF_INET6 else "udp4"})
        os.set_blocking(
            fd, False
        )  # of the open file, which both ends share: a receiver that is Node leaves it as it is
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return Parcel(fd, SERVER, {})
        if not keep_open:
            lose()
        return Parcel(fd, SOCKET, {})
    except BaseException:
        os.close(fd)
        raise


def _socket_of(handle: Any) -> tuple[Any, Callable[[], object]]:
    """The socket of a handle, and how its owner is rid of it."""
    if isinstance(handle, socket.socket):
        return handle, handle.close
    if isinstance(handle, asyncio.StreamWriter):
        handle = handle.transport
    if isinstance(handle, asyncio.BaseTransport):
        sock = handle.get_extra_info("socket")
        if sock is not None and handle.get_extra_info("sslcontext") is None:
            return sock, getattr(handle, "abort", handle.close)
    elif isinstance(handle, asyncio.Server) and handle.sockets:
        return handle.sockets[0], lambda: None
    raise TypeError(
        f"a {type(handle).__name__} cannot be sent: a handle is a socket, a listening socket, a datagram socket,"
        " the transport or stream writer of a connection without TLS, or an asyncio server with a socket of its own"
    )


def unpack(fd: int | None) -> socket.socket | None:
    """The socket that came with a message, non-blocking."""
    if fd is None:
        return None
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    sock.setblocking(False)
    return sock
