"""The one table of keys and values that this version declares and does not have yet. Later work shortens it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Later:
    """A key of a later capability: away from its default it is an error.

    Attributes:
        key: the key's path, ``NAME`` for a pool's or listener's; of a table all the keys in it are meant.
        values: only these values are of later; ``None`` for all but the default.
        said: how the reference tables name those values.
    """

    key: str
    values: Callable[[Any], bool] | None = None
    said: str = ""


def _any_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


LATER: tuple[Later, ...] = (
    Later("pools.NAME.command"),
    Later("pools.NAME.tasks"),
    Later("pools.NAME.interface", _any_of("wsgi"), '"wsgi"'),
    Later("pools.NAME.engine", lambda engine: engine not in ("auto", "uvicorn"), "all but uvicorn"),
    Later("pools.NAME.scheduling", _any_of("least", "kernel"), '"least", "kernel"'),
    Later("pools.NAME.stop_signal"),
    Later("monitoring.address", lambda address: address is not None and address.kind != "tcp", '"unix:" and "fd:"'),
)


def later(key: str, value: Any, default: Any) -> str | None:
    """Why ``value`` cannot be had of this version; ``None`` if it can.

    Args:
        key: the key's path in the schema, ``pools.NAME.workers``.
    """
    for entry in LATER:
        if key != entry.key and not key.startswith(entry.key + "."):
            continue
        if entry.values is None:
            return None if value == default else "this version does not have this key's capability yet; leave it out"
        return f"this version does not have this value yet (it lacks {entry.said})" if entry.values(value) else None
    return None


def lacking(key: str) -> str:
    """A sentence for reference tables on what this version lacks of a key; empty if it lacks nothing."""
    for entry in LATER:
        if key == entry.key or key.startswith(entry.key + "."):
            return f"Not in this version yet: {entry.said}." if entry.said else "Not in this version yet."
    return ""
