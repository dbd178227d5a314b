"""What is said on the channel between a primary and a worker, as typed values: Node's acts, and the few it lacks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

AddressType: TypeAlias = int | str | None
"""4 or 6; -1 for a unix socket; ``udp4``, ``udp6``; ``None`` for a descriptor."""


class Act(StrEnum):
    """Values of ``act``."""

    ONLINE = "online"
    QUERY_SERVER = "queryServer"
    LISTENING = "listening"
    CLOSE = "close"
    EXITED_AFTER_DISCONNECT = "exitedAfterDisconnect"
    NEWCONN = "newconn"
    DISCONNECT = "disconnect"
    GO = "go"
    READY = "ready"
    ADMIT = "admit"
    GATE = "gate"
    FAILED = "failed"
    HANDLES = "handles"


@dataclass(frozen=True, slots=True)
class Online:
    """Worker: it runs."""


@dataclass(frozen=True, slots=True)
class QueryServer:
    """Worker: asks for a listening socket; answered by ``query_reply``.

    Attributes:
        seq: what the reply acknowledges.
        index: 0, 1, 2 … for each further listen of this worker on the same address.
        address: IP address, absolute path, or ``None`` where no host was given.
        port: -1 for a unix socket, ``None`` for a descriptor.
        address_type: see ``AddressType``.
        fd: the *primary's* descriptor of ``listen({fd})``; -1 for UDP; ``None`` otherwise.
        data: what TLS servers share (``ticketKeys``), to be returned as the first worker gave it.
        flags: bit 0 is "IPv6 only"; ``None`` if absent.
        backlog: ``None`` if absent, false or null, which all mean 511.
        readable_all: a unix socket that everybody may read.
        writable_all: a unix socket that everybody may write.
        mailbox: the worker can be handed connections by mailbox. Node's can not.
        shared: the worker wants the kernel's own socket, whatever the scheduling.
    """

    seq: int
    index: int
    address: str | None
    port: int | None
    address_type: AddressType
    fd: int | None = None
    data: Mapping[str, Any] | None = None
    flags: int | None = None
    backlog: int | None = None
    readable_all: bool = False
    writable_all: bool = False
    mailbox: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """Worker: its server of ``key`` takes no more connections for now, or takes them again.

    Node has ``accepted: false`` for it, which makes a full worker and its primary toss one connection to and fro.
    """

    key: str
    open: bool


@dataclass(frozen=True, slots=True)
class Listening:
    """Worker: a server listens. The argument of the ``listening`` event.

    Attributes:
        address_type: see ``AddressType``.
        address: what the worker asked for: ``None`` where no host was given.
        port: the real port, also where 0 was asked for; -1 for a unix socket.
        fd: the descriptor of ``listen({fd})``; -1 for UDP; ``None`` otherwise.
    """

    address_type: AddressType
    address: str | None
    port: int | None
    fd: int | None


@dataclass(frozen=True, slots=True)
class Close:
    """Worker: it closed the server that has this key."""

    key: str


@dataclass(frozen=True, slots=True)
class ExitedAfterDisconnect:
    """Worker: it is about to leave because it wants to; must be answered by ``acknowledgement(seq)`` or it hangs."""

    seq: int


@dataclass(frozen=True, slots=True)
class NewConn:
    """Primary: the descriptor that came along is a connection for the server of ``key``; answered by ``accepted``."""

    seq: int
    key: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Primary: close the servers, finish, close the channel."""


@dataclass(frozen=True, slots=True)
class Go:
    """Primary: the worker's pidfd has arrived, start. ``settings`` is whatever the boot agreed on."""

    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Admit:
    """Primary: the worker, a spare until now, has got the place ``slot``."""

    slot: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker: answers work."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker: the boot failed at ``stage`` (``import``, ``lifespan`` …); ``report`` says why."""

    stage: str
    report: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. It counts only if ``Received.ack`` says so too; which members matter depends on the question.

    Attributes:
        ack: the ``seq`` of the question.
        accepted: of ``newconn``.
        errno: of ``queryServer``: negative errno, 0 for a shared socket, ``None`` for round robin.
        key: of ``queryServer``.
        data: of ``queryServer``.
        sockname: of ``queryServer``: host and port where round robin really listens; ``None`` for a unix socket.
        mailbox: of ``queryServer``: the descriptor that came along is the mailbox that connections come by.
    """

    ack: int
    accepted: bool | None = None
    errno: int | None = None
    key: str | None = None
    data: Mapping[str, Any] | None = None
    sockname: tuple[str, int] | None = None
    mailbox: bool = False


FromWorker: TypeAlias = Online | QueryServer | Listening | Close | Gate | ExitedAfterDisconnect | Ready | Failed | Reply
FromPrimary: TypeAlias = NewConn | Disconnect | Go | Admit | Reply
