"""Lines to the service manager: sd_notify(3) over the datagram socket that ``$NOTIFY_SOCKET`` names."""

import array
import os
import select
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final

import sdnotify

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

_LONGEST_WATCHDOG: Final = 366 * 24 * 3600.0


class Notifier:
    """Sends lines, without ever blocking or raising: a manager may be slow, gone or absent.

    Attributes:
        available: whether the environment names a socket, reachable or not.
        watchdog: seconds within which the manager wants ``WATCHDOG=1`` again and again (sd_watchdog_enabled(3));
            ``None`` if it does not, or not from this process.
        variables: those of the environment that say so, as they were.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None, *, unset: bool = False) -> None:
        """Read the address; nothing is sent.

        Args:
            environ: ``None`` is ``os.environ``. Of ``NOTIFY_SOCKET`` a path and ``@name`` (abstract) are understood.
            unset: take the variables out of ``environ``, so that programs started later do not speak for this one.
        """
        environ = os.environ if environ is None else environ
        self.variables = {variable: environ[variable] for variable in _VARIABLES if variable in environ}
        name, usec, pid = (environ.get(variable, "") for variable in _VARIABLES)
        if unset:
            for variable in _VARIABLES:
                environ.pop(variable, None)
        self.available = name[:1] in ("/", "@") and len(name) > 1
        self.watchdog = _seconds(usec) if self.available and pid in ("", str(os.getpid())) else None
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._manager: sdnotify.SystemdNotifier | None = None

    def send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        """Send lines in one message: ``send("READY=1", "STATUS=4 of 4")``.

        Args:
            lines: the assignments; line breaks in them become spaces.
            fds: descriptors that go with the message (``FDSTORE=1``, ``BARRIER=1``); they stay open here.

        Returns:
            Whether the kernel took it. False: there is no manager, or it is unreachable or its queue is full now; what
            must arrive (``READY=1``) is to be sent again.
        """
        if not self.available or not lines:
            return False
        raw = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace")
        try:
            if self._manager is None:
                self._manager = self._connect()
            try:
                self._post(self._manager, raw, fds)
            except BlockingIOError:
                return False
            except OSError:  # the manager is gone, or made its socket anew: once more from the start
                self.close()
                self._manager = self._connect()
                self._post(self._manager, raw, fds)
        except (OSError, ValueError):
            self.close()
            return False
        return True

    def barrier(self, timeout: float) -> bool:
        """Wait until the manager has dealt with all that was sent before (sd_notify_barrier(3)).

        A message is attributed by the sender's pid: of a process that ends at once, the manager may find no unit.

        Args:
            timeout: seconds that this may take at most; it blocks.

        Returns:
            Whether it has. False: there is none, it is unreachable, or too slow.
        """
        if not self.available:
            return False
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                if not self.send("BARRIER=1", fds=[writing]):
                    return False
            finally:
                os.close(writing)
            poll = select.poll()
            poll.register(reading, 0)  # POLLHUP is always told: the manager has closed its copy
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(reading)

    def close(self) -> None:
        """Close the socket; the next ``send`` opens it again."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.socket.close()

    @staticmethod
    def _post(manager: sdnotify.SystemdNotifier, raw: bytes, fds: Sequence[int]) -> None:
        if fds:  # the package sends plain lines only
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            manager.socket.sendmsg([raw], ancillary)
        else:
            # It encodes in Latin-1, the manager reads UTF-8: bytes of the one are smuggled through the other.
            manager.notify(raw.decode("latin-1"))

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


def _seconds(usec: str) -> float | None:
    if not (usec.isascii() and usec.isdigit()) or len(usec) > 20:
        return None
    return min(int(usec) / 1e6, _LONGEST_WATCHDOG) or None
