"""A conversation set down, to be taken up by another process that has its descriptors: all that neither end may miss.

It knows the insides of :class:`~.channel.Channel` and :class:`~.conversation.Conversation`, which know nothing of it.
What was asked goes on being asked, and whoever has asked says again who is to hear the answer
(:meth:`~.conversation.Conversation.expect`); an answer for nobody is let pass.
"""

from collections.abc import Sequence

import msgspec

from clusterd.errors import PeerError
from clusterd.wire.channel import OVERHEAD, Channel
from clusterd.wire.codecs import JSON
from clusterd.wire.conversation import Conversation
from clusterd.wire.flights import Handle


class Parcel(msgspec.Struct, omit_defaults=True):
    """A message with a descriptor, as its bytes, and what has been done with it."""

    data: bytes
    fd: int
    attempts: int = 0
    behind: bool = False
    sent: bool = False


class Unsent(msgspec.Struct, omit_defaults=True):
    """Bytes that the kernel has not taken yet, and the descriptors that go with the first of them."""

    data: bytes
    fds: tuple[int, ...] = ()


class Suspended(msgspec.Struct, omit_defaults=True):
    """One end of a conversation.

    Attributes:
        unread: the beginning of a message whose end has not come.
        unpaired: descriptors that have come before their message, -1 for one that was lost.
        missed: the last message that was to have one got none.
        asked: the numbers of questions that are not answered.
        ahead: those of them whose handles went past the queue and are not acknowledged, in order.
        flying: the handles whose acknowledgement is awaited, the oldest first.
        lost: those that were refused and are to be sent again.
        alone: nothing has arrived since one was lost.
        window: how many the peer takes; told: it has been told how many are taken here.
        waiting: what waits behind them.
        unsent: what the stream holds.
        broken: why the peer counts as broken; empty: it does not.
    """

    unread: bytes = b""
    unpaired: tuple[int, ...] = ()
    missed: bool = False
    asked: tuple[int, ...] = ()
    ahead: tuple[int, ...] = ()
    flying: tuple[Parcel, ...] = ()
    lost: tuple[Parcel, ...] = ()
    alone: bool = False
    window: int = 1
    told: bool = False
    waiting: tuple[bytes | Parcel, ...] = ()
    unsent: tuple[Unsent, ...] = ()
    broken: str = ""

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        parcels = [*self.flying, *self.lost, *(item for item in self.waiting if isinstance(item, Parcel))]
        found = {parcel.fd for parcel in parcels} | {fd for one in self.unsent for fd in one.fds}
        return (found | {*self.unpaired}) - {-1}


def suspend(talk: Conversation, unsent: Sequence[tuple[bytes, tuple[int, ...]]]) -> Suspended:
    """Set it down; it is not to go on here.

    Args:
        unsent: what its stream holds, and the descriptors of each piece.
    """
    channel = talk.channel
    assert channel._text, "of values that are no JSON only the bytes would be known"
    assert not channel._ready, "what is ready is written at once"
    flights, arrivals = channel._flights, channel._arrivals
    return Suspended(
        unread=channel.unread,
        unpaired=tuple(arrivals._fds),
        missed=arrivals._missed,
        asked=tuple(channel._asked),
        ahead=tuple(channel._ahead.flying),
        flying=tuple(map(_parcel, flights.flying)),
        lost=tuple(map(_parcel, flights._lost)),
        alone=flights._alone,
        window=flights.window,
        told=channel._told,
        waiting=tuple(item if isinstance(item, bytes) else _parcel(item) for item in channel._waiting),
        unsent=tuple(Unsent(data, fds) for data, fds in unsent),
        broken=str(channel.broken or ""),
    )


def take_up(talk: Conversation, left: Suspended) -> None:
    """Go on with it: a new conversation, whose stream has nothing to send but what was unsent."""
    channel = talk.channel
    if left.broken:
        channel._end(PeerError(left.broken))
        talk._told = True
        return
    channel._arrivals.come(left.unpaired)
    channel._arrivals._missed = left.missed
    channel._told = left.told
    channel._asked.update(left.asked)
    for seq in left.ahead:
        channel._ahead.add(seq, asked=seq in left.asked)
    flights = channel._flights
    flights.window, flights._alone = left.window, left.alone
    flights.flying.extend(map(_handle, left.flying))
    flights._lost.extend(map(_handle, left.lost))
    flights._bytes = sum(len(parcel.data) for parcel in left.flying)
    for item in left.waiting:
        channel._waiting.append(item if isinstance(item, bytes) else _handle(item))
        channel._queued += len(item if isinstance(item, bytes) else item.data) + OVERHEAD
    if left.unread:
        _feed(channel, left.unread)


def _feed(channel: Channel, unread: bytes) -> None:
    """It is the beginning of a message, and completes none."""
    received = channel.feed(unread)
    assert not received


def _parcel(handle: Handle) -> Parcel:
    return Parcel(handle.data, handle.fd, handle.attempts, handle.behind, handle.handed_out)


def _handle(parcel: Parcel) -> Handle:
    envelope = JSON.decode(parcel.data.rstrip())
    handle = Handle(parcel.data, parcel.fd, envelope["msg"], envelope["type"])
    handle.attempts, handle.behind, handle.handed_out = parcel.attempts, parcel.behind, parcel.sent
    return handle
