"""How values and keys of the configuration are written for people: as TOML, or named in an error."""

import json
import re
from datetime import date, datetime, time


class Loose(str):
    """Text from a place that knows only text (``${VAR}``, ``--set``): a number or a boolean may be read from it."""

    __slots__ = ()


def printable(text: str) -> str:
    """``text`` with the lone surrogates escaped that stand for bytes of a path that are not UTF-8 (PEP 383)."""
    return text.encode(errors="backslashreplace").decode()


def found(value: object) -> str:
    """Names a value in an error: its type, and itself where that is short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return printable(json.dumps(value if len(value) <= 60 else value[:57] + "…", ensure_ascii=False))
    if isinstance(value, int):
        # A hexadecimal literal may have any number of digits, and str() of more than 4300 raises.
        return f"the number {value}" if abs(value) < 10**18 else "a number of more than 18 digits"
    if isinstance(value, float):
        return f"the number {value!r}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, datetime | date | time):
        return "a date or time"
    return type(value).__name__


def toml_text(value: object) -> str:
    """Writes a value of strings, numbers, booleans, sequences and tables in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(item) for item in value) + "]"
    if isinstance(value, str):
        return printable(json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f"))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def toml_key(part: str | int) -> str:
    """One part of a key's path as TOML writes it: bare if it may be."""
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml_text(text)


def dotted(path: tuple[str | int, ...]) -> str:
    """A key's path as TOML writes it, with the numbers of elements in brackets: ``pools.web.listeners[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + toml_key(part)
    return text
