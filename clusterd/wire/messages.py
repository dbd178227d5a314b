"""What a primary and its workers say to each other: the acts of Node's cluster, and the few it lacks.

Constructors return the ``NODE_CLUSTER`` objects of Node's ``lib/internal/cluster``, members in its order;
``Channel.send`` and ``Channel.ask`` add the ``seq``. ``read`` is the one reader: typed, and strict about what the
receiver would act upon. ``go``, ``ready`` and ``failed`` are clusterd's own; Node ignores acts that it does not know.
"""

from collections.abc import Mapping
from typing import Any, Final

from clusterd.wire.acts import (
    Act,
    AddressType,
    Admit,
    Close,
    Disconnect,
    ExitedAfterDisconnect,
    Failed,
    FromPrimary,
    FromWorker,
    Gate,
    Go,
    Listening,
    NewConn,
    Online,
    QueryServer,
    Ready,
    Reply,
)
from clusterd.wire.lines import encode
from clusterd.wire.members import INT_MAX, Members

__all__ = [
    "Act",
    "AddressType",
    "Admit",
    "Close",
    "Disconnect",
    "ExitedAfterDisconnect",
    "Failed",
    "FromPrimary",
    "FromWorker",
    "Gate",
    "Go",
    "Listening",
    "NewConn",
    "Online",
    "QueryServer",
    "Ready",
    "Reply",
]

CLUSTER: Final = "NODE_CLUSTER"

PROBE: Final = "clusterd:probe"
"""The key under which a worker of an app serves connections that are meant for it alone: health checks."""

MAX_REPORT: Final = 16 * 1024
"""Longest report of a failed boot, in characters; of a longer one the middle is left out."""

MAX_DATA: Final = 64 * 1024
"""Largest ``data`` of a ``queryServer`` that is read, in bytes of JSON: the primary keeps it for every later worker."""

_REPORT_HEAD: Final = MAX_REPORT // 4  # the rest is for the end, where a traceback says what happened


def online(handles: int | None = None) -> dict[str, Any]:
    """Worker: it runs. ``handles``: so many it takes unacknowledged (:mod:`clusterd.wire.flights`), which Node never
    says."""
    return {"cmd": CLUSTER, "act": Act.ONLINE} | ({} if handles is None else {"handles": handles})


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
    mailbox: bool = False,
    shared: bool = False,
) -> dict[str, Any]:
    """Worker: asks for a listening socket, by ``Channel.ask``. Arguments as the attributes of ``QueryServer``."""
    message: dict[str, Any] = {"cmd": CLUSTER, "act": Act.QUERY_SERVER, "index": index, "data": data}
    message |= {"address": address, "port": port, "addressType": address_type}
    rare = {"fd": fd, "flags": flags, "backlog": backlog}
    rare |= {"readableAll": readable_all or None, "writableAll": writable_all or None, "mailbox": mailbox or None}
    rare["shared"] = shared or None
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


def gate(key: str, is_open: bool) -> dict[str, Any]:
    """Worker: its server of ``key`` takes connections, or takes none for now."""
    return {"cmd": CLUSTER, "act": Act.GATE, "key": key, "open": is_open}


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


def admit(slot: int) -> dict[str, Any]:
    """Primary: a place for a spare."""
    return {"cmd": CLUSTER, "act": Act.ADMIT, "slot": slot}


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
    mailbox: bool = False,
) -> dict[str, Any]:
    """Primary: answers ``queryServer``; arguments as the attributes of ``Reply``.

    ``errno`` 0 goes with the shared socket's descriptor, ``mailbox`` with a mailbox's reading end. ``data`` must be
    what the key's first worker sent: a TLS worker of Node crashes without it.
    """
    message: dict[str, Any] = {"cmd": CLUSTER, "errno": errno, "key": key, "ack": ack, "data": data}
    if sockname is not None:
        host, port = sockname[:2]
        message["sockname"] = {"address": host, "family": "IPv6" if ":" in host else "IPv4", "port": port}
    return message | {"mailbox": True} if mailbox else message


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
        case Act.ADMIT:
            return Admit(m.integer("slot", low=0, high=INT_MAX))
        case Act.READY:
            return Ready()
        case Act.GATE:
            return Gate(m.text("key"), m.truth_or_none("open") is not False)
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
        mailbox=m.get("mailbox") is True,
        shared=m.get("shared") is True,
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
        mailbox=m.get("mailbox") is True,
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
