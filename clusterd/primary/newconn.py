"""Handing connections to workers that have no mailbox, Node's among them: ``newconn`` over the control channel.

It takes the place of a mailbox's writing end (:class:`clusterd.unix.mail.Outbox`) in a :class:`.dispatch.Box`. Node's
own primary has one connection on its way; Node's workers take several. Our copy stays open until the worker has
accepted, so that it can go to another when the worker refuses or dies. Node itself loses it then.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Final

from ..errors import PeerError
from ..unix.mail import Mail, Posted
from ..wire import messages
from ..wire.channel import NATIVE, Received
from ..wire.conversation import Conversation
from ..wire.lines import encode
from .handed import NewconnState

PARKED: Final = 0.05
"""Seconds that a worker which has refused is handed nothing: it says ``accepted: false`` while it is full, and never
says when it is full no more. Node asks again at once, thousands of times a second."""


class Newconn:
    """The hand-over of one server's connections to one worker.

    Args:
        loop: the primary's.
        talk: the worker's channel.
        key: its server's.
        on_room: called when it can be handed another.
        on_refused: called with a connection that it would not have; its descriptor is the callee's.

    Attributes:
        limit: as of an ``Outbox``: it is full exactly when ``queued()`` has reached it. A second one goes to a worker
            only when none is without.
        answered: connections that it has accepted.
    """

    limit = 4

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        talk: Conversation,
        key: str,
        on_room: Callable[[], None],
        on_refused: Callable[[Mail], None],
    ) -> None:
        self.answered = 0
        self._loop = loop
        self._talk = talk
        self._message = messages.newconn(key)
        self._head, self._tail = _line(self._message)
        self._on_room = on_room
        self._on_refused = on_refused
        self._flying: dict[int, tuple[bytes, int]] = {}  # what goes with it, and our copy
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
            # The flag is of the open file, which we share with the worker: Node does not set it on what it is handed.
            os.set_blocking(fd, False)
            seq = self._talk.ask_at_once(self._head, self._tail, self._settled, fd)
            if seq is None:  # behind what the channel has to say before it
                seq = self._talk.ask(self._message, self._answer, os.dup(fd))
        except OSError:
            return Posted.SHORT
        flying[seq] = payload, fd
        return Posted.SENT

    def _answer(self, received: Received) -> None:
        try:
            answer = messages.read(received.message)
        except PeerError:
            answer = None
        if received.ack is not None:
            self._settle(received.ack, isinstance(answer, messages.Reply) and answer.accepted is True)

    def _settle(self, seq: int, accepted: bool) -> bool:
        was_full = len(self._flying) >= self._most
        flown = self._flying.pop(seq, None)
        if flown is None:
            return False
        if accepted:
            os.close(flown[1])
            self.answered += 1
        else:
            if self._parked is None and not self._closed:
                self._parked, self._most = self._loop.call_later(PARKED, self._unpark), 0
            self._on_refused(Mail(*flown, False))
        if was_full:
            self._on_room()
        return was_full or not accepted

    def describe(self) -> NewconnState:
        """For a successor of this process."""
        return NewconnState(self.answered, tuple((seq, *flown) for seq, flown in self._flying.items()))

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
        return [Mail(*flown, False) for flown in flying.values()]

    def close(self) -> None:
        """Hand it nothing more; what is on its way is the worker's, or ``take_back``'s. Harmless when repeated."""
        self._closed = True
        if self._parked is not None:
            self._parked.cancel()
            self._parked, self._most = None, self.limit


def _line(message: Mapping[str, object]) -> tuple[bytes, bytes]:
    """What a connection's line is made of, before and after the number, which is its last member."""
    envelope = {"cmd": "NODE_HANDLE", "type": NATIVE, "msg": {**message, "seq": 0}}
    return encode(envelope)[: -len(b"0}}\n")], b"}}\n"
