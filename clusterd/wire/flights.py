"""Messages with descriptors, from ``send`` to their acknowledgement: one at a time to Node, several between our ends.

An end of ours says how many it takes unacknowledged (``handles``, in a message of the cluster: members and acts that
Node does not know it ignores); until it has said so it gets one at a time. One that is sent before its predecessor was
acknowledged says that it is ``behind`` it, and is taken only if that one was. So after a loss all that were behind it
are refused with it, and are sent again in order, each alone until one arrives: go-back-N.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from clusterd.wire.parcels import Outgoing

WINDOW: Final = 16
"""Handles under way unacknowledged, at most: descriptors that the receiver may have to hold at once, and that count
for the sender's user as in flight (``ETOOMANYREFS``)."""

WINDOW_BYTES: Final = 64 * 1024
"""Bytes of their messages, if there are several: they are kept until they are acknowledged."""

ATTEMPTS: Final = 4
"""How often a handle is sent before it is given back: once, and three times more."""

_BEHIND: Final = b',"behind":true}\n'


class Handle:
    """A message with a descriptor, from ``send`` to its acknowledgement."""

    __slots__ = ("attempts", "behind", "data", "fd", "handed_out", "kind", "message")

    def __init__(self, data: bytes, fd: int, message: Any, kind: str) -> None:
        self.data = data
        self.fd = fd
        self.message = message
        self.kind = kind
        self.attempts = 0
        self.behind = False
        self.handed_out = False

    def line(self) -> bytes:
        """What is written: with the word that it is behind another, if it is."""
        return self.data[:-2] + _BEHIND if self.behind else self.data


class Flights:
    """The handles of one channel that wait for their answers, which come in order.

    Args:
        several: the codec's values are lines of JSON, which can be added to.

    Attributes:
        window: how many the peer takes.
        flying: those that wait, oldest first; empty only if there is none at all, or :meth:`again` is to be asked.
    """

    __slots__ = ("_alone", "_bytes", "_lost", "_several", "flying", "window")

    def __init__(self, several: bool) -> None:
        self.window = 1
        self._several = several
        self.flying: deque[Handle] = deque()
        self._lost: list[Handle] = []  # refused, and all behind them with them; sent again when the last is
        self._bytes = 0
        self._alone = False  # nothing has arrived since one was lost

    def __len__(self) -> int:
        return len(self.flying) + len(self._lost)

    def open(self, window: object) -> None:
        """The peer says how many it takes."""
        if self._several and type(window) is int:
            self.window = max(1, min(window, WINDOW))

    def room(self, size: int) -> bool:
        """Whether one of so many bytes may go now, behind those that fly."""
        flying = len(self.flying)
        if not flying:
            return not self._lost
        return flying < self.window and not self._lost and not self._alone and self._bytes + size <= WINDOW_BYTES

    def add(self, handle: Handle) -> None:
        """It goes."""
        handle.behind = bool(self.flying)
        handle.handed_out = False
        self.flying.append(handle)
        self._bytes += len(handle.data)

    def answered(self, *, arrived: bool) -> Handle | None:
        """The oldest was; it, if it arrived. ``None`` too if the answer is to nothing: users can forge those."""
        if not self.flying or not self.flying[0].handed_out:
            return None
        handle = self.flying.popleft()
        self._bytes -= len(handle.data)
        if arrived:
            self._alone = False
            return handle
        if self._lost:
            handle.attempts -= 1  # it was not its fault
        self._lost.append(handle)
        return None

    def again(self) -> tuple[Handle | None, list[Handle]]:
        """When all that were lost together are known: the one that was lost too often, and those to be sent again."""
        if self.flying or not self._lost:
            return None, []
        lost, self._lost = self._lost, []
        self._alone = True
        return (lost.pop(0) if lost[0].attempts >= ATTEMPTS else None), lost

    def end(self) -> list[Handle]:
        """Nothing more will be answered: all of them, the oldest first."""
        handles = [*self._lost, *self.flying]
        self.flying.clear()
        self._lost.clear()
        self._bytes = 0
        return handles


def written(ready: Sequence[bytes | Handle], *, together: bool) -> list[Outgoing]:
    """What is ready, as writes; the handles are handed out by it. Neighbours without a descriptor are one write.

    Args:
        together: they are one with a handle behind them too: our ends give a descriptor to the next message that wants
            one. So does Node, but Node itself never writes so.
    """
    if len(ready) == 1 and isinstance(ready[0], bytes):  # most often
        return [Outgoing(ready[0], None)]
    pieces: list[Outgoing] = []
    plain: list[bytes] = []
    for item in ready:
        if isinstance(item, bytes):
            plain.append(item)
            continue
        line = item.line()
        if plain and together:
            line = b"".join((*plain, line))
        elif plain:
            pieces.append(Outgoing(b"".join(plain), None))
        plain = []
        item.attempts += 1
        item.handed_out = True
        pieces.append(Outgoing(line, item.fd))
    if plain:
        pieces.append(Outgoing(b"".join(plain), None))
    return pieces
