"""What goes through a channel, as its owner sees it: a message, and the descriptor that travels with it."""

from typing import Any, Final, NamedTuple

NATIVE: Final = "net.Native"
SOCKET: Final = "net.Socket"
SERVER: Final = "net.Server"
DGRAM: Final = "dgram.Socket"
DGRAM_NATIVE: Final = "dgram.Native"


class Received(NamedTuple):
    """One message from the peer.

    Attributes:
        message: any JSON value. For a handle it is the inner message, without its envelope.
        fd: the descriptor that came with it, the owner's from now on; ``None`` for a message without a handle.
        internal: it is one of Node's own (``cmd`` begins with ``NODE_``) and never a user's ``message`` event.
        kind: the envelope's ``type``, ``net.Native`` and so on; ``None`` without a handle, or if it was no string.
        ack: the ``seq`` of the question asked here that this answers; ``None`` for everything else, answers nobody
            asked for among it. Each question is answered at most once.
    """

    message: Any
    fd: int | None = None
    internal: bool = False
    kind: str | None = None
    ack: int | None = None


class Outgoing(NamedTuple):
    """One ``sendmsg``: ``fd`` goes with the first byte; after a partial write the rest goes without."""

    data: bytes
    fd: int | None


class Returned(NamedTuple):
    """A handle that did not arrive, for all that is known.

    Attributes:
        message: the message it was sent with, its ``seq`` added; it did not arrive either.
        fd: the descriptor, the owner's again.
        kind: as it was sent.
        attempts: how often ``outgoing`` handed it out. 0: the peer cannot have it. More, on a channel that ended: the
            peer may have taken it and died before it said so.
    """

    message: Any
    fd: int
    kind: str
    attempts: int


def is_internal(message: object) -> bool:
    """Whether ``message`` is one of Node's own: an object whose ``cmd`` begins with ``NODE_`` and goes on."""
    if type(message) is not dict:
        return False
    cmd = message.get("cmd")
    return type(cmd) is str and len(cmd) > 5 and cmd.startswith("NODE_")
