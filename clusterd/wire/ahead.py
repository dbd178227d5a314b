"""Connections on their way past a channel's queue, and the short way to read what Node's workers say to them.

They come thousands a second, and reading every answer as JSON costs as much as handing the connection over. Several may
be on their way: one write carries one descriptor, so the peer's reads keep them apart (unix(7)).
"""

import re
from collections import deque
from collections.abc import Container
from typing import Any, Final

_BOTH: Final = re.compile(
    rb'\{"cmd":"NODE_HANDLE_ACK"\}\n'
    rb'\{"cmd":"NODE_CLUSTER","ack":([0-9]{1,15}),"accepted":true,"seq":[0-9]{1,15}\}\n'
).match
_ANSWER: Final = re.compile(
    rb'(\{"cmd":"NODE_HANDLE_ACK"\}\n)?'
    rb'(?:\{"cmd":"NODE_CLUSTER","ack":([0-9]{1,15}),"accepted":true,"seq":[0-9]{1,15}\}\n)?'
).match
"""What Node's workers say to a connection, one after the other as a rule, to the byte; what looks different is read the
long way."""


class Ahead:
    """The questions of one channel whose handles have not been acknowledged.

    Args:
        asked: the channel's open questions.
    """

    __slots__ = ("_asked", "_flying")

    def __init__(self, asked: set[int]) -> None:
        self._asked = asked
        self._flying: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._flying)

    def add(self, seq: int, asked: bool = True) -> None:
        """It was written; ``asked``: and is not answered yet, though its handle may come late."""
        self._flying.append(seq)
        if asked:
            self._asked.add(seq)

    def undo(self) -> None:
        """The last one was not written."""
        self._asked.discard(self._flying.pop())

    def numbers(self) -> tuple[int, ...]:
        """Those that are not acknowledged, in order."""
        return tuple(self._flying)

    def clear(self) -> None:
        """Nothing more will be acknowledged."""
        self._flying.clear()

    def acknowledged(self, *, arrived: bool) -> tuple[int, dict[str, Any]] | None:
        """The oldest is; one that did not arrive is answered as if it were refused: its number, and that answer."""
        seq = self._flying.popleft()
        if arrived or seq not in self._asked:
            return None
        self._asked.discard(seq)
        return seq, refusal(seq)

    def accepted(self, data: bytes, among: Container[int]) -> tuple[list[int], int]:
        """See :meth:`clusterd.wire.channel.Channel.accepted`."""
        found: list[int] = []
        end, flying, asked = 0, self._flying, self._asked
        while flying and (match := _BOTH(data, end)) is not None:
            seq = int(match[1])
            if seq not in among or seq not in asked:
                break
            flying.popleft()
            asked.discard(seq)
            found.append(seq)
            end = match.end()
        while end < len(data) and (match := _ANSWER(data, end)) is not None and match.end() > end:
            arrived, ack = match.groups()
            if arrived is not None:
                if not self._flying:
                    break
                self._flying.popleft()
                end = match.end(1)
            if ack is not None:
                seq = int(ack)
                if seq not in among or seq not in self._asked:
                    break
                self._asked.discard(seq)
                found.append(seq)
                end = match.end()
        return found, end


def refusal(seq: int) -> dict[str, Any]:
    """What answers a question whose handle did not arrive: it never reached anybody who could."""
    return {"cmd": "NODE_CLUSTER", "ack": seq, "accepted": False}
