"""Listening sockets that the service manager keeps for us: a primary that is killed leaves them to its successor.

A socket that we have bound ourselves is given to the manager's descriptor store (``FDSTORE=1``, sd_notify(3)) under a
name that says whose it is: the listener's, and of a unix socket also which file is its. The manager passes it to the
next process of the service as it passes those of socket units, and by that name it is told from them: what it is for
is the configuration's affair, which may have changed meanwhile; one that does not fit any more is forgotten.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from ..config.schema import Listener
from ..errors import HostError
from ..unix import activation, local
from . import passed
from .listeners import Opened

_PREFIX = "kept@"


@dataclass(frozen=True, slots=True)
class Kept:
    """What the manager has kept.

    Attributes:
        opened: listeners' sockets, ours again, by listener.
        forgotten: the names of those that are not wanted any more.
        given: the rest of what was passed.
    """

    opened: dict[str, Opened] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()
    given: activation.Activation = field(default_factory=activation.Activation)


def names(opened: Mapping[str, Opened]) -> dict[str, int]:
    """What the manager is to keep, by name: the sockets that we have bound ourselves."""
    return {_name(listener, one): one.sock.fileno() for listener, one in opened.items() if not one.inherited}


def _name(listener: str, one: Opened) -> str:
    file = one.bound.file if one.bound is not None else None
    return f"{_PREFIX}{listener}" + (f"@{file[0]}.{file[1]}" if file is not None else "")


def recover(listeners: Mapping[str, Listener], given: activation.Activation) -> Kept:
    """Take back what was kept; what fits no listener is closed."""
    opened: dict[str, Opened] = {}
    forgotten: list[str] = []
    rest = []
    for one in given.passed:
        if not one.name.startswith(_PREFIX):
            rest.append(one)
            continue
        listener, _, file = one.name.removeprefix(_PREFIX).partition("@")
        found = _adopt(one, None if listener in opened else listeners.get(listener), file)
        if found is None:
            forgotten.append(one.name)
        else:
            opened[listener] = found
    return Kept(opened, tuple(forgotten), replace(given, passed=tuple(rest)))


def _adopt(one: activation.Passed, listener: Listener | None, file: str) -> Opened | None:
    """The socket, if the listener wants it; else it is closed."""
    backlog = 1 if listener is None else listener.backlog
    try:
        sock = activation.adopt(one.fd, str(one), backlog=backlog)
    except HostError:
        return None
    bound = _bound(sock, file)
    if listener is None or not _fits(listener, sock) or (file and bound is None):
        sock.close()
        return None
    sock.listen(listener.backlog)
    return Opened(sock, bound)


def _fits(listener: Listener, sock: socket.socket) -> bool:
    address = listener.address
    if address.kind == "tcp" and address.port == 0 and sock.family != socket.AF_UNIX:
        address = msgspec.structs.replace(address, port=sock.getsockname()[1])  # clients have learnt it
    return address.kind != "fd" and passed.fits(address)(sock)


def _bound(sock: socket.socket, file: str) -> local.Bound | None:
    """The socket's file, if it is still there; its directory may have been removed with the service's end."""
    if sock.family != socket.AF_UNIX:
        return None
    path = passed.path(sock.getsockname())
    if path.startswith("@"):
        return local.Bound(sock, path, None)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    same = file == f"{found.st_dev}.{found.st_ino}"
    return local.Bound(sock, path, (found.st_dev, found.st_ino)) if same else None
