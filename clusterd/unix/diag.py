"""The accept queue of a listening unix socket, which no socket option tells: sock_diag(7) over netlink."""

import errno
import os
import socket
import struct
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_ALL_STATES: Final = 0xFFFFFFFF
_UDIAG_SHOW_RQLEN: Final = 0x10
_UNIX_DIAG_RQLEN: Final = 4
_NO_COOKIE: Final = 0xFFFFFFFF
_LISTENING: Final = 10  # TCP_LISTEN, which the kernel has unix sockets share

_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBHIIIII")  # struct unix_diag_req: family, protocol, -, states, inode, show, cookie
_ANSWER: Final = struct.Struct("=BBBBIII")  # struct unix_diag_msg: family, type, state, -, inode, cookie
_ATTRIBUTE: Final = struct.Struct("=HH")  # struct rtattr: length, type


def unix_accept_queue(fd: int) -> tuple[int, int]:
    """``(waiting, limit)``: connections in a unix listener's accept queue, and the backlog that it was given.

    Raises:
        OSError: it does not listen, or the kernel does not tell (built without CONFIG_UNIX_DIAG, or sandboxed).
    """
    request = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, _ALL_STATES, os.fstat(fd).st_ino, _UDIAG_SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE
    )
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG) as netlink:
        netlink.sendto(header + request, (0, 0))
        answer = netlink.recv(4096)  # it is there: the kernel answers within the call that asks
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        raise OSError(-code, os.strerror(-code))
    if _ANSWER.unpack_from(answer, _HEADER.size)[2] != _LISTENING:
        raise OSError(errno.EINVAL, "the unix socket does not listen")
    at = _HEADER.size + _ANSWER.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _UNIX_DIAG_RQLEN:
            waiting, limit = struct.unpack_from("=II", answer, at + _ATTRIBUTE.size)
            return waiting, limit
        at += (max(length, _ATTRIBUTE.size) + 3) & ~3
    raise OSError(errno.EOPNOTSUPP, "the kernel did not tell the queue's length")
