"""``AF_UNIX SOCK_SEQPACKET`` pairs for whole messages of some kilobytes with several descriptors each.

Unlike a mailbox (:mod:`clusterd.unix.mail`) such a pair is two-way and held by one process at each end.
"""

import array
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_BYTES: Final = 64 * 1024
"""What one packet holds at most; well under the default ``SO_SNDBUF``, so that an empty pair has room for one."""

MAX_FDS: Final = 64
"""Descriptors with one packet (the kernel's own bound is 253, ``SCM_MAX_FD``)."""

_ROOM: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class Packet(NamedTuple):
    """One message. ``fds`` are close-on-exec and the receiver's to close; ``truncated``: something of it was lost."""

    data: bytes
    fds: tuple[int, ...]
    truncated: bool


def pair() -> tuple[socket.socket, socket.socket]:
    """Make a connected pair, both ends close-on-exec and blocking."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = (), *, wait: bool = False) -> None:
    """Send one packet; the descriptors stay open here.

    Args:
        wait: block until there is room.

    Raises:
        BlockingIOError: there is no room now (only without ``wait``).
        ValueError: more than ``MAX_BYTES`` or ``MAX_FDS``.
        OSError: the other end is gone (EPIPE, ECONNRESET) or the kernel is short of something (ETOOMANYREFS …).
    """
    if len(data) > MAX_BYTES or len(fds) > MAX_FDS:
        raise ValueError(f"a packet holds {MAX_BYTES} bytes and {MAX_FDS} descriptors, not {len(data)} and {len(fds)}")
    flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary, flags)


def receive(sock: socket.socket, *, wait: bool = False) -> Packet | None:
    """Receive one packet; ``None`` if there is none now (only without ``wait``).

    Raises:
        EOFError: the other end is closed and all packets are taken.
        OSError: the kernel refused (ENOMEM …).
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    try:
        data, ancillary, got, _ = sock.recvmsg(MAX_BYTES, _ROOM, flags)
    except BlockingIOError:
        return None
    except ConnectionResetError as error:
        raise EOFError("the other end is gone") from error
    fds = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if not data and not fds:
        raise EOFError("the other end is closed")
    return Packet(data, tuple(fds), bool(got & (socket.MSG_CTRUNC | socket.MSG_TRUNC)))
