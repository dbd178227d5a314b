"""Node's IPC channel as a state machine: bytes and descriptors in, messages out, and back; no sockets.

Either end of the protocol of Node's ``child_process`` (framing, handles, acknowledgement) with the ``seq``/``ack`` of
its ``cluster``.
What Node does badly is done better where the wire allows it: a garbled line ends the channel, not the process; a handle
of any kind that did not arrive is sent again and comes back to its owner in the end; handles that were under way when
the peer died come back too.

How an owner drives it, on whatever loop it has::

    for received in channel.feed(data, fds):    # one recvmsg
        ...
    for piece in channel.outgoing(unsent):      # after every feed and every send: one sendmsg each
        ...

``feed`` and ``outgoing`` are the two places where PeerError comes out. Once it has, the channel is dead and stays so.

Whose is a descriptor? One that is *sent* is the channel's once ``send`` or ``ask`` has returned, and must stay open
until it is listed once by ``released`` (arrived: close it, or keep it) or by ``returned`` (did not); the pieces' writer
must not close it. One that is *received* is the owner's once it is in a ``Received``; what could not be matched to a
message is listed by ``stray`` and is to be closed. So after each feed, and after ``close``: close what ``stray`` and
``released`` list, and look at ``returned``. The channel itself never closes one.
"""

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, TypeAlias

from clusterd.errors import PeerError
from clusterd.wire.acts import Act
from clusterd.wire.ahead import Ahead, refusal
from clusterd.wire.arrivals import Arrivals
from clusterd.wire.codecs import JSON, Codec
from clusterd.wire.flights import ATTEMPTS, WINDOW, Flights, Handle, written
from clusterd.wire.lines import MAX_LINE
from clusterd.wire.parcels import DGRAM, DGRAM_NATIVE, NATIVE, SERVER, SOCKET, Outgoing, Received, Returned, is_internal

__all__ = [
    "ATTEMPTS",
    "DGRAM",
    "DGRAM_NATIVE",
    "NATIVE",
    "SERVER",
    "SOCKET",
    "Channel",
    "Outgoing",
    "Received",
    "Returned",
    "is_internal",
]

SLOW_DOWN: Final = 131072
"""Unsent bytes from which on ``send`` answers False."""

MAX_QUEUED: Final = MAX_LINE
"""Unsent bytes above which the peer counts as broken, unless the owner says otherwise. The stream underneath must queue
as many, or it loses what it was handed."""

MAX_UNPAIRED: Final = 4
"""Descriptors that may wait for their message. Node waits with one, and a peer that keeps the rules needs one."""

OVERHEAD: Final = 64  # what a queued message costs beside its bytes, so that a flood of tiny ones is bounded too
_ACK: Final = {"cmd": "NODE_HANDLE_ACK"}
_NACK: Final = {"cmd": "NODE_HANDLE_NACK"}

Members: TypeAlias = Mapping[str, object]


