"""Sockets that this process was born with: what LISTEN_FDS says of them, and making one's own of each.

The open file description of such a socket stays shared with whoever passed it (the service manager keeps it over our
end, and the next process serves what waits in it), so what is done to it is done to theirs: never ``shutdown``, no
filter, no ``unlink``. That it is made non-blocking is the one exception. It must be: another holder may take the
connection that poll(2) showed us, and a blocking accept(2) would then stop the whole process. A manager only polls, so
it does not mind; systemd sets the flag as each service says (``NonBlocking=``) only when it starts one. A sharer that
accepts too has to bear EAGAIN, and must not make it blocking again.
"""

import os
import socket
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from clusterd.errors import HostError

FIRST: Final = 3
"""The number of the first descriptor passed: SD_LISTEN_FDS_START."""

MOST: Final = 4096
"""More than this no manager passes: what says so is garbage."""

_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_KINDS: Final = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe or FIFO",
}


@dataclass(frozen=True, slots=True)
class Passed:
    """One descriptor that was passed.

    Attributes:
        fd: its number.
        name: as ``LISTEN_FDNAMES`` has it, systemd's default for which is the socket unit's; empty without that.
    """

    fd: int
    name: str = ""

    def __str__(self) -> str:
        return f"descriptor {self.fd} (LISTEN_FDS{f', named {self.name!r}' if self.name else ''})"


@dataclass(frozen=True, slots=True)
class Activation:
    """What the environment says was passed.

    Attributes:
        passed: in the order of their numbers.
        ignored: why the variables were not for this process, a sentence; empty if they were, or were not there.
    """

    passed: tuple[Passed, ...] = ()
    ignored: str = ""


def take(environ: MutableMapping[str, str] | None = None) -> Activation:
    """Read what the service manager passed (sd_listen_fds(3)), and take it out of the environment.

    The variables mean the process whose pid they tell: a program between the manager and this one that does not
    ``exec`` it leaves ours with variables that are not for us.

    Args:
        environ: ``None`` is ``os.environ``. ``LISTEN_PID``, ``LISTEN_FDS``, ``LISTEN_FDNAMES`` and ``LISTEN_PIDFDID``
            are taken out of it, whatever they say.

    Raises:
        HostError: they are for this process and make no sense.
    """
    environ = os.environ if environ is None else environ
    said = {name: environ.pop(name) for name in _VARIABLES if name in environ}
    pid, count, names = said.get("LISTEN_PID"), said.get("LISTEN_FDS"), said.get("LISTEN_FDNAMES")
    if pid is None or count is None:
        return Activation()
    number = _number("LISTEN_PID", pid, 2**31 - 1)
    if number != os.getpid():
        return Activation(
            ignored=f"LISTEN_PID is {number} and this process {os.getpid()}, so the sockets passed are not used;"
            " a script that starts it has to use exec"
        )
    total = _number("LISTEN_FDS", count, MOST)
    given = names.split(":") if names is not None else [""] * total
    if len(given) != total and (names or total):  # no names of no sockets split into one empty name
        raise HostError(f"LISTEN_FDNAMES has {len(given)} names for {total} descriptors (LISTEN_FDS): {names!r:.200}")
    return Activation(tuple(Passed(FIRST + index, name) for index, name in enumerate(given[:total])))


def _number(name: str, text: str, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= high):
        raise HostError(f"{name} is {text!r:.80}, where a number from 0 to {high} was expected (sd_listen_fds(3))")
    return int(text)


def adopt(fd: int, shown: str, *, backlog: int | None = None) -> socket.socket:
    """Make an inherited listening socket our own: non-blocking, close-on-exec.

    Args:
        fd: its number, the returned object's from now on.
        shown: what error messages call it.
        backlog: connections that wait to be accepted, for one that does not listen yet; ``None`` refuses such a one.
            One that listens keeps what it was given.

    Raises:
        HostError: it is not open, was not inherited, or is no listening stream socket of TCP or unix.
    """
    try:
        kind = os.fstat(fd).st_mode
        inherited = os.get_inheritable(fd)
    except OSError:
        raise HostError(f"{shown} is not open: whoever starts this process has to pass it") from None
    if not inherited:  # exec(2) closes what is close-on-exec: this process has opened it itself
        raise HostError(f"{shown} was not passed to this process: whoever starts it has to")
    if not stat.S_ISSOCK(kind):
        what = _KINDS.get(stat.S_IFMT(kind), "something else")
        raise HostError(f"{shown} is no socket but {what}; a listening stream socket was expected")
    sock = socket.socket(fileno=fd)
    try:
        _check(sock, shown, backlog)
        sock.set_inheritable(False)
        sock.setblocking(False)
    except BaseException:
        sock.detach()
        raise
    return sock


def _check(sock: socket.socket, shown: str, backlog: int | None) -> None:
    if sock.type != socket.SOCK_STREAM:
        raise HostError(f"{shown} is a socket of type {_name(sock.type)}; one of SOCK_STREAM was expected")
    if sock.family not in _FAMILIES:
        raise HostError(
            f"{shown} is a socket of family {_name(sock.family)}; one of AF_INET, AF_INET6 or AF_UNIX was expected"
        )
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return
    if backlog is None:
        raise HostError(f"{shown} does not listen; a listening socket was expected (ListenStream= without Accept=yes)")
    name = sock.getsockname()
    if not (name[1] if isinstance(name, tuple) else name):  # listen(2) would take a port of the kernel's choice
        raise HostError(f"{shown} is bound to no address; whoever passes it has to bind it")
    try:
        sock.listen(backlog)
    except OSError as error:
        raise HostError(f"{shown} cannot listen: {os.strerror(error.errno or 0)}") from None


def _name(number: int) -> str:
    """What Python knows by name is an enumeration's member, all else the plain number."""
    return number.name if isinstance(number, Enum) else str(number)
