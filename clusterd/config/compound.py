"""Kinds of values that are made of other kinds: choices, arrays, tables."""

import json
import re
from dataclasses import dataclass
from typing import Any

from clusterd.config.kinds import JsonSchema, Kind, Site
from clusterd.config.notation import found


@dataclass(frozen=True)
class OneOf(Kind):
    """One of some words, or what another kind reads."""

    words: tuple[str, ...]
    other: Kind | None = None
    expected_other: str = ""

    def read(self, value: object, site: Site) -> Any:
        if isinstance(value, str) and value in self.words:
            return str(value)
        choice = [f'"{word}"' for word in self.words]
        if self.other is not None:
            inner = Site(site.base)
            result = self.other.read(value, inner)
            if not inner.faults:
                return result
            choice.append(self.expected_other)
        expected = " or ".join((", ".join(choice[:-1]), choice[-1])) if len(choice) > 1 else choice[0]
        return site.expected(expected, value)

    def dump(self, value: Any) -> Any:
        return value if self.other is None or value in self.words else self.other.dump(value)

    def schema(self) -> JsonSchema:
        words: JsonSchema = {"enum": list(self.words)}
        return words if self.other is None else {"anyOf": [words, self.other.schema()]}


@dataclass(frozen=True)
class ListOf(Kind):
    """An array of values of one kind, held as a tuple. ``empty`` tells whether it may have no element."""

    item: Kind
    unique: bool = False

    def read(self, value: object, site: Site) -> Any:
        if not isinstance(value, list | tuple):
            return site.expected(f"an array ({self.label})", value)
        result = []
        for number, element in enumerate(value):
            inner = Site(site.base)
            read = self.item.read(element, inner)
            for path, message in inner.faults:
                site.fault(message, number, *path)
            if self.unique and not inner.faults and read in result:
                site.fault(f"{found(element)} stands in the list twice", number)
            result.append(read)
        return tuple(result)

    def dump(self, value: Any) -> Any:
        return [self.item.dump(element) for element in value]

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": self.item.schema(), **({"uniqueItems": True} if self.unique else {})}


@dataclass(frozen=True)
class TableOf(Kind):
    """A table with keys of the user's choice that ``key`` matches, and values of one kind."""

    item: Kind
    key: str
    expected_key: str

    def read(self, value: object, site: Site) -> Any:
        if not isinstance(value, dict):
            return site.expected(f"a table ({self.label})", value)
        result = {}
        for name, element in value.items():
            inner = Site(site.base)
            result[name] = self.item.read(element, inner)
            if not re.fullmatch(self.key, name):
                site.fault(f"expected {self.expected_key}, found {found(name)}", name)
            for path, message in inner.faults:
                site.fault(message, name, *path)
        return result

    def dump(self, value: Any) -> Any:
        return {name: self.item.dump(element) for name, element in value.items()}

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key})$"},
            "additionalProperties": self.item.schema(),
        }


@dataclass(frozen=True)
class Message(Kind):
    """A table that is sent as JSON."""

    label: str = "table"

    def read(self, value: object, site: Site) -> Any:
        if not isinstance(value, dict):
            return site.expected("a table", value)
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return site.fault("only strings, finite numbers, booleans, arrays and tables can be sent as JSON")
        return value

    def schema(self) -> JsonSchema:
        return {"type": "object"}
