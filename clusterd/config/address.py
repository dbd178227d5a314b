"""What an address in the configuration says: ``host:port``, ``unix:PATH``, ``unix:@NAME`` or ``fd:N``."""

import ipaddress
import re
from typing import Literal

import msgspec

EXPECTED = (
    'an address such as "127.0.0.1:8000", "[::1]:8000", ":8000" (all interfaces), "unix:/run/shop.sock" or "fd:3"'
)

# sun_path of unix(7) holds 108 bytes, one of them the closing NUL.
UNIX_PATH_MAX = 107

# The first number that a passed descriptor may have, as for sd_listen_fds(3).
FIRST_FD = 3

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_FD = re.compile(r"[0-9]{1,6}")


class Address(msgspec.Struct, frozen=True):
    """Where a socket listens. ``str()`` of it is the form that :func:`parse_address` reads.

    Attributes:
        kind: ``tcp``, ``unix`` or ``fd``.
        host: of ``tcp``: an IPv4 address, an IPv6 address without brackets, a host name, or ``""`` for all interfaces.
        port: of ``tcp``: 0 lets the kernel choose.
        path: of ``unix``: the socket's file, absolute once the configuration is loaded; or ``@`` and the name of an
            abstract socket (unix(7)), which has no file.
        fd: of ``fd``: the number of the inherited descriptor, else -1.
    """

    kind: Literal["tcp", "unix", "fd"] = "tcp"
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd:{self.fd}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_file(self) -> bool:
        """Whether the socket has a file, and so a mode and an owner."""
        return self.kind == "unix" and not self.path.startswith("@")

    def overlaps(self, other: "Address") -> bool:
        """Whether the kernel would refuse to listen on both: the same place, or a wildcard that contains the other."""
        if self.kind != other.kind:
            return False
        if self.kind == "unix":
            return self.path == other.path
        if self.kind == "fd":
            return self.fd == other.fd
        if self.port != other.port or self.port == 0:
            return False
        return _holds(self.host, other.host) or _holds(other.host, self.host)


def _holds(one: str, other: str) -> bool:
    """Whether listening on host ``one`` includes host ``other``. Host names are compared as written."""
    if one == other or one == "":
        return True
    if one == "0.0.0.0":
        return ":" not in other and other != ""
    return one == "::" and ":" in other


def parse_address(text: str) -> Address:
    """Reads one address.

    Raises:
        ValueError: says what is wrong with it and what was expected.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path in ("", "@") or "\0" in path:
            raise ValueError(f'expected "unix:" and a path, such as "unix:/run/shop.sock", found {text!r:.80}')
        if len(path.encode(errors="surrogateescape")) > UNIX_PATH_MAX:
            raise ValueError(f"the path is longer than the {UNIX_PATH_MAX} bytes that a unix socket may have")
        return Address(kind="unix", path=path)
    if text.startswith("fd:"):
        number = text.removeprefix("fd:")
        if not _FD.fullmatch(number):
            raise ValueError(f'expected "fd:" and a number, such as "fd:3", found {text!r:.80}')
        if int(number) < FIRST_FD:
            raise ValueError(
                f"0 to 2 are standard input, output and error; expected {FIRST_FD} or more, found {text!r}"
            )
        return Address(kind="fd", fd=int(number))
    if "://" in text:
        raise ValueError(f"expected {EXPECTED}; an address has no scheme: found {text!r:.80}")
    host, colon, port = text.rpartition(":")
    if not colon:
        hint = f'; write ":{text}" for a port on all interfaces' if _PORT.fullmatch(text) else "; the port is missing"
        raise ValueError(f"expected {EXPECTED}, found {text!r:.80}{hint}")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError(f"expected a port from 0 to 65535 after the last colon, found {text!r:.80}")
    return Address(host=_host(host, text), port=int(port))


def _host(host: str, text: str) -> str:
    if not host:
        return ""
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{host[:80]!r} is no IPv6 address; expected {EXPECTED}") from None
    if ":" in host:
        raise ValueError(f'an IPv6 address stands in brackets, such as "[::1]:8000"; found {text!r:.80}')
    # A last part of digits is an IPv4 address to every resolver, so "10.0.0.256" is a slip and no host name.
    if host.rstrip(".").rpartition(".")[2].isdigit():
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{host[:80]!r} is no IPv4 address; expected {EXPECTED}") from None
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{host[:80]!r} is no host name; expected {EXPECTED}")
    return host
