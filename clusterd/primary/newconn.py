"""Handing connections to workers that have no mailbox, Node's among them: ``newconn`` over the control channel.

It takes the place of a mailbox's writing end (:class:`clusterd.unix.mail.Outbox`) in a :class:`.dispatch.Box`. Node's
own primary has one connection on its way; Node's workers take several. Our copy stays open until the worker has
accepted, so that it can go to another when the worker refuses or dies. Node itself loses it then.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from os import close, set_blocking
from typing import Final

from ..errors import PeerError
from ..unix.mail import Mail, Posted
from ..wire import mail as letters
from ..wire import messages
from ..wire.channel import NATIVE, Received
from ..wire.conversation import Conversation
from ..wire.lines import encode
from .handed import NewconnState

PARKED: Final = 0.05
"""Seconds that a worker which has refused is handed nothing: it says ``accepted: false`` while it is full, and never
says when it is full no more. Node asks again at once, thousands of times a second."""

_UNKNOWN: Final = -2
"""In :attr:`Newconn.emptied`: no box holds that as the time of its last connection."""

Papers = bytes | tuple[object, int]
"""What goes with a connection: a letter, or what one is made of if it has to go to another: address, and time."""


class Newconn:
    """The hand-over of one server's connections to one worker.

    Args:
        loop: the primary's.
        talk: the worker's channel.
        key: its server's.
        on_room: called when it can be handed another, and has been answered half of what it may hold: watching a
            listener, and not, costs as much as a connection. Says whether the loop has to turn.
        on_refused: called with a connection that it would not have; its descriptor is the callee's.

    Attributes:
        limit: as of an ``Outbox``: it is full exactly when ``queued()`` has reached it. A second one goes to a worker
            only when none is without, a third when none has one alone: those of one that hangs are few.
        emptied: one word, as a :class:`.box.Box` reads what a worker tells in ``words``: while it is the time of the
            last connection, nothing is on its way.
        answered: connections that it has accepted.
    """

    limit = 8

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        talk: Conversation,
        key: str,
        on_room: Callable[[], bool],
        on_refused: Callable[[Mail], None],
    ) -> None:
        self.answered = 0
        self._loop = loop
        self._talk = talk
        self._message = messages.newconn(key)
        self._head, self._tail = _line(self._message)
        self._on_room = on_room
        self._on_refused = on_refused
        self._flying: dict[int, tuple[Papers, int]] = {}  # what goes with it, and our copy
        self.emptied = [_UNKNOWN]
        self._last = _UNKNOWN  # when the youngest of them was accepted
        self._parked: asyncio.TimerHandle | None = None
        self._most = self.limit  # may be on their way; none while it is parked
        self._closed = False
        self._settled = self._settle  # bound once, for it is passed with each

    def fileno(self) -> int:
        """-1: there is nothing to poll; ``on_room`` tells."""
        return -1

    def queued(self) -> int:
        """How many it was handed and has not answered; as if it were full while it is parked."""
        return len(self._flying) if self._most else self.limit

    @property
    def full(self) -> bool:
        """Whether the next ``post`` is certain to return ``FULL``."""
        return len(self._flying) >= self._most

    def post(self, payload: bytes, fd: int | None = None) -> Posted:
        """Hand over one connection. The descriptor is its own if it returns ``SENT``, else the caller's still."""
        flying = self._flying
        if fd is None or len(flying) >= self._most:
            return Posted.FULL
        if self._closed or self._talk.channel.broken is not None:
            return Posted.BROKEN
        try:
            set_blocking(fd, False)
            seq = self._talk.ask_at_once(self._head, self._tail, self._settled, fd)
            if seq is None:  # behind what the channel has to say before it
                seq = self._talk.ask(self._message, self._answer, os.dup(fd))
        except OSError:
            return Posted.SHORT
        flying[seq], self._last = (payload, fd), _UNKNOWN
        return Posted.SENT

    def hand(self, fd: int, address: object, now: int) -> None:
        """As ``post``, of a connection that was accepted just now, in fewer steps.

        Args:
            fd: its descriptor, its own if nothing is raised.
            address: its peer's, as accept(2) gives it in Python.
            now: when, ``time.monotonic_ns()``.

        Raises:
            OSError: not now; ``post`` tells why.
        """
        if len(self._flying) >= self._most or self._closed:
            raise BlockingIOError
        # The flag is of the open file, which we share with the worker: Node does not set it on what it is handed.
        set_blocking(fd, False)
        seq = self._talk.ask_at_once(self._head, self._tail, self._settled, fd)
        if seq is None:
            raise BlockingIOError
        self._flying[seq], self._last = ((address, now), fd), now

    def _answer(self, received: Received) -> None:
        try:
            answer = messages.read(received.message)
        except PeerError:
            answer = None
        if received.ack is not None:
            self._settle(received.ack, isinstance(answer, messages.Reply) and answer.accepted is True)

    def _settle(self, seq: int, accepted: bool) -> bool:
        flown = self._flying.pop(seq, None)
        if flown is None:
            return False
        if accepted:
            close(flown[1])
            self.answered += 1
            if not self._flying and self._most:
                self.emptied[0] = self._last
        else:
            if self._parked is None and not self._closed:
                self._parked, self._most = self._loop.call_later(PARKED, self._unpark), 0
                self.emptied[0] = _UNKNOWN
            self._on_refused(Mail(_letter(flown[0]), flown[1], False))
            return True
        return len(self._flying) == self.limit // 2 and self._on_room()

    def describe(self) -> NewconnState:
        """For a successor of this process."""
        return NewconnState(
            self.answered, tuple((seq, _letter(papers), fd) for seq, (papers, fd) in self._flying.items())
        )

    def take_up(self, left: NewconnState) -> None:
        """What was handed over by a predecessor is answered here."""
        self.answered = left.answered
        for seq, payload, fd in left.flying:
            self._flying[seq] = payload, fd
            self._talk.expect(seq, self._settled)

    def _unpark(self) -> None:
        self._parked, self._most = None, self.limit
        self._on_room()

    def take_back(self) -> list[Mail]:
        """What it has not accepted, and will not: it is gone."""
        flying, self._flying = self._flying, {}
        return [Mail(_letter(papers), fd, False) for papers, fd in flying.values()]

    def close(self) -> None:
        """Hand it nothing more; what is on its way is the worker's, or ``take_back``'s. Harmless when repeated."""
        self._closed = True
        if self._parked is not None:
            self._parked.cancel()
            self._parked, self._most = None, self.limit


def _letter(papers: Papers) -> bytes:
    return papers if isinstance(papers, bytes) else letters.of(*papers)


def _line(message: Mapping[str, object]) -> tuple[bytes, bytes]:
    """What a connection's line is made of, before and after the number, which is its last member."""
    envelope = {"cmd": "NODE_HANDLE", "type": NATIVE, "msg": {**message, "seq": 0}}
    return encode(envelope)[: -len(b"0}}\n")], b"}}\n"
