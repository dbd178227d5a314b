"""Which of the sockets that the service manager passed is which listener's.

1. By name: ``LISTEN_FDNAMES`` says the listener's name, or that and ``.socket`` (systemd's default is the unit's name).
   The configured address does not count then, for the manager's is what clients know; of several of one name (a socket
   unit with several ``ListenStream=``) the address chooses.
2. By address, for listeners that have none yet. A port or a path has to be the same, and the host:
   an empty one (every interface) fits ``[::]`` that takes IPv4 too, and ``0.0.0.0``; ``0.0.0.0`` and ``[::]`` fit
   themselves (whether such a ``[::]`` takes IPv4 too is the manager's choice); a name fits any address that it has; an
   IPv4 address fits itself as IPv6 writes it, ``::ffff:127.0.0.1``. Port 0 fits nothing.
3. A single socket fits a single listener.

A listener ``fd:N`` has said which it wants, and takes no part. A socket that nobody wants is an error: a manager that
queues connections which are never accepted lets its clients hang. A listener that gets none is bound as usual.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.address import Address
from ..errors import HostError
from ..unix.activation import Passed
from ..unix.sockets import in_ascii


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passed socket, adopted and checked."""

    passed: Passed
    sock: socket.socket

    def __str__(self) -> str:
        return f"{self.passed}, listening on {show(self.sock.getsockname())}"


def show(name: object) -> str:
    """A socket's own address as people write it, and as the configuration has it."""
    if isinstance(name, tuple):
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{path(name)}"


def path(name: Any) -> str:
    """What ``getsockname`` tells of a unix socket, as text: a path, or ``@`` and an abstract name."""
    raw = os.fsencode(name)
    return ("@" + raw[1:].decode(errors="backslashreplace")) if raw[:1] == b"\0" else os.fsdecode(raw)


def match(candidates: Sequence[Candidate], listeners: Mapping[str, Address]) -> dict[str, socket.socket]:
    """The socket of each listener that gets one.

    Args:
        candidates: all that was passed and is not taken yet.
        listeners: the addresses of all listeners that a socket may be for, by name.

    Raises:
        HostError: a socket fits no listener, or of a listener's several none alone fits its address.
    """
    left = list(candidates)
    found: dict[str, socket.socket] = {}

    def take(name: str, candidate: Candidate) -> None:
        found[name] = candidate.sock
        left.remove(candidate)

    for name, address in listeners.items():
        named = [one for one in left if one.passed.name in (name, f"{name}.socket")]
        fitting = named if len(named) == 1 else _fitting(address, named)
        if fitting:
            take(name, fitting[0])
        elif named:
            raise HostError(
                f"of several sockets that were passed for listener {name} ({'; '.join(map(str, named))}) none fits its"
                f" address, {address}; give it the address of one of them, and each of the others a listener"
            )
    for name, address in listeners.items():
        if name not in found and (fitting := _fitting(address, left)):
            take(name, fitting[0])
    if len(candidates) == len(listeners) == 1 and left:
        take(next(iter(listeners)), left[0])
    if left:
        known = ", ".join(f"{name} ({address})" for name, address in listeners.items() if name not in found) or "none"
        raise HostError(
            f"{'; '.join(map(str, left))}: no listener fits. Listeners without a socket: {known}. Give one of them that"
            " name (FileDescriptorName=) or that address, or pass the socket no more"
        )
    return found


def _fitting(address: Address, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that fit, in the order in which they were passed."""
    if not candidates:
        return []
    good = fits(address)
    return [one for one in candidates if good(one.sock)]


def fits(address: Address) -> Callable[[socket.socket], bool]:
    """Whether a socket listens where the address says."""
    if address.kind == "unix":
        wanted = _real(address.path)
        return lambda sock: sock.family == socket.AF_UNIX and _real(path(sock.getsockname())) == wanted
    if address.port == 0:
        return lambda sock: False
    if address.host == "":
        return lambda sock: sock.family != socket.AF_UNIX and _takes_all(sock, address.port)
    places = _places(address.host, address.port)
    return lambda sock: sock.family != socket.AF_UNIX and _place(sock.getsockname()) in places


def _real(path: str) -> str:
    """``/var/run`` is ``/run`` on most machines; the socket's own name is left alone."""
    folder, name = os.path.split(path)
    return path if path.startswith("@") else os.path.join(os.path.realpath(folder), name)


def _takes_all(sock: socket.socket, port: int) -> bool:
    host, bound = sock.getsockname()[:2]
    if bound != port:
        return False
    if host == "::":
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return bool(host == "0.0.0.0")


def _places(host: str, port: int) -> set[tuple[str, int, int]]:
    try:
        return {_place(entry[4]) for entry in socket.getaddrinfo(in_ascii(host), port, type=socket.SOCK_STREAM)}
    except (OSError, ValueError):
        return set()  # it is no address here: to bind it will say so


def _place(name: tuple[Any, ...]) -> tuple[str, int, int]:
    """Host, port and scope."""
    host = name[0].partition("%")[0]
    if "." in host:
        host = host.removeprefix("::ffff:")
    return host, name[1], name[3] if len(name) > 2 else 0
