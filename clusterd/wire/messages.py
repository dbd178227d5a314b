"""What a primary and its workers say to each other: the acts of Node's cluster, and the few it lacks.

Constructors return the ``NODE_CLUSTER`` objects of Node's ``lib/internal/cluster``, members in its order;
``Channel.send`` and ``Channel.ask`` add the ``seq``. ``read`` is the one reader: typed, and strict about what the
receiver would act upon. ``go``, ``ready`` and ``failed`` are clusterd's own; Node ignores acts that it does not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from clusterd.wire.lines import encode
from clusterd.wire.members import INT_MAX, Members

CLUSTER: Final = "NODE_CLUSTER"

MAX_REPORT: Final = 16 * 1024
"""Longest report of a failed boot, in characters; of a longer one the middle is left out."""

MAX_DATA: Final = 64 * 1024
"""Largest ``data`` of a ``queryServer`` that is read, in bytes of JSON: the primary keeps it for every later worker."""

_REPORT_HEAD: Final = MAX_REPORT // 4  # the rest is for the end, where a traceback says what happened

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
    FAILED = "failed"


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
    """

    ack: int
    accepted: bool | None = None
    errno: int | None = None
    key: str | None = None
    data: Mapping[str, Any] | None = None
    sockname: tuple[str, int] | None = None


FromWorker: TypeAlias = Online | QueryServer | Listening | Close | ExitedAfterDisconnect | Ready | Failed | Reply
FromPrimary: TypeAlias = NewConn | Disconnect | Go | Reply


def online() -> dict[str, Any]:
    """Worker: it runs."""
    return {"cmd": CLUSTER, "act": Act.ONLINE}


def query_server(
    index: int,
    address: str | None,
    port: int | None,
    address_type: AddressType,
    fd: int | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    flags: int | None = None,
    backlog: int | None = None,
    readable_all: bool = False,
    writable_all: bool = False,
) -> dict[str, Any]:
    """Worker: asks for a listening socket, by ``Channel.ask``. Arguments as the attributes of ``QueryServer``."""
    message: dict[str, Any] = {"cmd": CLUSTER, "act": Act.QUERY_SERVER, "index": index, "data": data}
    message |= {"address": address, "port": port, "addressType": address_type}
    rare = {"fd": fd, "flags": flags, "backlog": backlog}
    rare |= {"readableAll": readable_all or None, "writableAll": writable_all or None}
    return message | {name: value for name, value in rare.items() if value is not None}


def listening(
    address: str | None, port: int | None, address_type: AddressType, fd: int | None = None
) -> dict[str, Any]:
    """Worker: a server listens that asked nobody. Arguments as the attributes of ``Listening``."""
    return listening_for(query_server(0, address, port, address_type, fd), port)


def listening_for(query: Mapping[str, Any], port: int | None) -> dict[str, Any]:
    """Worker: the server listens that ``query``, made by ``query_server``, asked for; ``port`` is the real one."""
    return {**query, "act": Act.LISTENING, "port": port}


def close(key: str) -> dict[str, Any]:
    """Worker: it closed the server of ``key``."""
    return {"cmd": CLUSTER, "act": Act.CLOSE, "key": key}


def exited_after_disconnect() -> dict[str, Any]:
    """Worker: it is about to leave because it wants to, by ``Channel.ask``."""
    return {"cmd": CLUSTER, "act": Act.EXITED_AFTER_DISCONNECT}


def newconn(key: str) -> dict[str, Any]:
    """Primary: a connection for the server of ``key``, by ``Channel.ask`` with its descriptor."""
    return {"cmd": CLUSTER, "act": Act.NEWCONN, "key": key}


def disconnect() -> dict[str, Any]:
    """Primary: finish and leave. To be sent once: a second crashes Node workers."""
    return {"cmd": CLUSTER, "act": Act.DISCONNECT}


def go(**settings: object) -> dict[str, Any]:
    """Primary: start."""
    return {"cmd": CLUSTER, "act": Act.GO, "settings": settings}


def ready() -> dict[str, Any]:
    """Worker: answers work."""
    return {"cmd": CLUSTER, "act": Act.READY}


def failed(stage: str, report: str) -> dict[str, Any]:
    """Worker: the boot failed at ``stage``, for the reason in ``report``, which is cut to ``MAX_REPORT`` characters."""
    return {"cmd": CLUSTER, "act": Act.FAILED, "stage": stage, "report": _clip(report)}


