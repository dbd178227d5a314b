"""A graph of values as one document, and back: the core's and the books, which a primary hands to its successor.

The core holds values only, so all of it can be written down by its shape: every object as the name of its class and its
attributes, every container as what it contains. What is reached on two ways is written once, and is one again. The
document outlives the code that wrote it: an attribute that the reader's class does not have is left out, one that the
document lacks gets its default, and where that is not enough :data:`MIGRATIONS` changes the document first.

No code is loaded: only classes of the rooms in :data:`ROOMS` are made, and none of their methods is called.
"""

import dataclasses
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final

import msgspec

from ..errors import ClusterdError

FORMAT: Final = 1
"""The version of documents that this code writes."""

MIGRATIONS: Final[dict[int, Callable[[dict[str, Any]], None]]] = {}
"""What makes a document of a version one of the next, in place."""

ROOMS: Final = ("clusterd.core.", "clusterd.ops.tally.", "clusterd.ops.metrics.")

_CONTAINERS: Final[dict[str, type]] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque, "Counter": Counter, "dict": dict,
}  # fmt: skip
_PLAIN: Final = (type(None), bool, int, float, str, bytes)


class StateError(ClusterdError):
    """The state of a primary cannot be written, or not be read by this version."""


def freeze(root: object) -> dict[str, Any]:
    """The graph below ``root`` as a document of plain values.

    Raises:
        StateError: there is something in it that is no value.
    """
    nodes: list[Any] = []
    numbers: dict[int, int] = {}
    alive: list[object] = []  # what has been numbered must not be freed, or its id is another's

    def write(value: object) -> Any:
        if type(value) in _PLAIN:
            return value
        number = numbers.get(id(value))
        if number is None:
            number = numbers[id(value)] = len(nodes)
            alive.append(value)
            nodes.append(None)
            nodes[number] = _node(value, write)
        return [number]

    top = write(root)
    return {"format": FORMAT, "root": top, "nodes": nodes}


def _node(value: Any, write: Callable[[object], Any]) -> list[Any]:
    kind = type(value)
    if isinstance(value, Enum):
        return ["enum", _name(kind), value.name]
    if kind in (dict, Counter):
        return [kind.__name__, [[write(key), write(item)] for key, item in value.items()]]
    if kind.__name__ in _CONTAINERS and _CONTAINERS[kind.__name__] is kind:
        return [kind.__name__, [write(item) for item in value], getattr(value, "maxlen", None)]
    return ["object", _name(kind), {name: write(item) for name, item in _attributes(value)}]


def _name(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not name.startswith(ROOMS):
        raise StateError(f"a {name} is no value that a primary could hand on")
    return name


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    names = _names(type(value))
    for name in vars(value) if names is None else names:
        if hasattr(value, name):
            yield name, getattr(value, name)


def _names(kind: type) -> list[str] | None:
    """Of a class that lists its attributes; ``None`` for one that does not."""
    if issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return [one.name for one in dataclasses.fields(kind)]
    if kind.__dictoffset__:
        return None
    return [name for base in reversed(kind.__mro__) for name in base.__dict__.get("__slots__", ())]


def thaw(document: Any, fresh: object = None) -> Any:
    """The graph that a document tells of.

    Args:
        document: from :func:`freeze`, of this version of the code or another.
        fresh: a graph as new code makes it. Classes that have no defaults of their own (no dataclasses) take the
            attributes that the document lacks from an object of theirs in there.

    Raises:
        StateError: it is no such document, or not one that this version understands.
    """
    try:
        return _thaw(document, fresh)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StateError(f"the state is garbled: {type(error).__name__}: {error}") from error


def _thaw(document: Any, fresh: object) -> Any:
    version = document["format"]
    while version != FORMAT:
        if version not in MIGRATIONS:
            raise StateError(f"the state is of version {version}, this clusterd understands {FORMAT} and older ones")
        MIGRATIONS[version](document)
        version = document["format"]
    nodes = document["nodes"]
    made: dict[int, Any] = {}
    models = _models(fresh)

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        (number,) = value
        if number not in made:
            _make(nodes[number], number)
        return made[number]

    def _make(node: list[Any], number: int) -> None:
        kind, *rest = node
        if kind == "enum":
            made[number] = _class(rest[0])[rest[1]]  # type: ignore[index]
        elif kind in ("dict", "Counter"):
            mapping = made[number] = _CONTAINERS[kind]()
            mapping.update({read(key): read(item) for key, item in rest[0]})
        elif kind in ("tuple", "frozenset"):
            made[number] = _CONTAINERS[kind](read(item) for item in rest[0])
        elif kind in _CONTAINERS:
            container = made[number] = deque(maxlen=rest[1]) if kind == "deque" else _CONTAINERS[kind]()
            add: Callable[[Any], None] = container.add if isinstance(container, set) else container.append
            for item in rest[0]:
                add(read(item))
        elif kind == "object":
            cls = _class(rest[0])
            instance = made[number] = object.__new__(cls) if not issubclass(cls, msgspec.Struct) else cls.__new__(cls)
            _fill(instance, {name: read(item) for name, item in rest[1].items()}, models.get(cls))
        else:
            raise StateError(f"the state has a {kind!r:.60} in it, which this version does not know")

    return read(document["root"])


def _class(name: str) -> type:
    if not name.startswith(ROOMS):
        raise StateError(f"the state names {name!r:.100}, which is no value of a primary's")
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    if not isinstance(found, type):
        raise StateError(f"the state has a {name} in it, which this version does not know")
    return found


def _fill(instance: Any, given: dict[str, Any], model: Any) -> None:
    """Give it what the document has, and of what that lacks the defaults."""
    defaults = _defaults(type(instance))
    known = _names(type(instance))
    if known is None:
        known = [*(() if model is None else vars(model)), *given]
    for name in dict.fromkeys(known):
        if name in given:
            value = given[name]
        elif name in defaults:
            value = defaults[name]()
        elif model is not None and hasattr(model, name):
            value = getattr(model, name)
        else:
            raise StateError(f"the state has no {name} of a {type(instance).__name__}, which this version needs")
        object.__setattr__(instance, name, value)


def _defaults(kind: type) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    if issubclass(kind, msgspec.Struct):
        for one in msgspec.structs.fields(kind):
            if one.default_factory is not msgspec.NODEFAULT:
                found[one.name] = one.default_factory
            elif one.default is not msgspec.NODEFAULT:
                found[one.name] = lambda value=one.default: value  # type: ignore[misc]
    elif dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory
            elif field.default is not dataclasses.MISSING:
                found[field.name] = lambda value=field.default: value  # type: ignore[misc]
    return found


def _models(fresh: object) -> dict[type, Any]:
    """An object of each class that is found in a graph."""
    found: dict[type, Any] = {}
    seen: set[int] = set()
    left = [fresh]
    while left:
        value: Any = left.pop()
        if type(value) in _PLAIN or isinstance(value, Enum) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset | deque):
            left += value
        else:
            found.setdefault(type(value), value)
            left += [item for _, item in _attributes(value)]
    return found
