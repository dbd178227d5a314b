"""What a value of the configuration may be: how each kind is read from TOML, written back, and named.

A kind reads a value that tomli gave into what the structs hold (seconds, bytes), tells what was expected if it cannot,
writes it back as a user would have written it, and describes itself in JSON Schema. Here are the kinds of a single
value; those that are made of others are in ``compound.py``, those that name a thing of the host in ``hostkinds.py``.
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from clusterd.config.notation import Loose, found, toml_text

Subpath = tuple[str | int, ...]
JsonSchema = dict[str, Any]


@dataclass(slots=True)
class Site:
    """Where one value is read.

    Attributes:
        base: the directory that relative paths are relative to.
        faults: what was wrong, each with the element of the value that it concerns.
    """

    base: str
    faults: list[tuple[Subpath, str]] = field(default_factory=list)

    def fault(self, message: str, *element: str | int) -> Any:
        """Tells what is wrong; returns the void result of the reading."""
        self.faults.append((element, message))
        return None

    def expected(self, what: str, value: object) -> Any:
        """Tells that something else was expected."""
        return self.fault(f"expected {what}, found {found(value)}")


@dataclass(frozen=True)
class Kind(ABC):
    """One kind of value.

    Attributes:
        label: its name in reference tables.
    """

    label: str

    @abstractmethod
    def read(self, value: object, site: Site) -> Any:
        """The value as the structs hold it. What is wrong with it is told to ``site``, and the result is then void."""

    def dump(self, value: Any) -> Any:
        """The value as it stands in a file, in strings, numbers, booleans, lists and dicts."""
        return value

    @abstractmethod
    def schema(self) -> JsonSchema:
        """JSON Schema (2020-12) of what stands in the file."""


@dataclass(frozen=True)
class Text(Kind):
    """A string; with ``pattern``, only one that it matches as a whole. ``expected`` says so to people."""

    label: str = "string"
    pattern: str = ""
    expected: str = "a string"
    empty: bool = True

    def read(self, value: object, site: Site) -> Any:
        if not isinstance(value, str):
            hint = (
                f", such as {toml_text(str(value))}"
                if type(value) is int and abs(value) < 10**9 and not self.pattern
                else ""
            )
            return site.expected(self.expected + hint, value)
        if "\0" in value:
            return site.fault("a NUL character cannot stand in a string that goes to the operating system")
        if not value and not self.empty:
            return site.fault(f"expected {self.expected}, found an empty string")
        if value and self.pattern and not re.fullmatch(self.pattern, value):
            return site.expected(self.expected, value)
        return str(value)

    def schema(self) -> JsonSchema:
        if not self.pattern:
            return {"type": "string"} if self.empty else {"type": "string", "minLength": 1}
        return {"type": "string", "pattern": f"^(?:{self.pattern}){'?' if self.empty else ''}$"}


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number from ``low`` to ``high``."""

    label: str = "integer"
    low: int = 0
    high: int = 2**31 - 1

    @property
    def expected(self) -> str:
        if self.high == 2**31 - 1:
            return f"a whole number, at least {self.low}"
        return f"a whole number from {self.low} to {self.high}"

    def read(self, value: object, site: Site) -> Any:
        if isinstance(value, Loose) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            return site.expected(self.expected, value)
        return value

    def schema(self) -> JsonSchema:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Ratio(Kind):
    """A number from 0 to 1."""

    label: str = "ratio"

    def read(self, value: object, site: Site) -> Any:
        if isinstance(value, Loose) and re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,18})?", value):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            return site.expected("a number from 0 to 1", value)
        return float(value)

    def schema(self) -> JsonSchema:
        return {"type": "number", "minimum": 0, "maximum": 1}


@dataclass(frozen=True)
class Boolean(Kind):
    """true or false."""

    label: str = "boolean"

    def read(self, value: object, site: Site) -> Any:
        if isinstance(value, Loose) and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            return site.expected("true or false", value)
        return value

    def schema(self) -> JsonSchema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Measure(Kind):
    """A number with its unit, such as a duration or a size; held in the base unit. 0 needs no unit."""

    units: tuple[tuple[str, float], ...]
    examples: str
    high: float
    integral: bool

    def read(self, value: object, site: Site) -> Any:
        zero = 0 if self.integral else 0.0
        if type(value) in (int, float) and value == 0:
            return zero
        if not isinstance(value, str):
            return site.expected(f"a {self.label} in a string, such as {self.examples}", value)
        text = value.strip()
        if text == "0":
            return zero
        if not re.fullmatch(self._pattern(), text):
            return site.expected(f"a {self.label} such as {self.examples}", value)
        factors = dict(self.units)
        parts = re.findall(r"([0-9.]+)([A-Za-z]+)", text)
        total = sum(float(number) * factors[unit] for number, unit in parts)
        if total > self.high:
            return site.fault(f"expected at most {self.dump(self.high)}, found {found(value)}")
        return round(total) if self.integral else total

    def dump(self, value: Any) -> Any:
        if value == 0:
            return "0" if self.integral else "0s"
        # The largest unit that gives a whole number below 1000 of the next one: 90s stays 90s, 300s is 5m.
        whole = [(unit, factor) for unit, factor in self.units if math.isclose(value / factor % 1, 0, abs_tol=1e-9)]
        if not whole:
            unit, factor = self.units[-1]
            return f"{value / factor:g}{unit}"
        unit, factor = max(whole, key=lambda item: item[1])
        return f"{round(value / factor)}{unit}"

    def schema(self) -> JsonSchema:
        return {"anyOf": [{"type": "string", "pattern": f"^(?:0|{self._pattern()})$"}, {"const": 0}]}

    def _pattern(self) -> str:
        units = "|".join(unit for unit, _ in self.units)
        return f"(?:[0-9]{{1,15}}(?:\\.[0-9]{{1,9}})?(?:{units}))" + ("" if self.integral else "+")


@dataclass(frozen=True)
class Octal(Kind):
    """File permission bits, as a string of octal digits."""

    label: str = "mode"
    example: str = "0600"

    def read(self, value: object, site: Site) -> Any:
        # A bare 0600 is no TOML, and 600 would be decimal: only a string says what is meant.
        if not isinstance(value, str) or not re.fullmatch(r"0?o?[0-7]{1,4}", value) or int(value, 8) > 0o7777:
            return site.expected(f'octal digits in a string, such as "{self.example}"', value)
        return int(value, 8)

    def dump(self, value: Any) -> Any:
        return "" if value is None else f"{value:04o}"

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": "^0?o?[0-7]{1,4}$"}
