"""The line at which each key of a TOML document is written. tomli tells only the values.

The index reads structure, not values: where keys, strings, arrays and tables begin and end, by the grammar of TOML
1.1 (https://toml.io/en/v1.1.0). It is meant for documents that tomli accepts; at anything else it stops without
raising, so it may run before tomli does and be its guard against nesting (see :data:`MAX_DEPTH`). It needs no
recursion. That it agrees with tomli's own reading is held by a property test.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass, field

import tomli

Path = tuple[str | int, ...]

# The schema is 4 keys deep. tomli recurses into arrays, and its work on dotted keys grows with the square of their
# parts, so a document deeper than this is refused before tomli sees it.
MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_REST_OF_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The multi-line forms close with three quotes, and up to two more directly before them belong to the text.
_STRING = re.compile(
    r'"""(?:[^"\\]++|\\[\s\S]|"(?!""))*+"{3,5}'
    r"|'''(?:[^']++|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\\n]++|\\[^\n])*+"'
    r"|'[^'\n]*+'"
)
_BARE_VALUE = re.compile(r"[^,\]}\n#]+")


@dataclass(slots=True)
class LineIndex:
    """What :func:`index_lines` found.

    Attributes:
        lines: the line, counted from 1, at which a key or an element of an array is written first, by its path.
            A part of a path is the key's text, or the number of an element.
        too_deep: the line at which the document exceeds :data:`MAX_DEPTH`; ``None`` if it does not.
    """

    lines: dict[Path, int] = field(default_factory=dict)
    too_deep: int | None = None


def index_lines(text: str) -> LineIndex:
    """Finds the line of every key of a TOML document. Never raises; the time is linear in the length of ``text``."""
    return _Scanner(text.replace("\r\n", "\n")).run()


class _Scanner:
    """One pass over one document. ``_pos`` is where it stands; each step returns False where the grammar ends."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._found = LineIndex()
        self._header: Path = ()
        # How many elements each array of tables has so far: only the last is open to further headers.
        self._elements: dict[Path, int] = {}
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def run(self) -> LineIndex:
        while self._statement():
            pass
        return self._found

    def _statement(self) -> bool:
        self._pos = _match_end(_SPACE_AND_COMMENTS, self._text, self._pos)
        if self._pos >= len(self._text):
            return False
        going_on = self._table_header() if self._text[self._pos] == "[" else self._pair()
        if not going_on:
            return False
        end = _REST_OF_LINE.match(self._text, self._pos)
        if end is None:
            return False
        self._pos = end.end()
        return True

    def _table_header(self) -> bool:
        closing = "]]" if self._text.startswith("[[", self._pos) else "]"
        line = self._line()
        self._pos += len(closing)
        keys = self._key()
        if keys is None or not self._text.startswith(closing, self._pos):
            return False
        self._pos += len(closing)
        path: Path = ()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            if not self._note(path, line):
                return False
            if closing == "]]" and number == len(keys):
                self._elements[path] = self._elements.get(path, 0) + 1
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
                if not self._note(path, line):
                    return False
        self._header = path
        return True

    def _pair(self) -> bool:
        """A key, ``=`` and a value of any depth, by a stack of the containers that are still open."""
        path = self._left_side(self._header)
        if path is None:
            return False
        # One entry a container: its path, and the number of the next element (None for an inline table).
        stack: list[tuple[Path, int | None]] = []
        while True:
            opened = self._value(path, stack)
            if opened is None:
                return False
            next_path = self._next_in_container(stack, fresh=opened)
            if next_path is None:
                return not stack
            path = next_path

    def _value(self, path: Path, stack: list[tuple[Path, int | None]]) -> bool | None:
        """Steps over one value, or into it: True if it opened a container, None where there is no value."""
        first = self._text[self._pos : self._pos + 1]
        if first in ("[", "{"):
            self._pos += 1
            stack.append((path, 0 if first == "[" else None))
            return True
        pattern = _STRING if first in ('"', "'") else _BARE_VALUE
        match = pattern.match(self._text, self._pos)
        if match is None:
            return None
        self._pos = match.end()
        return False

    def _next_in_container(self, stack: list[tuple[Path, int | None]], *, fresh: bool) -> Path | None:
        """Goes to the next value that belongs to an open container. None at the pair's end, or where it breaks off."""
        while stack:
            self._pos = _match_end(_SPACE_AND_COMMENTS, self._text, self._pos)
            container, number = stack[-1]
            if not fresh and self._text.startswith(",", self._pos):
                self._pos = _match_end(_SPACE_AND_COMMENTS, self._text, self._pos + 1)
                fresh = True
            if self._text.startswith("}" if number is None else "]", self._pos):
                self._pos += 1
                stack.pop()
                fresh = False
                continue
            if not fresh:
                return None
            if number is None:
                return self._left_side(container)
            stack[-1] = (container, number + 1)
            path = (*container, number)
            return path if self._note(path, self._line()) else None
        return None

    def _left_side(self, table: Path) -> Path | None:
        line = self._line()
        keys = self._key()
        if keys is None or not self._text.startswith("=", self._pos):
            return None
        self._pos = _match_end(_SPACE, self._text, self._pos + 1)
        path = table
        for key in keys:
            path = (*path, key)
            if not self._note(path, line):
                return None
        return path

    def _key(self) -> list[str] | None:
        parts: list[str] = []
        while len(parts) <= MAX_DEPTH:
            self._pos = _match_end(_SPACE, self._text, self._pos)
            part = self._key_part()
            if part is None:
                return None
            parts.append(part)
            self._pos = _match_end(_SPACE, self._text, self._pos)
            if not self._text.startswith(".", self._pos):
                return parts
            self._pos += 1
        self._found.too_deep = self._line()
        return None

    def _key_part(self) -> str | None:
        bare = _BARE_KEY.match(self._text, self._pos)
        if bare is not None:
            self._pos = bare.end()
            return bare.group()
        quoted = _STRING.match(self._text, self._pos)
        if quoted is None:
            return None
        token = quoted.group()
        if token.startswith(('"""', "'''")):
            # A key has no multi-line form: this is the empty key, with garbage after it.
            return None
        self._pos = quoted.end()
        if "\\" not in token or token.startswith("'"):
            return token[1:-1]
        try:
            # tomli's own reading of the escapes, so that the two cannot differ.
            return str(tomli.loads(f"k={token}")["k"])
        except tomli.TOMLDecodeError:
            return None

    def _note(self, path: Path, line: int) -> bool:
        if len(path) > MAX_DEPTH:
            self._found.too_deep = line
            return False
        self._found.lines.setdefault(path, line)
        return True

    def _line(self) -> int:
        return bisect_left(self._newlines, self._pos) + 1


def _match_end(pattern: re.Pattern[str], text: str, pos: int) -> int:
    match = pattern.match(text, pos)
    return pos if match is None else match.end()
