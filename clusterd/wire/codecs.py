"""How values become bytes on a channel, and bytes values: Node's ``serialization`` setting."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from clusterd.wire import advanced, lines


class Cutter(Protocol):
    """Cuts a byte stream into values' bytes."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...
    def rest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write values.

    Attributes:
        name: as ``NODE_CHANNEL_SERIALIZATION_MODE`` has it.
        encode: a value to bytes, frame included; TypeError for what it cannot say.
        decode: the bytes of one frame to a value; PeerError and nothing else for what is none.
        cutter: makes the stream's cutter; its argument is the longest frame taken, in bytes.
    """

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    cutter: Callable[[int], Cutter]


JSON: Final = Codec("json", lines.encode, lines.decode, lines.Lines)
"""Node's default, and the only one that Node and Python both have."""

ADVANCED: Final = Codec("clusterd", advanced.encode, advanced.decode, advanced.Frames)
"""Cycles, sets, bytes, dates: between Python and Python. Node's own ``advanced`` is V8's private format."""
