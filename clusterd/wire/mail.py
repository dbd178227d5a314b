"""What is written on a connection handed over by mailbox: the peer's address and the time of accept.

One message, at most ``MAX_SIZE`` bytes: a version, the time, the port, the host as text. A probe is the version alone
and comes without a descriptor.
"""

from struct import Struct
from typing import Final, NamedTuple

from clusterd.errors import PeerError

VERSION: Final = 1
MAX_SIZE: Final = 256
"""Bytes that a reader must have room for. A numeric address needs 45 at most, its scope 16."""

PROBE: Final = bytes([VERSION])
"""The message without a connection: whoever takes it shows that it takes mail."""

_HEAD = Struct("!BQH")
_SIZE = _HEAD.size
_unpack = _HEAD.unpack_from
head = _HEAD.pack
"""``head(VERSION, accepted_ns, port)`` is what goes before the host in a letter, for who cannot afford ``pack``."""


class Letter(NamedTuple):
    """A connection's papers.

    Attributes:
        host: the peer's address as text, an IPv6 scope included; empty for a peer on a unix socket, which has none.
        port: the peer's port; 0 for a peer on a unix socket.
        accepted_ns: ``CLOCK_MONOTONIC`` of the accept, nanoseconds.
    """

    host: str
    port: int
    accepted_ns: int


def pack(host: str, port: int, accepted_ns: int) -> bytes:
    """Returns the message for one connection. The primary's hot path: a quarter of a microsecond.

    Nothing is checked that the kernel vouches for: ``host`` and ``port`` are to come from ``accept``.

    Args:
        host: the peer's address as ``accept`` gives it; ``""`` for a peer on a unix socket.
        port: its port; 0 for a peer on a unix socket.
        accepted_ns: ``time.monotonic_ns()`` at the accept.
    """
    return head(VERSION, accepted_ns, port) + host.encode()


def of(address: object, accepted_ns: int) -> bytes:
    """As ``pack``, of the address as accept(2) gives it in Python."""
    return pack(address[0], address[1], accepted_ns) if isinstance(address, tuple) else pack("", 0, accepted_ns)


def unpack(message: bytes) -> Letter:
    """Reads what ``pack`` wrote. Compare with ``PROBE`` first: a probe is no letter.

    Raises:
        PeerError: ``message`` is anything else, whatever its bytes.
    """
    if message[:1] != PROBE:
        came = str(message[0]) if message else "none"
        raise PeerError(f"mail of version {came} came, version {VERSION} was expected")
    if not _SIZE <= len(message) <= MAX_SIZE:
        raise PeerError(f"mail of {len(message)} bytes came, {_SIZE} to {MAX_SIZE} was expected")
    try:
        host = message[_SIZE:].decode()
    except UnicodeDecodeError:
        raise PeerError(f"mail came with a host that is no text: {message[_SIZE:]!r}") from None
    _, accepted_ns, port = _unpack(message)
    return Letter(host, port, accepted_ns)
