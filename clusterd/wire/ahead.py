"""Connections on their way past a channel's queue, and the short way to read what Node's workers say to them.

They come thousands a second, and reading every answer as JSON costs as much as handing the connection over. Several may
be on their way: one write carries one descriptor, so the peer's reads keep them apart (unix(7)).
"""

import re
from collections import deque
from collections.abc import Container
from typing import Any, Final

_ARRIVED: Final = rb'\{"cmd":"NODE_HANDLE_ACK"\}\n'
_YES: Final = rb'\{"cmd":"NODE_CLUSTER","ack":([0-9]{1,15}),"accepted":true,"seq":[0-9]{1,15}\}\n'
_BOTH: Final = re.compile(_ARRIVED + _YES).match
"""What Node's workers say to a connection, to the byte; what looks different is read the long way."""
_EITHER: Final = re.compile(rb"(%b)?(?:%b)?" % (_ARRIVED, _YES)).match
"""The same where a read ends between the two, or they come in another order."""


class Ahead:
    """The questions of one channel whose handles have not been acknowledged.

    Args:
        asked: the channel's open questions.

    Attributes:
        flying: their numbers, oldest first.
    """

    __slots__ = ("_asked", "flying")

    def __init__(self, asked: set[int]) -> None:
        self._asked = asked
        self.flying: deque[int] = deque()

    def __len__(self) -> int:
        return len(self.flying)

    def add(self, seq: int, asked: bool = True) -> None:
        """It was written; ``asked``: and is not answered yet, though its handle may come late."""
        self.flying.append(seq)
        if asked:
            self._asked.add(seq)

    def clear(self) -> None:
        """Nothing more will be acknowledged."""
        self.flying.clear()

    def acknowledged(self, *, arrived: bool) -> tuple[int, dict[str, Any]] | None:
        """The oldest is; one that did not arrive is answered as if it were refused: its number, and that answer."""
        seq = self.flying.popleft()
        if arrived or seq not in self._asked:
            return None
        self._asked.discard(seq)
        return seq, refusal(seq)

    def accepted(self, data: bytes, among: Container[int]) -> tuple[list[int], int]:
        """See :meth:`clusterd.wire.channel.Channel.accepted`."""
        found: list[int] = []
        end, flying, asked = 0, self.flying, self._asked
        # The usual, by itself: with groups that may be missing it is half as much again.
        while flying and (match := _BOTH(data, end)) is not None:
            seq = int(match[1])
            if seq not in among or seq not in asked:
                break
            flying.popleft()
            asked.discard(seq)
            found.append(seq)
            end = match.end()
        while end < len(data) and (match := _EITHER(data, end)) is not None and match.end() > end:
            arrived, ack = match.groups()
            if arrived is not None:
                if not flying:
                    break
                flying.popleft()
                end = match.end(1)
            if ack is not None:
                seq = int(ack)
                if seq not in among or seq not in asked:
                    break
                asked.discard(seq)
                found.append(seq)
                end = match.end()
        return found, end


def refusal(seq: int) -> dict[str, Any]:
    """What answers a question whose handle did not arrive: it never reached anybody who could."""
    return {"cmd": "NODE_CLUSTER", "ack": seq, "accepted": False}
