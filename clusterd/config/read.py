"""From what was said to the structs of the schema: every key is read, and every problem is told."""

import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clusterd.config.document import DEFAULT, Document, Origin
from clusterd.config.kinds import Site
from clusterd.config.later import later
from clusterd.config.lines import Path
from clusterd.config.notation import dotted, found
from clusterd.config.schema import Config
from clusterd.config.spec import NAME, Entry, entries, keys
from clusterd.config.vocabulary import NAME_EXPECTED, NAME_PATTERN

MAX_NAMED = 100
"""A configuration may have this many pools, and this many listeners."""

# A difflib comparison costs microseconds, and a file of garbage may have a hundred thousand keys.
_MAX_SUGGESTIONS = 100


@dataclass(slots=True)
class Reading:
    """What was read.

    Attributes:
        config: with the default in place of each value that could not be read.
        origins: where each key's value came from; the entries of a table of strings are told one by one.
        void: the keys whose value could not be read, so that no further rule complains of them.
    """

    config: Config
    origins: dict[Path, Origin] = field(default_factory=dict)
    void: set[Path] = field(default_factory=set)


def read(document: Document) -> Reading:
    """Reads the whole document; problems are added to the document's."""
    reader = _Reader(document)
    config = reader.table(Config, document.tree, (), ())
    assert isinstance(config, Config)
    return Reading(config, reader.origins, reader.void)


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._suggestions = 0
        self.origins: dict[Path, Origin] = {}
        self.void: set[Path] = set()

    def table(self, struct: type[msgspec.Struct], raw: object, path: Path, general: tuple[str, ...]) -> msgspec.Struct:
        """Reads one table into its struct. ``general`` is the path with NAME for names."""
        known = entries(struct)
        if not isinstance(raw, dict):
            self._document.fault(path, f"expected the table [{dotted(path)}], found {found(raw)}")
            self.void.add(path)
            raw = {}
        for name in raw:
            if name not in known:
                self._unknown(name, path, general, known)
        values: dict[str, Any] = {}
        for name, entry in known.items():
            here = (*path, name)
            if entry.table is None:
                values[name] = self._key(entry, raw, here, (*general, name))
            elif entry.named:
                values[name] = self._named(entry.table, raw.get(name, {}), here, (*general, name, NAME))
            else:
                values[name] = self.table(entry.table, raw.get(name, {}), here, (*general, name))
        return struct(**values)

    def _named(
        self, struct: type[msgspec.Struct], raw: object, path: Path, general: tuple[str, ...]
    ) -> dict[str, msgspec.Struct]:
        what = str(path[-1])
        if not isinstance(raw, dict):
            expected = f"expected tables with names, such as [{what}.{'web' if what == 'pools' else 'http'}]"
            self._document.fault(path, f"{expected}, found {found(raw)}")
            self.void.add(path)
            return {}
        if len(raw) > MAX_NAMED:
            self._document.fault(path, f"there may be at most {MAX_NAMED} {what}, found {len(raw)}")
            self.void.add(path)
            return {}
        tables = {}
        for name, inner in raw.items():
            here = (*path, name)
            if not re.fullmatch(NAME_PATTERN, name):
                self._document.fault(here, f"expected {NAME_EXPECTED}, found {found(name)}")
            tables[name] = self.table(struct, inner, here, general)
        return tables

    def _key(self, entry: Entry, table: dict[str, Any], path: Path, general: tuple[str, ...]) -> Any:
        assert entry.key is not None
        if entry.name not in table:
            self.origins[path] = DEFAULT
            return entry.default
        raw = table[entry.name]
        self.origins[path] = self._document.origin(path)
        if isinstance(raw, dict):
            for name in raw:
                self.origins[(*path, name)] = self._document.origin((*path, name))
        site = Site(self._document.base_of(path))
        value = entry.key.kind.read(raw, site)
        for element, message in site.faults:
            self._document.fault((*path, *element), message)
        if site.faults:
            self.void.add(path)
            return entry.default
        reason = later(".".join(general), value, entry.default)
        if reason is not None:
            self._document.fault(path, reason)
        return value

    def _unknown(self, name: str, path: Path, general: tuple[str, ...], known: dict[str, Entry]) -> None:
        self._suggestions += 1
        near = nearest(name, path, general, known) if self._suggestions <= _MAX_SUGGESTIONS else ""
        hint = f"did you mean {near}?" if near else f"known here: {', '.join(known)}"
        shown = name if len(name) <= 60 else name[:59] + "…"
        self._document.fault((*path, shown), f"unknown key; {hint}", self._document.origin((*path, name)))


def nearest(name: str, path: Path, general: tuple[str, ...], known: dict[str, Entry]) -> str:
    """The known key that ``name`` was probably meant to be, as a path; empty if none is like it."""
    if len(name) > 60:
        return ""
    # The same name in another table first: keep_alive in [pools.web] is pools.web.http.keep_alive misplaced.
    elsewhere = [candidate for candidate, _ in keys() if candidate[-1] == name]
    if elsewhere:
        common = [_common(candidate, general) for candidate in elsewhere]
        best = elsewhere[common.index(max(common))]
        return dotted((*path[: max(common)], *best[max(common) :]))
    import difflib  # most configurations have no misspelt key

    like = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    return dotted((*path, like[0])) if like else ""


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts two paths begin with in common."""
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length
