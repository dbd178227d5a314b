"""What each key is, and what it came to be: for ``clusterd explain``, reference tables and editors."""

from dataclasses import dataclass
from typing import Any

import msgspec

from clusterd.config.document import DEFAULT, Origin
from clusterd.config.later import lacking
from clusterd.config.load import Loaded
from clusterd.config.notation import dotted, toml_text
from clusterd.config.schema import Config
from clusterd.config.spec import Entry, entries, keys


@dataclass(frozen=True, slots=True)
class Explanation:
    """One key in effect.

    Attributes:
        key: its path, ``pools.web.workers``.
        value: its value in TOML; where variables were put into an entry of ``env``, what stands in the file.
        default: its default in TOML, or the words that say how it comes about.
        origin: where the value came from.
        doc: what it is for.
    """

    key: str
    value: str
    default: str
    origin: Origin
    doc: str


def reference_rows() -> list[tuple[str, str, str, str]]:
    """Every key of the schema for a reference table: its path, type, default and documentation.

    ``NAME`` stands for the name of a pool or listener.
    """
    return [(".".join(path), _key(entry).kind.label, _default(entry), _doc(path, entry)) for path, entry in keys()]


def explain(loaded: Loaded) -> list[Explanation]:
    """Every key of a configuration in effect, in the schema's order."""
    return _table(Config, loaded.config, (), (), loaded)


def explain_defaults() -> list[Explanation]:
    """Every key of the schema with its default, for where there is no configuration."""
    return [
        Explanation(".".join(path), _default(entry), _default(entry), DEFAULT, _doc(path, entry))
        for path, entry in keys()
    ]


def select(rows: list[Explanation], key: str) -> list[Explanation]:
    """The rows of one key, or of the table that ``key`` names; ``*`` stands for any name. Empty if it is unknown."""
    wanted = key.strip().strip(".").split(".")

    def fits(row: Explanation) -> bool:
        parts = row.key.split(".")
        return len(parts) >= len(wanted) and all(
            want in ("*", part) or part == "NAME" for want, part in zip(wanted, parts, strict=False)
        )

    return [row for row in rows if fits(row)]


def suggestions(rows: list[Explanation], key: str) -> list[str]:
    """Up to three known keys that ``key`` may have meant, the likeliest first."""
    known = [row.key for row in rows]
    short = key[:200]
    same_end = [name for name in known if name.rpartition(".")[2] == short.rpartition(".")[2]]
    import difflib  # most configurations have no misspelt key

    like = difflib.get_close_matches(short, known, n=3, cutoff=0.5)
    return list(dict.fromkeys([*same_end, *like]))[:3]


def _table(
    struct: type[msgspec.Struct], value: Any, path: tuple[str, ...], general: tuple[str, ...], loaded: Loaded
) -> list[Explanation]:
    rows: list[Explanation] = []
    for entry in entries(struct).values():
        here, there = (*path, entry.name), (*general, entry.name)
        inner = getattr(value, entry.name)
        if entry.table is None:
            rows += _rows(entry, inner, here, there, loaded)
        elif entry.named:
            for name, item in inner.items():
                rows += _table(entry.table, item, (*here, name), (*there, "NAME"), loaded)
        else:
            rows += _table(entry.table, inner, here, there, loaded)
    return rows


def _rows(
    entry: Entry, value: Any, path: tuple[str, ...], general: tuple[str, ...], loaded: Loaded
) -> list[Explanation]:
    doc = _doc(general, entry)
    if isinstance(value, dict) and value:
        rows = []
        for name, item in value.items():
            key = dotted((*path, name))
            origin = loaded.provenance.get(key, DEFAULT)
            # Variables are how secrets get into env, and a terminal is no place for them.
            text = toml_text(item if origin.written is None else origin.written)
            rows.append(Explanation(key, text, "unset", origin, doc))
        return rows
    key = dotted(path)
    origin = loaded.provenance.get(key, DEFAULT)
    text = _default(entry) if value is None and entry.default is None else toml_text(_key(entry).kind.dump(value))
    if origin == DEFAULT and _key(entry).shown and value == entry.default:
        text = _default(entry)
    return [Explanation(key, text, _default(entry), origin, doc)]


def _key(entry: Entry) -> Any:
    assert entry.key is not None
    return entry.key


def _default(entry: Entry) -> str:
    key = _key(entry)
    return str(key.shown) if key.shown else toml_text(key.kind.dump(entry.default))


def _doc(path: tuple[str, ...], entry: Entry) -> str:
    return f"{_key(entry).doc} {lacking('.'.join(path))}".strip()
