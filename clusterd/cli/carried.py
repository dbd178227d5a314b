"""A configuration made from another program's: what could be carried over, and what not and why."""

import unicodedata
from dataclasses import dataclass, field
from typing import Any

from clusterd.config.notation import printable, toml_key, toml_text

Tables = dict[str, Any]


@dataclass
class Carried:
    """The configuration, and what is to be known of it.

    Attributes:
        settings: as they stand in the file; tables are dicts.
        lost: what could not be carried over: its name there, and what to do instead.
        changed: what means something else here, likewise.
    """

    settings: Tables = field(default_factory=lambda: {"config_version": 1})
    lost: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)

    def set(self, value: object, *path: str) -> None:
        """Set one key; tables on its way are made."""
        table = self.settings
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value

    def get(self, *path: str) -> Any:
        """One key; ``None`` if it is not set."""
        value: Any = self.settings
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def text(self, source: str) -> str:
        """The file.

        Args:
            source: where it is from, for its first line.
        """
        lines = [f"# Made by `clusterd init` from {' '.join(source.split())}; `clusterd check` validates it."]
        for head, notes in (("Means something else here:", self.changed), ("Not carried over:", self.lost)):
            if notes:
                lines += ["#", f"# {head}"]
                lines += ["#   " + " ".join(f"{name}: {why}".split()) for name, why in notes]
        return "\n".join([*map(_comment, lines), "", *_tables(self.settings)]).rstrip() + "\n"


def _comment(line: str) -> str:
    """Comments may not hold control characters (TOML 1.0, "Comment"), and names come from anywhere."""
    return printable("".join(repr(char)[1:-1] if unicodedata.category(char) == "Cc" else char for char in line))


# Tables whose keys are the user's own stand on one line; so does what is small.
_INLINE = {"env", "limits", "stop_message"}


def _tables(table: Tables, path: tuple[str, ...] = ()) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict) or key in _INLINE}
    lines = [f"{toml_key(key)} = {toml_text(value)}" for key, value in plain.items()]
    if path and (plain or not table):
        lines.insert(0, "[" + ".".join(map(toml_key, path)) + "]")
    if lines:
        lines.append("")
    for key, value in table.items():
        if key not in plain:
            lines += _tables(value, (*path, key))
    return lines
