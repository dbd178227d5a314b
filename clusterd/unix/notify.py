"""Lines to the service manager: sd_notify(3) over the datagram socket that ``$NOTIFY_SOCKET`` names."""

import os
import socket
from collections.abc import MutableMapping

import sdnotify


class Notifier:
    """Sends lines, without ever blocking or raising: a manager may be slow, gone or absent.

    Attributes:
        available: whether the environment names a socket, reachable or not.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None, *, unset: bool = False) -> None:
        """Read the address; nothing is sent.

        Args:
            environ: ``None`` is ``os.environ``. Of ``NOTIFY_SOCKET`` a path and ``@name`` (abstract) are understood.
            unset: take the variable out of ``environ``, so that programs started later do not speak for this one.
        """
        environ = os.environ if environ is None else environ
        name = environ.get("NOTIFY_SOCKET", "")
        if unset:
            environ.pop("NOTIFY_SOCKET", None)
        self.available = name[:1] in ("/", "@") and len(name) > 1
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._manager: sdnotify.SystemdNotifier | None = None

    def send(self, *lines: str) -> bool:
        """Send lines in one message: ``send("READY=1", "STATUS=4 of 4")``.

        Returns:
            Whether the kernel took it. False: there is no manager, or it is unreachable or its queue is full now; what
            must arrive (``READY=1``) is to be sent again.
        """
        if not self.available or not lines:
            return False
        # sdnotify encodes in Latin-1, the manager reads UTF-8: bytes of the one are smuggled through the other.
        text = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace").decode("latin-1")
        try:
            if self._manager is None:
                self._manager = self._connect()
            try:
                self._manager.notify(text)
            except BlockingIOError:
                return False
            except OSError:  # the manager is gone, or made its socket anew: once more from the start
                self.close()
                self._manager = self._connect()
                self._manager.notify(text)
        except (OSError, ValueError):
            self.close()
            return False
        return True

    def close(self) -> None:
        """Close the socket; the next ``send`` opens it again."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.socket.close()

    def _connect(self) -> sdnotify.SystemdNotifier:
        # The package's own constructor reads os.environ, leaks a socket where there is no manager, and connects one
        # that blocks when the manager's queue is full (net.unix.max_dgram_qlen): it is given a socket of ours instead.
        # With debug it raises where it would else swallow what failed.
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        manager = object.__new__(sdnotify.SystemdNotifier)
        manager.socket = sock
        manager.debug = True
        return manager
