"""What the primary and a zygote say to each other: one JSON object a packet, descriptors in the order stated here.

The zygote runs the user's code and the primary does not trust it: :func:`read_answer` checks every field.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..errors import PeerError

VERSION: Final = 2
"""1: before workers got an end of the lifeline."""

#: A report (a traceback as a rule) is cut in the middle to this many bytes of JSON, in which one character may be
#: twelve (two escapes) and with which one packet must do.
MAX_REPORT: Final = 16_000


#: In the environment of a zygote, and so of its workers and all that these start: which primary's they are, of which
#: pool and generation. Of no two primaries it is the same; after an upgrade it is, for that is the same process.
ORIGIN: Final = "CLUSTERD_ORIGIN"

#: In the environment of what a worker starts: which one's it is.
WORKER_ID: Final = "CLUSTERD_WORKER_ID"


@dataclass(frozen=True, slots=True)
class Load:
    """Primary to zygote, first and once: what to import and how the workers are to be.

    Descriptors: if a door has ``tls``, a memfd of what :func:`clusterd.wire.tls.pack` gives.

    Attributes:
        service: the service's name, for process titles.
        target: ``package.module:attribute`` or ``…:factory()``.
        interface: ``auto`` or ``asgi``.
        preload: ``auto``: unless forking is unsafe; ``true``: in any case; ``false``: each worker imports the app.
        primary_pid: who must be the workers' parent.
        undertaking: seconds after the primary's death until workers that are left are killed; ``None`` is never.
        rlimits: soft and hard limits by name (``nofile``, ``core``, ``memory``), -1 is unlimited.
        engine: what the engine is told: the HTTP options by name.
        program: the command of workers that are programs of their own; nothing is imported for those.
        doors: by listener, how its connections come in: ``shared``, ``proxy`` and ``tls``, each true or false.
        cpus: on which CPUs all of this runs; empty: where the primary does.
        spread: each worker runs on one of those alone, in turn by slot.
    """

    service: str
    pool: str
    generation: int
    target: str
    interface: str
    preload: str
    primary_pid: int
    undertaking: float | None
    rlimits: dict[str, list[int]] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    doors: dict[str, dict[str, bool]] = field(default_factory=dict)
    program: list[str] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    spread: bool = False


@dataclass(frozen=True, slots=True)
class Spawn:
    """Primary to zygote: fork one worker.

    Descriptors: the channel; the scoreboard; the file for its stacks; its end of the primary's lifeline; if
    ``captured``, standard output's writing and reading end and standard error's; then for each of ``boxes`` a mailbox,
    or the listening socket itself where the door is ``shared``.

    Attributes:
        boxes: name and address of each listener, as ``[name, host, port]``.
        notify: for ``NOTIFY_SOCKET`` of a worker that is a program of its own; empty: it gets none.
    """

    worker: int
    slot: int
    captured: bool
    boxes: list[list[Any]]
    notify: str = ""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Primary to zygote: these workers, which another zygote forked, are its own from now on.

    Descriptors: their pidfds; where they are programs, then their scoreboards.
    """

    pids: list[int]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Zygote to primary: it can fork. ``unsafe``: why it could not after an import, if it was asked to import first."""

    preloaded: bool
    unsafe: str = ""


@dataclass(frozen=True, slots=True)
class Unsafe:
    """Zygote to primary: the app is imported, but forking from here is unsafe; it ends. ``why`` names thread or fd."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Zygote to primary: the app cannot be imported; it ends."""

    stage: str
    report: str


@dataclass(frozen=True, slots=True)
class Spawned:
    """Zygote to primary: the worker exists, its middle is reaped. One descriptor: the worker's pidfd."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """Zygote to primary: there is no such worker."""

    worker: int
    report: str


Request = Load | Spawn | Adopt
Answer = Loaded | Unsafe | Failed | Spawned | SpawnFailed

_REQUESTS: Final[dict[str, type[Any]]] = {"load": Load, "spawn": Spawn, "adopt": Adopt}
_ANSWERS: Final[dict[str, type[Any]]] = {
    "loaded": Loaded,
    "unsafe": Unsafe,
    "failed": Failed,
    "spawned": Spawned,
    "spawn_failed": SpawnFailed,
}
_NAMES: Final = {kind: name for table in (_REQUESTS, _ANSWERS) for name, kind in table.items()}


def origin(load: Load, started: int) -> str:
    """The value of :data:`ORIGIN`.

    Args:
        started: when the primary was, by the machine's clock.
    """
    return f"{load.primary_pid}.{started}/{load.pool}/{load.generation}"


def clip(report: str, limit: int = MAX_REPORT) -> str:
    """Cut a long report in the middle: its first line says what was tried, its last ones what went wrong.

    Args:
        limit: bytes that it may be as JSON, a line that tells of the cut not counted.
    """
    kept = min(len(report), limit)
    while True:
        head, tail = report[: kept // 4], report[len(report) - (kept - kept // 4) :]
        over = len(json.dumps(head)) + len(json.dumps(tail)) - len('""""') - limit
        if over <= 0:
            break
        kept -= max(1, over // 12)
    return report if kept == len(report) else f"{head}\n… {len(report) - kept} characters left out …\n{tail}"


def encode(message: Request | Answer) -> bytes:
    """The bytes of one packet."""
    return json.dumps({"v": VERSION, "op": _NAMES[type(message)], **asdict(message)}).encode()


def understood(fds: Sequence[int], version: int) -> Sequence[int]:
    """Those of a :class:`Spawn`'s descriptors that a zygote of another version knows: of a predecessor's, until it is
    built anew."""
    return fds if version >= 2 else [*fds[:3], *fds[4:]]


def read_request(data: bytes) -> Request:
    """In the zygote, which trusts the primary."""
    raw = json.loads(data)
    raw.pop("v")
    request: Request = _REQUESTS[raw.pop("op")](**raw)
    return request


def read_answer(data: bytes, version: int = VERSION) -> Answer:
    """In the primary.

    Args:
        version: that the zygote speaks.

    Raises:
        PeerError: these bytes are no answer of that version.
    """
    try:
        raw = json.loads(data)
        kind = _ANSWERS[raw["op"]]
        wrong_version = raw["v"] != version
        fields = {name: raw[name] for name in kind.__dataclass_fields__}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PeerError(f"the zygote sent {data[:80]!r}, which is no answer ({error!r})") from None
    if wrong_version:
        raise PeerError(f"the zygote speaks version {raw['v']!r} of its protocol, not {version}")
    for name, value in fields.items():
        expected = kind.__dataclass_fields__[name].type
        if type(value) is not expected or (expected is int and value < 0):
            raise PeerError(f"the zygote sent {name}={value!r} in {raw['op']}, where {expected} was expected")
        if expected is str:
            fields[name] = clip(value, 2 * MAX_REPORT)  # what is cut already is let pass, with the line that says so
    answer: Answer = kind(**fields)
    return answer