def query_reply(
    ack: int,
    key: str,
    *,
    errno: int | None = None,
    data: Mapping[str, Any] | None = None,
    sockname: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Primary: answers ``queryServer``; arguments as the attributes of ``Reply``.

    ``errno`` 0 goes with the shared socket's descriptor. ``data`` must be what the key's first worker sent: a TLS
    worker of Node crashes without it.
    """
    message: dict[str, Any] = {"cmd": CLUSTER, "errno": errno, "key": key, "ack": ack, "data": data}
    if sockname is not None:
        host, port = sockname[:2]
        message["sockname"] = {"address": host, "family": "IPv6" if ":" in host else "IPv4", "port": port}
    return message


def accepted(ack: int, value: bool) -> dict[str, Any]:
    """Worker: answers ``newconn``; false sends the connection to another worker."""
    return {"cmd": CLUSTER, "ack": ack, "accepted": value}


def acknowledgement(ack: int) -> dict[str, Any]:
    """Primary: answers ``exitedAfterDisconnect``."""
    return {"cmd": CLUSTER, "ack": ack}


def read(message: object) -> FromWorker | FromPrimary | None:
    """Reads a message of the cluster.

    Args:
        message: any JSON value, as ``Received.message`` has it.

    Returns:
        ``None`` for what is to be ignored: other messages, unknown acts, no act and no number in ``ack``.

    Raises:
        PeerError: the act is known and a member of it is wrong.
    """
    if type(message) is not dict or message.get("cmd") != CLUSTER:
        return None
    act = message.get("act")
    m = Members(message, f"act {act:.40}" if isinstance(act, str) else "a reply")
    match act:
        case Act.ONLINE:
            return Online()
        case Act.QUERY_SERVER:
            return _query_server(m)
        case Act.LISTENING:
            return Listening(_address_type(m), m.text_or_none("address"), _port(m), _fd(m))
        case Act.CLOSE:
            return Close(m.text("key"))
        case Act.EXITED_AFTER_DISCONNECT:
            return ExitedAfterDisconnect(m.integer("seq"))
        case Act.NEWCONN:
            return NewConn(m.integer("seq"), m.text("key"))
        case Act.DISCONNECT:
            return Disconnect()
        case Act.GO:
            return Go(m.mapping_or_none("settings") or {})
        case Act.READY:
            return Ready()
        case Act.FAILED:
            return Failed(m.text("stage"), _clip(m.text("report", limit=None)))
        case None if type(message.get("ack")) is int:
            return _reply(m)
        case _:
            return None


def _query_server(m: Members) -> QueryServer:
    data = m.mapping_or_none("data")
    if data is not None and len(encode(data)) > MAX_DATA:
        raise m.wrong("data", f"at most {MAX_DATA} bytes of JSON")
    return QueryServer(
        seq=m.integer("seq"),
        index=m.integer("index"),
        address=m.text_or_none("address"),
        port=_port(m),
        address_type=_address_type(m),
        fd=_fd(m),
        data=data,
        flags=m.integer_or_none("flags"),
        backlog=_backlog(m),
        readable_all=bool(m.get("readableAll")),  # JavaScript's idea of true will do
        writable_all=bool(m.get("writableAll")),
    )


def _reply(m: Members) -> Reply:
    sockname = m.mapping_or_none("sockname")
    where = None
    if sockname is not None:
        inner = Members(sockname, "a sockname")
        where = (inner.text("address"), inner.integer("port", 0, 65535))
    return Reply(
        ack=m.integer("ack", -INT_MAX),
        accepted=m.truth_or_none("accepted"),
        errno=m.integer_or_none("errno", -INT_MAX),
        key=m.text_or_none("key"),
        data=m.mapping_or_none("data"),
        sockname=where,
    )


def _port(m: Members) -> int | None:
    return m.integer_or_none("port", -1, 65535)


def _fd(m: Members) -> int | None:
    return m.integer_or_none("fd", -1)


def _backlog(m: Members) -> int | None:
    """Any number will do, as it does for Node: JavaScript has one kind, and the kernel bounds it by ``somaxconn``."""
    value = m.get("backlog")
    if value is None or value is False:
        return None
    if type(value) is int or type(value) is float:
        return int(min(max(value, 0), INT_MAX))
    raise m.wrong("backlog", "a number, false or null")


def _address_type(m: Members) -> AddressType:
    value: AddressType = m.get("addressType")
    if type(value) not in {int, str, type(None)} or value not in {4, 6, -1, "udp4", "udp6", None}:
        raise m.wrong("addressType", "4, 6, -1, udp4, udp6 or null")
    return value


def _clip(report: str) -> str:
    """Cuts a report to ``MAX_REPORT`` by its middle, and makes half surrogates visible (file names may hold them)."""
    report = report.encode(errors="backslashreplace").decode()
    if len(report) <= MAX_REPORT:
        return report
    gap = "\n […]\n"
    return report[:_REPORT_HEAD] + gap + report[len(report) - (MAX_REPORT - _REPORT_HEAD - len(gap)) :]