class Channel:
    """One end of a channel.

    Args:
        seq: where the numbers of outgoing cluster messages come from. Node counts per process, so a primary passes one
            ``itertools.count()`` to all its channels; default is a count of its own, from 0.
        max_line: longest line taken from the peer, in bytes.
        max_queued: most unsent bytes, a little for each message included. A peer that does not read, or never
            acknowledges a handle, is broken above it.
        max_unpaired: most descriptors that wait for their message; further ones are ``stray``.
        codec: how values are written; both ends must agree.
    """

    def __init__(
        self,
        *,
        seq: Iterator[int] | None = None,
        max_line: int = MAX_LINE,
        max_queued: int = MAX_QUEUED,
        max_unpaired: int = MAX_UNPAIRED,
        codec: Codec = JSON,
    ) -> None:
        self._encode, self._decode = codec.encode, codec.decode
        self._text = codec is JSON
        self._seq = seq if seq is not None else count()
        self._lines = codec.cutter(max_line)
        self._longest = min(max_line, max_queued - OVERHEAD)
        self._max_queued = max_queued
        self._ready: list[bytes | Handle] = []  # may be written now, in this order
        self._waiting: deque[bytes | Handle] = deque()  # behind the handles in flight
        self._flights = Flights(self._text)  # sent, or in _ready to be sent; their answers are awaited
        self._told = False  # the peer knows how many handles are taken here
        self._queued = 0  # what _ready and _waiting cost
        self._unsent = 0  # what the owner last said its stream holds
        self._asked: set[int] = set()
        self._ahead = Ahead(self._asked)  # what the owner has written himself
        self._arrivals = Arrivals(max_unpaired)
        self._released: list[int] = []
        self._returned: list[Returned] = []
        self._broken: PeerError | None = None
        self._closed = False

    @property
    def broken(self) -> PeerError | None:
        """Why the peer counts as broken, as soon as it does; ``None`` as long as it does not."""
        return self._broken

    @property
    def settled(self) -> bool:
        """Nothing waits here, to be written or to be acknowledged: the channel may close without loss."""
        return not (self._ready or self._waiting or self._flights or self._ahead)

    @property
    def unread(self) -> bytes:
        """The beginning of a message whose end has not come: what a channel that goes on in this one's place is fed."""
        return self._lines.rest()

    @property
    def quiet(self) -> bool:
        """Nothing is owed on either side: no message waits, no handle is on its way, no question is open."""
        return self.settled and not (self._asked or self._arrivals or self._broken or self._closed)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Received]:
        """Takes what one ``recvmsg`` brought and returns the messages it completed; acknowledgements may be owed now.

        Args:
            data: bytes, in any splitting.
            fds: descriptors that came with them, -1 for one that was lost. They go to the handle messages completed by
                this or a later call, in order.

        Raises:
            PeerError: the peer broke the rules (no JSON, a line too long, nesting too deep, too much owed to it). If
                messages came before the fault they are returned and the error is raised by the next call, and is
                ``broken`` at once: what a peer said before it broke counts, however its bytes were cut.
        """
        if self._broken or self._closed:
            self._arrivals.refuse(fds)
            if self._broken:
                raise self._broken
            return []
        self._arrivals.come(fds)
        received: list[Received] = []
        try:
            for line in self._lines.feed(data):
                self._take(self._decode(line), received)
        except PeerError as error:
            self._end(error)
            if not received:
                raise
        self._arrivals.trim()
        return received

    def send(self, message: Any, fd: int | None = None, kind: str = NATIVE, details: Members | None = None) -> bool:
        """Queues ``message``, after all that was queued before it.

        A message of the cluster (``cmd`` is ``NODE_CLUSTER``) gets the next ``seq`` if it has none.

        Args:
            message: what JSON can say.
            fd: a descriptor to go with it, the channel's from now on (see the module's text).
            kind: what the peer is to make of it, for the envelope.
            details: further members of the envelope: ``key`` for ``net.Socket``, ``dgramType`` for ``dgram.Socket``.

        Returns:
            False: slow down, more than ``SLOW_DOWN`` bytes are unsent; the message goes all the same. Also False on a
            channel that ended: then nothing goes, and ``fd`` is listed by ``returned``. The peer's faults do not raise.

        Raises:
            TypeError: ``message`` is nothing JSON can say. ``fd`` stays the caller's.
            ValueError: its line is longer than ``max_line``, or than ``max_queued`` has room for at all. ``fd`` stays
                the caller's.
        """
        if type(message) is dict and message.get("cmd") == "NODE_CLUSTER" and "seq" not in message:
            message = {**message, "seq": next(self._seq)}
        item: bytes | Handle
        if fd is None:
            data = item = self._encode(message)
        else:
            data = self._encode({"cmd": "NODE_HANDLE", "type": kind, "msg": message, **(details or {})})
            item = Handle(data, fd, message, kind)
        if len(data) > self._longest:
            raise ValueError(f"a message of {len(data)} bytes is longer than the {self._longest} that are allowed")
        if self._broken or self._closed:
            if isinstance(item, Handle):
                self._give_back(item)
            return False
        self._queued += len(data) + OVERHEAD
        if self._waiting or not self._may_go(item):
            self._waiting.append(item)
        else:
            self._release(item)
        if excess := self._excess():
            self._end(excess)
        return self._queued + self._unsent <= SLOW_DOWN and not self._broken

    def ask(self, message: Members, fd: int | None = None, kind: str = NATIVE, details: Members | None = None) -> int:
        """Sends a message of the cluster that is answered; arguments and errors as those of ``send``.

        Returns:
            Its ``seq``; the answer is the ``Received`` whose ``ack`` equals it. On a channel that ended there is none.
        """
        seq = next(self._seq)
        self.send({**message, "seq": seq}, fd, kind, details)
        if not (self._broken or self._closed):
            self._asked.add(seq)
        return seq

    def ahead(self) -> int | None:
        """A number for a question with a handle that the owner writes himself, at once and whole; ``None``: not now.
        The descriptor stays the owner's. If it does not arrive, the answer is a refusal; see also :meth:`stayed`."""
        if self._ready or self._waiting or self._flights.flying or self._broken or self._closed or not self._text:
            return None
        seq = next(self._seq)
        self._ahead.flying.append(seq)
        self._asked.add(seq)
        return seq

    def stayed(self) -> None:
        """The last that :meth:`ahead` gave a number could not be written."""
        self._asked.discard(self._ahead.flying.pop())

    def accepted(self, data: bytes, among: Container[int]) -> tuple[list[int], int]:
        """Takes the beginning of ``data``, one read without descriptors, if it says yes to what went ahead.

        Returns:
            The questions ``among`` these that are accepted, and how many bytes said so; ``feed`` gets the rest.
        """
        if self._waiting or self._broken or self._closed or self._lines.rest():
            return [], 0
        return self._ahead.accepted(data, among)

    def outgoing(self, unsent: int = 0) -> list[Outgoing]:
        """Hands out what is to be written now, one ``sendmsg`` each, in order. What is handed out is not kept here.

        Args:
            unsent: bytes of earlier pieces that the kernel has not taken yet; they count for the limits. Whoever always
                writes on at once and never says it has no bound.

        Raises:
            PeerError: the channel is dead.
        """
        self._unsent = unsent
        if not self._closed and (excess := self._excess()):
            self._end(excess)
        if self._broken:
            raise self._broken
        if not self._ready:
            return []
        pieces = written(self._ready, together=self._flights.window > 1)
        self._queued -= sum(len(i) if isinstance(i, bytes) else len(i.data) for i in self._ready)
        self._queued -= OVERHEAD * len(self._ready)
        self._ready = []
        return pieces

    @property
    def littered(self) -> bool:
        """Whether one of the three that follow has something to list."""
        return bool(self._released or self._returned or self._arrivals.strayed)

    def released(self) -> list[int]:
        """Lists, once, the descriptors that arrived: close them, or keep them where sender and receiver share."""
        released, self._released = self._released, []
        return released

    def returned(self) -> list[Returned]:
        """Lists, once, the handles that did not arrive: after ``ATTEMPTS``, or at the channel's end."""
        returned, self._returned = self._returned, []
        return returned

    def stray(self) -> list[int]:
        """Lists, once, descriptors received that belong to no message: close them."""
        return self._arrivals.stray()

    def close(self) -> None:
        """Ends the channel, at end of file or on purpose: ``returned`` and ``stray`` then list what was under way."""
        self._closed = True
        self._end(None)

    def _take(self, message: Any, received: list[Received]) -> None:
        if not is_internal(message):
            received.append(Received(message))
            return
        match message["cmd"]:
            case "NODE_HANDLE_ACK" | "NODE_HANDLE_NACK" as cmd if self._ahead:
                if refused := self._ahead.acknowledged(arrived=cmd == "NODE_HANDLE_ACK"):
                    received.append(Received(refused[1], None, True, None, refused[0]))
                self._go_on()
            case "NODE_HANDLE_ACK":
                self._acknowledged(received, arrived=True)
            case "NODE_HANDLE_NACK":
                self._acknowledged(received, arrived=False)
            case "NODE_HANDLE":
                fd = self._arrivals.take(behind=message.get("behind") is True)
                self._owe(_NACK if fd is None else _ACK)
                if fd is None:
                    return
                kind, inner = message.get("type"), message.get("msg")
                while is_internal(inner) and inner["cmd"] == "NODE_HANDLE":  # Node's second attempt: wrapped once more
                    inner = inner.get("msg")
                internal = is_internal(inner)
                ack = self._answered(inner) if internal else None
                kind = kind if isinstance(kind, str) else None
                received.append(Received(inner, fd, internal, kind, ack))
            case _:
                if "handles" in message:
                    self._opened(message)
                received.append(Received(message, None, True, None, self._answered(message)))

    def _opened(self, message: dict[str, Any]) -> None:
        """The peer is one of ours, and says how many handles it takes unacknowledged; so it is told, once."""
        if message.get("act") not in (Act.ONLINE, Act.HANDLES):
            return
        self._flights.open(message["handles"])
        if message["act"] == Act.ONLINE and not self._told:
            self._told = True
            self._owe({"cmd": "NODE_CLUSTER", "act": Act.HANDLES, "handles": WINDOW})

    def _answered(self, message: dict[str, Any]) -> int | None:
        """The question that ``message`` answers, which is thereby answered; a user may forge an ``ack``."""
        ack = message.get("ack")
        if type(ack) is not int or message["cmd"] != "NODE_CLUSTER" or ack not in self._asked:
            return None
        self._asked.discard(ack)
        return ack

    def _owe(self, answer: Members) -> None:
        """Queues an answer about a handle, which waits behind nothing."""
        data = self._encode(answer)
        self._ready.append(data)
        self._queued += len(data) + OVERHEAD
        if excess := self._excess():
            raise excess

    def _acknowledged(self, received: list[Received], *, arrived: bool) -> None:
        """Ends the flight of a handle, or sends it again. An answer to nothing is let pass: users can forge those.

        A question that came back is answered here, as one that went ahead is: nobody else will.
        """
        if handle := self._flights.answered(arrived=arrived):
            self._released.append(handle.fd)
        given_up, again = self._flights.again()
        if given_up is not None and (asked := self._give_back(given_up)) is not None:
            received.append(Received(refusal(asked), None, True, None, asked))
        self._queued += sum(len(handle.data) + OVERHEAD for handle in again)
        self._waiting.extendleft(reversed(again))
        self._go_on()

    def _may_go(self, item: bytes | Handle) -> bool:
        """Whether it may be written now: a message waits for all handles before it, a handle for room among them."""
        if isinstance(item, bytes):
            return not self._flights
        return not self._ahead and self._flights.room(len(item.data))

    def _go_on(self) -> None:
        while self._waiting and not self._ahead and self._may_go(self._waiting[0]):
            self._release(self._waiting.popleft())

    def _release(self, item: bytes | Handle) -> None:
        self._ready.append(item)
        if isinstance(item, Handle):
            self._flights.add(item)

    def _give_back(self, handle: Handle) -> int | None:
        """Lists a handle as ``returned``; the number of the question that it was, if it was one that is open."""
        self._returned.append(Returned(handle.message, handle.fd, handle.kind, handle.attempts))
        seq = handle.message.get("seq") if type(handle.message) is dict else None
        if type(seq) is not int or seq not in self._asked:
            return None
        self._asked.discard(seq)
        return seq

    def _excess(self) -> PeerError | None:
        if self._queued + self._unsent <= self._max_queued:
            return None
        return PeerError(f"the peer leaves more than {self._max_queued} bytes unread or unacknowledged")

    def _end(self, error: PeerError | None) -> None:
        """Gives up all that is under way; nothing goes in or out any more."""
        if self._broken is None:
            self._broken = error
        under_way = self._flights.end()
        under_way += [item for item in self._waiting if isinstance(item, Handle)]
        for handle in under_way:
            self._give_back(handle)
        self._ready = []
        self._waiting.clear()
        self._ahead.clear()
        self._queued = 0
        self._arrivals.end()
        self._asked.clear()
