"""What the primary asks of workers, and they tell it, for eyes alone: computed metrics, slow requests.

Acts of clusterd's own, which Node ignores; nothing here steers anything. What a worker tells is bounded here.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from clusterd.errors import PeerError
from clusterd.wire.messages import CLUSTER

COLLECT: Final = "collect"
COLLECTED: Final = "collected"
SLOW: Final = "slowRequest"

MAX_FAMILIES: Final = 2000
MAX_STACK: Final = 16 * 1024
"""Characters of a stack; of a longer one the beginning is left out: its end says where the request is."""

Sample = tuple[str, dict[str, str], float]
"""A sample's whole name, its labels, its value."""

CollectedFamily = tuple[str, str, str, str, list[Sample]]
"""Name, type, help, how gauges are aggregated, samples."""


@dataclass(frozen=True, slots=True)
class Collect:
    """Primary: compute the metrics that have no value of their own; answered by ``Collected`` with the same round."""

    round: int


@dataclass(frozen=True, slots=True)
class Collected:
    """Worker: here they are."""

    round: int
    families: list[CollectedFamily]


@dataclass(frozen=True, slots=True)
class SlowRequest:
    """Worker: this request has been at work for ``seconds`` and is still.

    Attributes:
        path: without its query, which may hold what is nobody's business.
        stack: where it is, the innermost last.
        where: ``task``, ``thread`` or ``loop``: what the stack is of; ``loop`` blocks all the others of its worker.
    """

    method: str
    path: str
    seconds: float
    where: str
    stack: str


class _Families(msgspec.Struct, array_like=True):
    families: list[CollectedFamily]


def collect(round_: int) -> dict[str, Any]:
    """Primary: asks."""
    return {"cmd": CLUSTER, "act": COLLECT, "round": round_}


def collected(round_: int, families: list[Any]) -> dict[str, Any]:
    """Worker: answers."""
    return {"cmd": CLUSTER, "act": COLLECTED, "round": round_, "families": families}


def slow_request(told: SlowRequest) -> dict[str, Any]:
    """Worker: tells."""
    stack = told.stack if len(told.stack) <= MAX_STACK else "…" + told.stack[1 - MAX_STACK :]
    return {
        "cmd": CLUSTER,
        "act": SLOW,
        "method": told.method[:40],
        "path": told.path[:2000],
        "seconds": told.seconds,
        "where": told.where,
        "stack": stack,
    }


def read(message: object) -> Collect | Collected | SlowRequest | None:
    """Reads such a message; ``None`` for any other.

    Raises:
        PeerError: the act is one of these and a member of it is wrong.
    """
    if type(message) is not dict or message.get("cmd") != CLUSTER:
        return None
    try:
        match message.get("act"):
            case "collect":
                return Collect(msgspec.convert(message.get("round"), int))
            case "collected":
                (families,) = msgspec.structs.astuple(msgspec.convert([message.get("families")], _Families))
                if len(families) > MAX_FAMILIES:
                    raise PeerError(f"{len(families)} families of metrics came at once, {MAX_FAMILIES} are allowed")
                return Collected(msgspec.convert(message.get("round"), int), families)
            case "slowRequest":
                texts = [msgspec.convert(message.get(key), str) for key in ("method", "path", "where", "stack")]
                method, path, where, stack = (text.encode(errors="backslashreplace").decode() for text in texts)
                seconds = msgspec.convert(message.get("seconds"), float)
                return SlowRequest(method[:40], path[:2000], seconds, where[:20], stack[-MAX_STACK:])
            case _:
                return None
    except msgspec.ValidationError as error:
        raise PeerError(f"act {message['act']} came with a wrong member: {error}") from None
