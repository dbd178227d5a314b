"""What differs between two configurations, and what of it takes a restart."""

from dataclasses import dataclass
from typing import Final

import msgspec

from clusterd.config.explain import explain
from clusterd.config.load import Loaded
from clusterd.config.schema import Config, Pool
from clusterd.errors import UsageError

FIXED: Final = ("clusterd", "control", "log", "memory", "monitoring")
"""Tables that are read when the service starts: a reload leaves them as they are, and says so."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key whose value differs.

    Attributes:
        key: its path, ``pools.web.workers``.
        before, after: its values in TOML; ``None`` where there is no such key.
        restart: a reload does not do it.
    """

    key: str
    before: str | None
    after: str | None
    restart: bool

    def __str__(self) -> str:
        if self.before is None:
            text = f"{self.key} = {self.after} (new)"
        elif self.after is None:
            text = f"{self.key} (gone, was {self.before})"
        else:
            text = f"{self.key} = {self.after} (was {self.before})"
        return f"{text}; takes a restart" if self.restart else text


def changes(before: Loaded, after: Loaded) -> list[Change]:
    """Every key whose value in effect differs, in the order of the schema."""
    old = {row.key: row.value for row in explain(before)}
    new = {row.key: row.value for row in explain(after)}
    return [
        Change(key, old.get(key), new.get(key), key.partition(".")[0] in FIXED)
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key)
    ]


def reloaded(before: Config, after: Config, pool: str = "") -> Config:
    """What a reload makes of a configuration in force when the file says ``after``.

    Args:
        pool: this one alone, with what it listens on; empty: all.

    Raises:
        UsageError: there is no such pool.
    """
    if not pool:
        return msgspec.structs.replace(after, **{name: getattr(before, name) for name in FIXED})
    if pool not in after.pools:
        raise UsageError(f"there is no pool {pool!r}; there are: {', '.join(after.pools)}")
    renewed: Pool = after.pools[pool]
    listeners = {name: after.listeners[name] for name in renewed.listeners}
    return msgspec.structs.replace(
        before, pools={**before.pools, pool: renewed}, listeners={**before.listeners, **listeners}
    )
