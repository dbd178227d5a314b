"""The socket of a connection that was handed over or accepted, at the least cost that a loop can be content with."""

import socket


class _Handed(socket.socket):
    """A connection whose family and type are plain numbers.

    ``socket.socket`` makes them members of an enum each time that it is asked, 0.5 us, and the loops ask five times.
    uvloop must find one of ``socket.socket``: what is none it closes a second time, and by then another thread may have
    opened something of that number.
    """

    __slots__ = ()
    __init__ = socket.SocketType.__init__
    family = socket.SocketType.family  # type: ignore[assignment]
    type = socket.SocketType.type  # type: ignore[assignment]


class Lent:
    """What uvloop asks of a socket whose descriptor it closes by itself, and nothing else: 1 us less than a socket.

    Its ``close`` does nothing, for that is what uvloop calls when it has closed the descriptor.
    """

    __slots__ = ("_fd", "_io_refs", "family")
    type = int(socket.SOCK_STREAM)

    def __init__(self, fd: int, family: int) -> None:
        self._fd = fd
        self._io_refs = 0
        self.family = family

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def close(self) -> None:
        """It is closed."""


def handed(family: int, kind: int, proto: int, fd: int) -> socket.socket:
    """The socket of a connection; what is -1 is found out.

    Raises:
        OSError: ``fd`` is no socket.
    """
    sock: socket.socket = _Handed(family, kind, proto, fd)
    sock._io_refs = 0  # type: ignore[attr-defined]  # what socket.socket does besides
    sock._closed = False  # type: ignore[attr-defined]
    return sock
