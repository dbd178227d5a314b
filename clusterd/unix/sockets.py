"""Sockets: making the listening ones, accepting cheaply, and what the kernel knows about queues and peers."""

import array
import errno
import fcntl
import os
import select
import socket
import struct
import termios
from pathlib import Path
from typing import Any, Final

from clusterd.errors import HostError
from clusterd.unix.diag import unix_accept_queue

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) that a pause helps against and nothing else: the listener stays readable meanwhile."""

# accept(2), "Error handling": what was wrong with one connection before it was accepted, or a firewall rule. The next
# may be good.
LOST_BEFORE_ACCEPT: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
_SO_PEERGROUPS: Final = 59  # in <asm-generic/socket.h>; Linux 4.13
_LISTEN_STATE: Final = b"0A"  # TCP_LISTEN in /proc/net/tcp


def bind_tcp(host: str | None, port: int, backlog: int, *, ipv6_only: bool | None = None) -> socket.socket:
    """Make a listening TCP socket: non-blocking, close-on-exec, SO_REUSEADDR.

    Args:
        host: ``None`` or ``""``: every address, IPv4 and IPv6, on one socket (IPv4 alone on a machine without IPv6).
            ``"0.0.0.0"``: every IPv4 address. ``"::"`` or ``"[::]"``: every IPv6 address, and IPv4 too unless
            ``ipv6_only``. Another address, with or without brackets, or a name: the first address it has, IPv4
            preferred, because ``localhost`` is looked up as 127.0.0.1 by more clients than as ::1. Names may block on
            DNS.
        port: 0 to 65535; 0 lets the kernel choose.
        backlog: connections that wait to be accepted; the kernel cuts it at ``somaxconn``.
        ipv6_only: True keeps IPv4 out of ``"::"``, False lets it in; ``None`` is False. Without effect on IPv4.

    Raises:
        HostError: one sentence that names the address, why it cannot be had, and who holds it where that can be seen.
    """
    name = (host or "").removeprefix("[").removesuffix("]")
    shown = f"[{name}]:{port}" if ":" in name else f"{name or '*'}:{port}"
    if not 0 <= port <= 65535:  # getaddrinfo(3) would take it modulo 65536
        raise HostError(f"cannot listen on {shown}: a port is a number from 0 to 65535")
    if not name:
        try:
            return _bind_tcp(socket.AF_INET6, ("::", port), backlog, ipv6_only=bool(ipv6_only))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise _cannot_bind(error, shown, port) from error
        family, address = socket.AF_INET, ("0.0.0.0", port)
    else:
        family, address = _resolve(name, port, shown)
    try:
        return _bind_tcp(family, address, backlog, ipv6_only=bool(ipv6_only))
    except OSError as error:
        raise _cannot_bind(error, shown, port) from error


def in_ascii(host: str) -> str | bytes:
    """A host as :func:`socket.getaddrinfo` takes it with the least: a ``str`` is looked at as an international name,
    with all of Unicode's tables (1 MB that stays), even if it is an address."""
    return host.encode() if host.isascii() else host


def _resolve(name: str, port: int, shown: str) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(in_ascii(name), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise HostError(f"cannot listen on {shown}: {name} is no address of this machine ({why})") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # stable: the resolver's order within a family
    return found[0][0], found[0][4]


def _bind_tcp(family: socket.AddressFamily, address: Any, backlog: int, *, ipv6_only: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ipv6_only))
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _cannot_bind(error: OSError, shown: str, port: int) -> HostError:
    number = error.errno
    if number == errno.EADDRINUSE:
        holder = port_holder(port)
        who = f" by {holder[1]} (pid {holder[0]})" if holder else ""
        return HostError(f"cannot listen on {shown}: the port is in use{who}; stop that process or choose another port")
    if number == errno.EACCES:
        return HostError(
            f"cannot listen on {shown}: ports below {_first_free_port()} need root or CAP_NET_BIND_SERVICE; "
            "choose a higher one"
        )
    if number == errno.EADDRNOTAVAIL:
        return HostError(f"cannot listen on {shown}: this machine has no such address")
    return HostError(f"cannot listen on {shown}: {os.strerror(number or 0)}")


