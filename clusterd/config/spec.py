"""The schema as data: which keys and tables each struct has, read from its annotations once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from clusterd.config.schema import Config
from clusterd.config.vocabulary import Key

NAME = "NAME"
"""Stands for the name of a pool or listener in the path of a key of the schema."""


@dataclass(frozen=True)
class Entry:
    """One name in a table of the schema: a key, a table, or a table of named tables.

    Attributes:
        name: as in the file.
        key: of a key, what the schema says of it.
        default: of a key, its default.
        table: of the others, the struct that holds the table.
        named: the table has tables with names of the user's choice, each held by ``table``.
    """

    name: str
    key: Key | None = None
    default: Any = None
    table: type[msgspec.Struct] | None = None
    named: bool = False


@cache
def entries(struct: type[msgspec.Struct]) -> dict[str, Entry]:
    """What the table that ``struct`` holds may have in it, in the schema's order."""
    hints = get_type_hints(struct, include_extras=True)
    found: dict[str, Entry] = {}
    for item in msgspec.structs.fields(struct):
        hint = hints[item.name]
        if get_origin(hint) is Annotated:
            key = next(extra for extra in get_args(hint)[1:] if isinstance(extra, Key))
            default = item.default
            if default is msgspec.NODEFAULT:
                # An empty dict or list as a default becomes a factory in msgspec.
                default = item.default_factory()
            found[item.name] = Entry(item.name, key=key, default=default)
        elif get_origin(hint) is dict:
            found[item.name] = Entry(item.name, table=get_args(hint)[1], named=True)
        else:
            found[item.name] = Entry(item.name, table=hint)
    return found


def keys(
    struct: type[msgspec.Struct] = Config, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Entry]]:
    """Every key of the schema with its path, in order; ``NAME`` stands for the name of a pool or listener."""
    for entry in entries(struct).values():
        path = (*prefix, entry.name)
        if entry.table is None:
            yield path, entry
        else:
            yield from keys(entry.table, (*path, NAME) if entry.named else path)
