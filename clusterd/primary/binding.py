"""The sockets that workers ask for: bound in the primary, with its rights, as Node's ``queryServer`` describes them."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import HostError
from ..unix import local
from ..wire.acts import QueryServer
from .listeners import Opened

BACKLOG: Final = 511
"""Node's, where the worker names none."""

IPV6_ONLY: Final = 1
REUSE_ADDRESS: Final = 4
"""Bits of ``flags``, libuv's ``UV_TCP_IPV6ONLY``, ``UV_UDP_IPV6ONLY`` and ``UV_UDP_REUSEADDR``."""

_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def bind(query: QueryServer) -> Opened:
    """Make the socket that a worker asks for; one for streams listens.

    Raises:
        OSError: it cannot be had; ``errno`` is for the worker.
    """
    match query.address_type:
        case 4 | 6:
            return Opened(_with_ipv6(query.address, lambda host: _stream(host, query)))
        case "udp4" | "udp6":
            return Opened(_datagram(query))
        case -1:
            return _unix(query)
        case _:
            return _descriptor(query)


def _with_ipv6(host: str | None, make: Callable[[str], socket.socket]) -> socket.socket:
    """No host is every address of both families, or of IPv4 where the machine has no other."""
    if host is not None:
        return make(host)
    try:
        return make("::")
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return make("0.0.0.0")


def _stream(host: str, query: QueryServer) -> socket.socket:
    sock = _socket(host, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _place(sock, host, query)
        sock.listen(query.backlog or BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _datagram(query: QueryServer) -> socket.socket:
    if query.fd is not None and query.fd > 0:
        return _descriptor(query, socket.SOCK_DGRAM).sock
    host = query.address or ("::" if query.address_type == "udp6" else "0.0.0.0")
    sock = _socket(host, socket.SOCK_DGRAM)
    try:
        if (query.flags or 0) & REUSE_ADDRESS:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _place(sock, host, query)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(host: str, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind | socket.SOCK_NONBLOCK)


def _place(sock: socket.socket, host: str, query: QueryServer) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool((query.flags or 0) & IPV6_ONLY)))
    if query.port is None or query.port < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        sock.bind(_address(host, query.port))
    except (
        socket.gaierror,
        OverflowError,
        ValueError,
    ):  # workers resolve names; what comes here is a number or nonsense
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None


def _address(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if ":" not in host:
        if not _is_address(socket.AF_INET, host):
            raise ValueError("a name")  # the resolver would block
        return host, port
    number, _, scope = host.partition("%")
    if not _is_address(socket.AF_INET6, number):
        raise ValueError("no address")
    index = 0 if not scope else int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    return number, port, 0, index


def _is_address(family: socket.AddressFamily, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


def _unix(query: QueryServer) -> Opened:
    path = query.address
    if not path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if path.startswith("\0"):
        shown = "@" + path[1:]
    else:
        # A path has 107 bytes; the shorter of the two ways to say it may fit where the other does not.
        shown = min(path, os.path.relpath(path), key=lambda name: len(os.fsencode(name)))
    mode = 0o777 & ~_umask() | 0o444 * query.readable_all | 0o222 * query.writable_all
    if query.readable_all and query.writable_all:
        mode = 0o777
    try:
        bound = local.bind_unix(shown, mode, query.backlog or BACKLOG)
    except HostError as error:
        cause = error.__cause__
        number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EADDRINUSE
        if len(os.fsencode(shown)) > 107:
            number = errno.EINVAL
        if number == errno.ENOENT:  # a directory is missing; libuv, and so every Node program, calls that EACCES
            number = errno.EACCES
        raise OSError(number, os.strerror(number)) from error
    return Opened(bound.sock, bound)


def _umask() -> int:
    """This process's file mode mask; asking umask(2) would change it for a moment, for all threads."""
    for line in Path("/proc/self/status").read_text(errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _descriptor(query: QueryServer, kind: socket.SocketKind = socket.SOCK_STREAM) -> Opened:
    """``listen({fd})``: the primary's own descriptor of that number, which stays what and where it is."""
    invalid = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if query.fd is None or query.fd < 0:
        raise invalid
    sock = socket.socket(fileno=os.dup(query.fd))
    try:
        if sock.type != kind or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise invalid
        if kind == socket.SOCK_STREAM:
            sock.listen(query.backlog or BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Opened(sock, inherited=True)
