"""A channel on a stream: what both ends of the control channel do with every read and every message to send.

The stream is whatever has ``write``, ``pending`` and ``close`` (:class:`clusterd.unix.stream.FdStream` as a rule); it
is given, not made here.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from ..errors import PeerError
from . import messages
from .channel import NATIVE, Channel, Received, Returned

A_WRITE: Final = 128
"""Messages that wait for the next turn of the loop at most: the peer reads the first while the last are made."""


class Stream(Protocol):
    """What a conversation asks of its stream."""

    def write(self, data: bytes, fds: Sequence[int] = ()) -> bool: ...
    def write_now(self, data: bytes, fd: int) -> bool: ...
    def pending(self) -> int: ...
    def close(self) -> None: ...


class Conversation:
    """One end of a control channel.

    Args:
        channel: the protocol's state.
        on_message: called with every message received but answers; a descriptor in it is the callee's.
        on_broken: called once, if the peer breaks the rules; nothing is received or sent after it.
        on_returned: called with every handle that did not arrive; its descriptor is the callee's.
    """

    def __init__(
        self,
        channel: Channel,
        on_message: Callable[[Received], None],
        on_broken: Callable[[PeerError], None],
        on_returned: Callable[[Returned], None] = lambda handle: os.close(handle.fd),
    ) -> None:
        self.channel = channel
        self._on_message = on_message
        self._on_broken = on_broken
        self._on_returned = on_returned
        self._stream: Stream | None = None
        self._told = False
        self._later: Callable[[Callable[[], None]], object] | None = None
        self._rows = False  # something was sent since the last read
        self._row = 0  # how many wait
        self._waiting = False  # for the next turn
        self._answers: dict[int, Callable[[Received], None]] = {}
        self._at_once: dict[int, Callable[[int, bool], bool]] = {}

    def attach(self, stream: Stream, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        """Say which stream to write to; what was sent before goes now.

        Args:
            later: calls a function in the next turn of the loop, for :meth:`send_in_row`.
        """
        self._stream = stream
        self._later = later
        self._flush()

    def data(self, data: bytes, fds: Sequence[int]) -> bool:
        """Take in what one read brought.

        Returns:
            Whether the loop has to turn: something may have been asked of it.
        """
        turn = False
        if self._at_once and not fds:
            accepted, end = self.channel.accepted(data, self._at_once)
            for seq in accepted:
                turn = self._at_once.pop(seq)(seq, True) or turn
            if end == len(data):
                self._rows = False
                return turn
            data = data[end:]
        self._read(data, fds)
        return True

    def _read(self, data: bytes, fds: Sequence[int]) -> None:
        try:
            received = self.channel.feed(data, fds)
        except PeerError:
            received = []
        self._rows = False
        for message in received:  # before the flush, which may find the peer broken: what it said first counts
            if message.ack in self._at_once:
                self._at_once.pop(message.ack)(message.ack, _is_yes(message))
                continue
            answer = self._answers.pop(message.ack, None) if message.ack is not None else None
            (answer or self._on_message)(message)
        self._flush()

    def send(
        self, message: Any, fd: int | None = None, kind: str = NATIVE, details: Mapping[str, object] | None = None
    ) -> bool:
        """Send; as :meth:`Channel.send`. The descriptor is the channel's from now on."""
        more = self.channel.send(message, fd, kind, details)
        self._flush()
        return more

    def send_in_row(
        self, message: Any, fd: int | None = None, kind: str = NATIVE, details: Mapping[str, object] | None = None
    ) -> bool:
        """As :meth:`send`, but a row of messages that answer nothing is few writes: the first goes at once, the others
        together, in the next turn of the loop at the latest."""
        more = self.channel.send(message, fd, kind, details)
        if not self._rows or self._later is None:
            self._rows = True
            self._flush()
        elif not self._waiting:
            self._waiting, self._row = True, 1
            self._later(self._turned)
        else:
            self._row += 1
            if self._row >= A_WRITE:
                self._row = 0
                self._flush()
        return more

    def _turned(self) -> None:
        self._waiting = False
        self._flush()

    def ask(
        self,
        message: Mapping[str, object],
        on_answer: Callable[[Received], None],
        fd: int | None = None,
        kind: str = NATIVE,
    ) -> int:
        """Send what is answered; as :meth:`Channel.ask`. Of a peer that is gone no answer comes, and none is made up.

        Returns:
            Its ``seq``.
        """
        seq = self.channel.ask(message, fd, kind)
        self._answers[seq] = on_answer
        self._flush()
        return seq

    def ask_at_once(self, head: bytes, tail: bytes, on_answer: Callable[[int, bool], bool], fd: int) -> int | None:
        """Hand over a connection, past all queues, if nothing is in them and the kernel takes it now.

        Args:
            head, tail: the line before and after its ``seq``.
            on_answer: called with the ``seq`` and whether it is accepted; says whether the loop has to turn.
            fd: the connection; it stays the caller's.

        Returns:
            Its ``seq``, or ``None``: ``ask`` has to do.
        """
        stream = self._stream
        seq = None if stream is None else self.channel.ahead()
        if stream is None or seq is None:
            return None
        if not stream.write_now(b"%b%d%b" % (head, seq, tail), fd):
            self.channel.stayed()
            return None
        self._at_once[seq] = on_answer
        return seq

    def expect(self, seq: int, on_answer: Callable[[int, bool], bool]) -> None:
        """Hear the answer to a connection that was handed over before this conversation was taken up here.

        Args:
            seq: its number.
            on_answer: as :meth:`ask_at_once` has it.
        """
        self._at_once[seq] = on_answer

    @property
    def asking(self) -> bool:
        """An answer is awaited."""
        return bool(self._answers)

    @property
    def quiet(self) -> bool:
        """All that was said has been written, and no answer is awaited."""
        return self.channel.quiet and not self._answers and self._stream is not None and not self._stream.pending()

    def close(self) -> None:
        """End it: what can be written is written, what was under way is given back."""
        if self._stream is not None:
            self._flush()
            self._stream.close()
            self._stream = None
        self.channel.close()
        self._answers.clear()
        self._at_once.clear()
        self._tidy()

    def _flush(self) -> None:
        stream = self._stream
        if stream is not None and self.channel.broken is None:
            try:
                for piece in self.channel.outgoing(stream.pending()):
                    # False: the stream has ended, which its owner hears, or is over its limit, which is above the
                    # channel's own and so never met first.
                    stream.write(piece.data, () if piece.fd is None else (piece.fd,))
            except PeerError:
                pass  # told below
        self._tidy()

    def _tidy(self) -> None:
        if self.channel.littered:
            for fd in (*self.channel.stray(), *self.channel.released()):
                os.close(fd)
            for handle in self.channel.returned():
                self._on_returned(handle)
        if self.channel.broken is not None and not self._told:
            self._told = True
            self._on_broken(self.channel.broken)


def _is_yes(received: Received) -> bool:
    try:
        answer = messages.read(received.message)
    except PeerError:
        return False
    return isinstance(answer, messages.Reply) and answer.accepted is True
