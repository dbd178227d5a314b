"""The JSON Schema of the configuration file, by which editors check and complete it."""

from typing import Any

import msgspec

from clusterd.config.kinds import JsonSchema, Kind
from clusterd.config.later import lacking
from clusterd.config.schema import Config
from clusterd.config.spec import Entry, entries
from clusterd.config.vocabulary import NAME_PATTERN

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> JsonSchema:
    """The schema of a whole file (JSON Schema 2020-12), as a value for a JSON encoder."""
    return {
        "$schema": DIALECT,
        "title": "clusterd configuration",
        **_table(Config, ()),
        "$defs": {"variable": {"description": "A value with ${VAR} or ${VAR:-default} in it.", **_VARIABLE}},
    }


def _table(struct: type[msgspec.Struct], path: tuple[str, ...]) -> JsonSchema:
    return {
        "description": (struct.__doc__ or "").strip(),
        "type": "object",
        "properties": {name: _entry(entry, (*path, name)) for name, entry in entries(struct).items()},
        "additionalProperties": False,
    }


def _entry(entry: Entry, path: tuple[str, ...]) -> JsonSchema:
    if entry.key is None:
        assert entry.table is not None
        if not entry.named:
            return _table(entry.table, path)
        return {
            "description": f"Tables with names of your choice. {(entry.table.__doc__ or '').strip()}",
            "type": "object",
            "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
            "additionalProperties": _table(entry.table, (*path, "NAME")),
        }
    schema: dict[str, Any] = {"description": f"{entry.key.doc} {lacking('.'.join(path))}".strip()}
    if entry.key.shown:
        schema["description"] += f" Default: {entry.key.shown}."
    else:
        schema["default"] = entry.key.kind.dump(entry.default)
    return {**schema, **_value(entry.key.kind)}


def _value(kind: Kind) -> JsonSchema:
    """What the kind takes, or a string with a variable in it, whose value no editor knows."""
    own = kind.schema()
    return own if own == {"type": "string"} else {"anyOf": [own, {"$ref": "#/$defs/variable"}]}