def _first_free_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def port_holder(port: int) -> tuple[int, str] | None:
    """``(pid, name)`` of who listens on a TCP port of this network namespace; ``None`` if nobody does or is to be seen.

    Reads all of ``/proc/*/fd`` (other users' only as root): for error messages, never in a loop.
    """
    wanted = {b"socket:[%s]" % inode for inode in _listening_inodes(port)}
    if not wanted:
        return None
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                for fd in os.listdir(f"/proc/{name}/fd"):
                    if os.readlink(f"/proc/{name}/fd/{fd}").encode() in wanted:
                        return int(name), Path(f"/proc/{name}/comm").read_text(errors="replace").strip()
            except OSError:
                continue  # it has ended, or it is not ours to look at
    return None


def _listening_inodes(port: int) -> set[bytes]:
    inodes: set[bytes] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_bytes().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == _LISTEN_STATE and int(fields[1].rpartition(b":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def accept(listener: socket.socket) -> tuple[int, Any] | None:
    """Accept one connection as a bare descriptor, close-on-exec; ``None`` when none waits.

    It is blocking, as accept(2) leaves it: whoever is to read from it sets that, and one ioctl is enough.

    ``socket.accept`` would build a Python socket for each, which doubles the price. Connections that were lost before
    they were accepted are passed over.

    Args:
        listener: a listening socket that is non-blocking.

    Returns:
        The descriptor, the caller's to close, and the peer's address as the family has it: ``(host, port)`` for IPv4,
        ``(host, port, flow, scope)`` for IPv6, ``""`` for most unix peers.

    Raises:
        OSError: with an errno in ``EXHAUSTED``: pause, the connection waits; with any other: the listener is broken.
    """
    while True:
        try:
            fd, address = listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in LOST_BEFORE_ACCEPT:
                continue
            raise
        return fd, address


def outq(fd: int) -> int:
    """Bytes that were sent and not yet taken by the peer: SIOCOUTQ (unix(7), tcp(7)).

    Raises:
        OSError: it is no socket.
    """
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.TIOCOUTQ, count)
    return count[0]


def unread(fd: int) -> bool:
    """Whether a read would bring something now: data, the end of it, an error, or for a listener a connection."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """``(pid, uid, gid)`` of a unix stream peer, as it was when it connected or called listen(2): SO_PEERCRED.

    Raises:
        OSError: it is no connected unix socket.
    """
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return pid, uid, gid


def peer_groups(sock: socket.socket) -> frozenset[int]:
    """The supplementary groups of a unix stream peer, as they were when it connected: SO_PEERGROUPS.

    Empty where the kernel does not tell, and for a user of more than 256: Python's getsockopt has no room for them.
    """
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:
        return frozenset()
    return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))


def accept_queue(fd: int) -> tuple[int, int]:
    """``(waiting, limit)``: connections in a listener's accept queue and how many it holds.

    For a listening TCP socket TCP_INFO tells them as ``tcpi_unacked`` and ``tcpi_sacked`` (the kernel's tcp_get_info).

    Raises:
        OSError: it is neither a TCP nor a listening unix socket, or the kernel does not tell of unix ones.
    """
    sock = socket.socket(fileno=fd)
    try:
        if sock.family == socket.AF_UNIX:
            return unix_accept_queue(fd)
        waiting, limit = struct.unpack_from("II", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)
    finally:
        sock.detach()
    return waiting, limit


def somaxconn() -> int:
    """The bound on every backlog in this network namespace (net.core.somaxconn); longer ones are cut silently."""
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except (OSError, ValueError):
        return socket.SOMAXCONN


def listen_overflows() -> int:
    """How often an accept queue of this network namespace was full, all programs together (TcpExt ListenOverflows).

    0 where ``/proc/net/netstat`` is not to be seen.
    """
    try:
        lines = Path("/proc/net/netstat").read_text().splitlines()
    except OSError:
        return 0
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            return int(dict(zip(names.split(), values.split(), strict=True)).get("ListenOverflows", 0))
    return 0
