"""The other end of sd_notify(3): a socket that a program tells that it is ready, as it would tell systemd."""

import os
import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_ROOM: Final = socket.CMSG_SPACE(_CREDENTIALS.size)

MAX_BYTES: Final = 4096
"""The longest message that is read; what is longer says nothing (systemd's own bound is the same)."""


class Notified:
    """A datagram socket in the abstract namespace, so that a program of any user reaches it. Non-blocking.

    Its name cannot be guessed but can be seen (``/proc/net/unix``), so the kernel says who sent: what another user says
    is not heard. Descriptors that come along are closed by the kernel, which is how ``BARRIER=1`` is answered.

    Args:
        fd: one that a predecessor in this process has left; ``None`` makes one.

    Attributes:
        address: for ``NOTIFY_SOCKET``.

    Raises:
        OSError: the kernel is short of something.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is not None:
            self._sock = socket.socket(fileno=fd)
        else:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                self._sock.bind(f"\0clusterd-{os.urandom(16).hex()}")
            except BaseException:
                self._sock.close()
                raise
        name = self._sock.getsockname()
        self.address = f"@{(name if isinstance(name, bytes) else name.encode())[1:].decode()}"

    def fileno(self) -> int:
        """For a loop's reader; -1 once it is closed."""
        return self._sock.fileno()

    def receive(self) -> tuple[int, tuple[str, ...]] | None:
        """One message: the sender's uid, and its lines; no lines if it is too long, no text or from nobody known.

        Returns:
            ``None`` if there is none now.
        """
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, got, _ = self._sock.recvmsg(MAX_BYTES, _ROOM, flags)
        except BlockingIOError:
            return None
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(raw) == _CREDENTIALS.size:
                lines = () if got & socket.MSG_TRUNC else tuple(data.decode("utf-8", "replace").splitlines())
                return _CREDENTIALS.unpack(raw)[1], lines
        return -1, ()

    def close(self) -> None:
        """Harmless when repeated."""
        self._sock.close()
