"""The richer serialization: graphs of plain values, with cycles, and no way to run code in whoever reads them.

A frame is a length of four bytes, big endian, and MessagePack. That holds a list of *nodes*, the containers of the
graph in the order they were met; a container inside another is a reference to its node, so what was one object is one
object again, and may hold itself. Node 0 is the value's own. Types are few and fixed; an instance of anything else is a
TypeError for its sender. ``pickle`` would say more, and would do whatever the sender wants.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec

from clusterd.errors import PeerError

MAX_NODES: Final = 1_000_000
"""Containers in one message."""

_HEAD: Final = 4
_REFERENCE: Final = 1
_LIST, _DICT, _SET, _FROZEN, _TUPLE, _ARRAY = range(6)
_KINDS: Final = (list, dict, set, frozenset, tuple, bytearray)
_KIND_OF: Final[dict[type, int]] = {kind: number for number, kind in enumerate(_KINDS)}
_PLAIN: Final = frozenset({type(None), bool, float, str, bytes})

# Scalars that MessagePack lacks: the code of the extension, how they are written and read. All as text.
_TEXTS: Final[dict[type, tuple[int, Callable[[Any], str]]]] = {
    int: (2, str),
    dt.datetime: (3, dt.datetime.isoformat),
    dt.date: (4, dt.date.isoformat),
    dt.time: (5, dt.time.isoformat),
    dt.timedelta: (6, lambda value: f"{value.days},{value.seconds},{value.microseconds}"),
    Decimal: (7, str),
    uuid.UUID: (8, str),
    complex: (9, lambda value: f"{value.real!r},{value.imag!r}"),
}


def _timedelta(text: str) -> dt.timedelta:
    days, seconds, micros = text.split(",")
    return dt.timedelta(int(days), int(seconds), int(micros))


def _complex(text: str) -> complex:
    real, imag = text.split(",")
    return complex(float(real), float(imag))


_READERS: Final[dict[int, Callable[[str], Any]]] = {
    2: int,
    3: dt.datetime.fromisoformat,
    4: dt.date.fromisoformat,
    5: dt.time.fromisoformat,
    6: _timedelta,
    7: Decimal,
    8: uuid.UUID,
    9: _complex,
}

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Frames:
    """Cuts a byte stream into frames.

    Args:
        max_size: the longest frame, in bytes without its head.
    """

    __slots__ = ("_held", "_max")

    def __init__(self, max_size: int) -> None:
        self._max = max_size
        self._held = bytearray()

    def rest(self) -> bytes:
        """The beginning of a frame whose end has not come."""
        return bytes(self._held)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields what every completed frame holds; to be run to its end before the next call.

        Raises:
            PeerError: a frame says that it is longer than ``max_size``. The frames before it were yielded.
        """
        held = self._held
        held += data
        start = 0
        while len(held) - start >= _HEAD:
            size = int.from_bytes(held[start : start + _HEAD])
            if size > self._max:
                held.clear()
                raise PeerError(f"the peer sent a message of {size} bytes, more than the {self._max} that are taken")
            if len(held) - start < _HEAD + size:
                break
            yield bytes(held[start + _HEAD : start + _HEAD + size])
            start += _HEAD + size
        del held[:start]


def encode(value: Any) -> bytes:
    """Returns ``value`` as one frame.

    Raises:
        TypeError: it holds something that this format has no form for: a class of the app's own, a function, a file.
    """
    containers: list[Any] = []
    places: dict[int, int] = {}

    def scalar(item: Any) -> Any:
        kind = type(item)
        if kind in _PLAIN:
            return item
        if kind is int and -(2**63) <= item < 2**64:
            return item
        if kind in _KIND_OF:
            place = places.get(id(item))
            if place is None:
                place = places[id(item)] = len(containers)
                containers.append(item)
            return msgspec.msgpack.Ext(_REFERENCE, place.to_bytes(4))
        if kind in _TEXTS:
            code, write = _TEXTS[kind]
            try:
                return msgspec.msgpack.Ext(code, write(item).encode())
            except ValueError as error:  # an integer of very many digits
                raise TypeError(f"a message cannot be sent ({error})") from None
        if isinstance(item, str):  # of an enum, among others
            return str.__str__(item)
        raise TypeError(
            f"a message cannot be sent (it holds a {kind.__name__}); send lists, dicts, sets, tuples, text, bytes,"
            " numbers, dates, times, decimals and UUIDs"
        )

    root = scalar(value)
    nodes: list[Any] = []
    for container in containers:  # grows as we go: level by level, for recursion is bounded and a graph is not
        kind = _KIND_OF[type(container)]
        if kind == _DICT:
            nodes.append([kind, *(scalar(part) for pair in container.items() for part in pair)])
        elif kind == _ARRAY:
            nodes.append([kind, bytes(container)])
        else:
            nodes.append([kind, *map(scalar, container)])
    try:
        body = _pack([root, nodes])
    except (ValueError, OverflowError) as error:
        raise TypeError(f"a message cannot be sent ({error})") from None
    return len(body).to_bytes(_HEAD) + body


def decode(data: bytes) -> Any:
    """Returns the value of one frame.

    Raises:
        PeerError: it is no such frame. Nothing else is ever raised, whatever the bytes.
    """
    try:
        root, nodes = _unpack(data)
        if type(nodes) is not list or len(nodes) > MAX_NODES or not all(type(n) is list and n for n in nodes):
            raise ValueError("no list of nodes")
        return _Graph(nodes).value(root)
    except PeerError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise PeerError(f"the peer sent a message that is none of the advanced serialization: {error!r:.100}") from None


class _Graph:
    """Nodes becoming objects. Lists, dicts and sets are made empty first and filled after, so that they may hold each
    other; tuples and frozensets cannot, and are made when they are first asked for."""

    def __init__(self, nodes: list[list[Any]]) -> None:
        self._nodes = nodes
        self._made: dict[int, Any] = {}
        self._making: set[int] = set()
        for place, (kind, *_) in enumerate(nodes):
            if type(kind) is not int or not 0 <= kind <= _ARRAY:
                raise ValueError("an unknown kind of node")
            if kind in (_LIST, _DICT, _SET):
                self._made[place] = ([], {}, set())[kind]
        self._fill()

    def _fill(self) -> None:
        for place, (kind, *parts) in enumerate(self._nodes):
            if kind == _LIST:
                self._made[place].extend(map(self.value, parts))
            elif kind == _DICT:
                for key, value in zip(parts[::2], parts[1::2], strict=True):
                    self._made[place][self.value(key)] = self.value(value)
            elif kind == _SET:
                self._made[place].update(map(self.value, parts))

    def value(self, item: Any) -> Any:
        """The object that ``item`` of a node stands for."""
        if type(item) is not msgspec.msgpack.Ext:
            if type(item) in (list, dict):
                raise ValueError("a container outside its node")
            return item
        if item.code != _REFERENCE:
            return _READERS[item.code](bytes(item.data).decode())
        place = int.from_bytes(item.data)
        if place not in self._made:
            self._made[place] = self._make(place)
        return self._made[place]

    def _make(self, place: int) -> Any:
        kind, *parts = self._nodes[place]
        if kind == _ARRAY:
            return bytearray(*map(self._bytes, parts))
        if place in self._making:
            raise ValueError("a tuple or frozenset that holds itself")
        self._making.add(place)
        made = (frozenset if kind == _FROZEN else tuple)(map(self.value, parts))
        self._making.discard(place)
        return made

    @staticmethod
    def _bytes(part: Any) -> bytes:
        if type(part) is not bytes:
            raise ValueError("a bytearray of something else")  # of an integer it would be as long as that
        return part
