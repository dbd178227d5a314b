"""What a user has said, before its meaning is known: the file's tree, with flags and variables laid over it.

Each value knows where it came from, so that every error and ``clusterd explain`` can tell.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import tomli

from clusterd.config.lines import MAX_DEPTH, LineIndex, Path, index_lines
from clusterd.config.notation import Loose, dotted
from clusterd.config.substitute import Substitution
from clusterd.errors import ConfigError, Problem

MAX_BYTES = 1024 * 1024
"""A configuration file may have this many bytes; it is some kilobytes in life."""

# int() refuses more (sys.set_int_max_str_digits), as ValueError without a place.
_LONG_NUMBER = re.compile(r"[0-9_]{4301,}")
_TWICE = ("Cannot overwrite a value", "Cannot declare", "Duplicate inline table key", "Cannot redefine namespace")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: the file, a flag of the command line, the environment, or none of them: the default.
        name: the file as the user named it, the flag, the variable with its ``$``; for a default what it was made from.
        line: the line in the file, counted from 1.
        written: what stands in the file, where variables were put into it.
    """

    kind: Literal["file", "flag", "environment", "default"]
    name: str = ""
    line: int | None = None
    written: str | None = None

    def __str__(self) -> str:
        if self.kind == "default":
            return f"default ({self.name})" if self.name else "default"
        return self.name + (f":{self.line}" if self.line is not None else "")


DEFAULT = Origin("default")


@dataclass(slots=True)
class Document:
    """A tree of plain values, and where each came from.

    Attributes:
        tree: tables as dicts, arrays as lists, and whatever tomli reads.
        base: the directory of the file, which its relative paths are relative to.
        cwd: the working directory, which those of flags and variables are relative to.
        file: the file as the user named it; ``None`` without a file.
        problems: what was wrong so far.
    """

    tree: dict[str, Any]
    base: str
    cwd: str
    file: str | None = None
    problems: list[Problem] = field(default_factory=list)
    _index: LineIndex = field(default_factory=LineIndex)
    _laid_over: dict[Path, Origin] = field(default_factory=dict)
    _written: dict[Path, str] = field(default_factory=dict)

    def get(self, path: Path) -> Any:
        """The value at ``path``; ``None`` if nothing was said there (TOML has no null)."""
        value: Any = self.tree
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        return value

    def table(self, path: Path) -> dict[str, Any]:
        """The table at ``path``; an empty one if there is none, or something else."""
        value = self.get(path)
        return value if isinstance(value, dict) else {}

    def put(self, path: Path, value: object, origin: Origin) -> None:
        """Lays a value over the tree, making the tables around it."""
        table = self.tree
        for number, part in enumerate(path[:-1], 1):
            inner = table.setdefault(str(part), {})
            if not isinstance(inner, dict):
                self.fault(path, f"{dotted(path[:number])} is no table, so nothing can be set in it", origin)
                return
            table = inner
        table[str(path[-1])] = value
        # What the file said in the table that is replaced is said no more.
        replaced: tuple[dict[Path, Any], ...] = (self._laid_over, self._written, self._index.lines)
        for places in replaced:
            for old in [old for old in places if old[: len(path)] == path]:
                del places[old]
        self._laid_over[path] = origin

    def origin(self, path: Path) -> Origin:
        """Where the value at ``path`` was said, or the table around it."""
        for end in range(len(path), 0, -1):
            laid_over = self._laid_over.get(path[:end])
            if laid_over is not None:
                return replace(laid_over, written=self._written.get(path))
            line = self._index.lines.get(path[:end])
            if line is not None:
                return Origin("file", self.file or "", line, self._written.get(path))
        # A table that only flags have made: the first of them.
        inside = (origin for place, origin in self._laid_over.items() if place[: len(path)] == path)
        return next(inside, Origin("file", self.file or ""))

    def base_of(self, path: Path) -> str:
        """The directory that a relative path at ``path`` is relative to."""
        return self.base if self.origin(path).kind == "file" else self.cwd

    def fault(self, path: Path, message: str, origin: Origin | None = None) -> None:
        """Notes a problem with the value at ``path``."""
        where = origin or self.origin(path)
        self.problems.append(Problem(message, dotted(path), where.name, where.line))

    def substitute(self, environ: Mapping[str, str]) -> None:
        """Replaces the references to variables in every string of the tree."""
        substitution = Substitution(environ)

        def replaced(value: Any, path: Path) -> Any:
            if isinstance(value, dict):
                return {key: replaced(item, (*path, key)) for key, item in value.items()}
            if isinstance(value, list):
                return [replaced(item, (*path, number)) for number, item in enumerate(value)]
            if not isinstance(value, str) or "$" not in value:
                return value
            try:
                result = substitution.apply(value)
            except ValueError as error:
                self.fault(path, str(error))
                return value
            self._written[path] = value
            return Loose(result)

        self.tree = replaced(self.tree, ())


def parse(text: str, *, file: str | None, base: str, cwd: str) -> Document:
    """Reads TOML.

    Raises:
        ConfigError: with the one problem that makes it no TOML, or too big or too deep to be read.
    """
    name = file or ""
    if len(text) > MAX_BYTES:
        raise _unusable(f"the file is bigger than {MAX_BYTES >> 20} MiB, which is no configuration", name)
    index = index_lines(text)
    if index.too_deep is not None:
        raise _unusable(f"keys or arrays are nested deeper than {MAX_DEPTH} levels", name, index.too_deep)
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        # Releases of tomli before 2.2 have no fields, and their message tells the line too.
        line = getattr(error, "lineno", None)
        message = getattr(error, "msg", str(error))
        if message.startswith(_TWICE):
            message += ": this key or table was given before"
        column = f" (column {error.colno})" if line is not None else ""
        raise _unusable(f"this is no valid TOML: {message}{column}", name, line) from None
    except ValueError:
        long = _LONG_NUMBER.search(text)
        line = None if long is None else text.count("\n", 0, long.start()) + 1
        raise _unusable("a number has too many digits", name, line) from None
    except RecursionError:
        raise _unusable("keys or arrays are nested too deep", name) from None
    return Document(tree, base, cwd, file, _index=index)


def read_file(file: str) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it is missing, no regular file, unreadable, too big, or not UTF-8.
    """
    try:
        # Non-blocking, because to open a FIFO would wait for a writer for ever.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a path holds no NUL character"
        raise _unusable(f"the configuration file cannot be opened: {reason}", file.replace("\0", "\\0")) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise _unusable(f"the configuration file is {what}", file)
        data = b""
        while len(data) <= MAX_BYTES and (part := os.read(descriptor, MAX_BYTES)):
            data += part
    except OSError as error:
        raise _unusable(f"the configuration file cannot be read: {error.strerror}", file) from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise _unusable(f"the file is bigger than {MAX_BYTES >> 20} MiB, which is no configuration", file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object is without the byte order mark that utf-8-sig takes away.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unusable(f"the file is not UTF-8: the byte 0x{error.object[error.start]:02x}", file, line) from None


def _unusable(message: str, file: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(message, "", file, line)])
