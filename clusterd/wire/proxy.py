"""The PROXY protocol, versions 1 and 2: who the client of a proxy is, told in front of the connection's own bytes.

Source: "The PROXY protocol, Versions 1 & 2" (haproxy's ``proxy-protocol.txt``), sections 2.1 and 2.2.
"""

import ipaddress
from struct import Struct
from typing import Final, NamedTuple

from ..errors import PeerError

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1: Final = 107
"""Bytes of the longest header of version 1, its end included (section 2.1)."""
MAX_V2: Final = 16 + 2048
"""Bytes taken of a header of version 2. Its length field could say 65535; addresses and the usual TLVs need less."""

_HEAD = Struct("!12sBBH")
_ADDRESSES = {0x1: Struct("!4s4sHH"), 0x2: Struct("!16s16sHH")}
_UNIX_SIZE: Final = 216


class Header(NamedTuple):
    """One header.

    Attributes:
        size: its bytes; what comes after them is the connection's own.
        client: address and port of the proxy's client; ``None``: the proxy speaks for itself (a health check), or for
            one whose address has no such form, and the connection's own peer counts.
        server: address and port that the client had connected to.
    """

    size: int
    client: tuple[str, int] | None = None
    server: tuple[str, int] | None = None


def parse(data: bytes) -> Header | None:
    """Read a header at the beginning of ``data``.

    Returns:
        The header; ``None`` while what has come so far may become one.

    Raises:
        PeerError: this is no such header, and never will be. Nothing else is raised, whatever the bytes.
    """
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _parse_v2(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _parse_v1(data)
    raise PeerError(f"a PROXY header was expected, and {data[:12]!r} came; the client is no proxy that sends one")


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise PeerError(f"a PROXY header of version 1 is longer than {MAX_V1} bytes")
        return None
    line = data[:end]
    words = line.split(b" ")
    if words[1:2] == [b"UNKNOWN"]:
        return Header(end + 2)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise PeerError(f"a PROXY header is malformed: {line!r}")
    family = ipaddress.IPv4Address if words[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        client, server = (str(family(word.decode("ascii"))) for word in words[2:4])
    except ValueError:
        raise PeerError(f"a PROXY header has an address that is none: {line!r}") from None
    return Header(end + 2, (client, _port(words[4], line)), (server, _port(words[5], line)))


def _port(word: bytes, line: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (len(word) > 1 and word[:1] == b"0") or int(word) > 65535:
        raise PeerError(f"a PROXY header has a port that is none: {line!r}")
    return int(word)


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < _HEAD.size:
        return None
    _, version, family, length = _HEAD.unpack_from(data)
    command = version & 0x0F
    if version >> 4 != 2 or command > 1:
        raise PeerError(
            f"a PROXY header of version 2 has version and command {version:#04x}; 0x20 or 0x21 was expected"
        )
    size = _HEAD.size + length
    if size > MAX_V2:
        raise PeerError(f"a PROXY header of {size} bytes came; at most {MAX_V2} are taken")
    if len(data) < size:
        return None
    if command == 0:  # LOCAL: a health check of the proxy's own
        return Header(size)
    layout = _ADDRESSES.get(family >> 4)
    if layout is None:  # unspecified, or a unix socket: the receiver uses the connection's own addresses (section 2.2)
        if family >> 4 == 0x3 and length < _UNIX_SIZE:
            raise PeerError("a PROXY header of a unix socket is too short for its addresses")
        return Header(size)
    if length < layout.size:
        raise PeerError("a PROXY header of version 2 is too short for its addresses")
    client, server, client_port, server_port = layout.unpack_from(data, _HEAD.size)
    return Header(size, (_text(client), client_port), (_text(server), server_port))


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
