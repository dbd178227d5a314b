"""The servers that workers share because they asked for the same address: Node's ``queryServer``, answered.

One object a key. A key is the address as it was asked for; of port 0 the worker's own count goes with it, so that the
k-th such server of every worker shares one port. A worker that asks twice for one fixed address is refused
(``EADDRINUSE``), where Node before 24.12 would make a second socket, fail, and never try again.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..unix import mail
from ..wire import lines, messages
from ..wire.acts import QueryServer
from ..wire.channel import DGRAM_NATIVE, NATIVE
from ..wire.conversation import Conversation
from . import resuming
from .binding import REUSE_ADDRESS, bind
from .dispatch import Box, Dispatch
from .handed import SeatState, ServerState
from .listeners import Opened
from .newconn import Newconn


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that asks.

    Attributes:
        id: its number.
        talk: its channel.
        in_turn: the primary accepts and hands over; false shares the socket itself (Node's ``SCHED_NONE``).
        steal_after: seconds after which mail that it has not taken may go to others; 0 is never.
    """

    id: int
    talk: Conversation
    in_turn: bool = True
    steal_after: float = 0.0


@dataclass(slots=True)
class _Seat:
    """A worker's place at one server: how it is handed connections; nothing where it has the socket itself."""

    box: Box | None = None
    inbox: mail.Inbox | None = None
    newconn: Newconn | None = None


@dataclass(slots=True)
class Shared:
    """One server.

    Attributes:
        key: its name on the wire.
        opened: its socket.
        dispatch: who hands its connections over; ``None`` where workers accept for themselves.
        data: what its first worker gave for all (TLS ticket keys).
        seats: the workers that serve it.
    """

    key: str
    opened: Opened
    dispatch: Dispatch | None
    data: Mapping[str, Any] | None
    seats: dict[int, _Seat] = field(default_factory=dict)


class Sharing:
    """Answers ``queryServer`` and what follows from it.

    Args:
        loop: the primary's.
        on_short: called with a sentence when the kernel is short of something.
        on_broken: called with the id of a worker that takes no mail any more.
        keep: a server outlives its last worker, which may be on its way to be replaced; only the worker's own
            ``close``, or ``close_all``, ends it. Node's does not.
        may_share: whether the primary's own descriptor of that number may be listened on.
        on_steal: called with the id of a worker whose late mail was given to another.
        on_reclaimed: called with the id of a worker that left, and how many connections it had not taken.

    Attributes:
        servers: the servers by key.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_short: Callable[[str], None],
        on_broken: Callable[[int], None],
        *,
        keep: bool = False,
        may_share: Callable[[int], bool] = lambda fd: True,
        on_steal: Callable[[int], None] = lambda worker: None,
        on_reclaimed: Callable[[int, int], None] = lambda worker, count: None,
    ) -> None:
        self.servers: dict[str, Shared] = {}
        self._on_steal = on_steal
        self._on_reclaimed = on_reclaimed
        self._loop = loop
        self._on_short = on_short
        self._on_broken = on_broken
        self._keep = keep
        self._may_share = may_share
        self._closing = False
        self._leaving: dict[int, list[tuple[Shared, Newconn]]] = {}

    # -- what workers say ----------------------------------------------------------------------------------------

    def query(self, member: Member, query: QueryServer) -> tuple[str, Box] | None:
        """A worker asks for a server; it gets its one answer.

        Returns:
            The server's name for people, and how the worker is handed its connections; ``None`` if it is not.
        """
        key = _key(query)
        try:
            server = self._join(member, query, key)
        except OSError as error:
            reply = messages.query_reply(query.seq, key, errno=-(error.errno or errno.EINVAL), data=query.data)
            member.talk.send(reply)
            return None
        try:
            self._seat(member, query, server)
        except OSError as error:  # no descriptor is left for its mailbox
            reply = messages.query_reply(query.seq, key, errno=-(error.errno or errno.EMFILE), data=server.data)
            member.talk.send(reply)
            self._forget_if_empty(server)
            return None
        box = server.seats[member.id].box
        return None if box is None or server.dispatch is None else (server.dispatch.name, box)

    def _join(self, member: Member, query: QueryServer, key: str) -> Shared:
        if self._closing:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        known = self.servers.get(key)
        if known is not None and member.id not in known.seats:
            return known
        udp = query.address_type in ("udp4", "udp6")
        if known is not None:
            if not (udp and (query.flags or 0) & REUSE_ADDRESS):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            key = f"{key}:{query.seq}"  # UDP sockets may share a port if they say so: a second one, of its own
        if query.fd is not None and query.fd >= 0 and not self._may_share(query.fd):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        opened = bind(query)
        in_turn = member.in_turn and not udp and not query.shared
        dispatch = self._dispatch(_shown(query), opened) if in_turn else None
        server = self.servers[key] = Shared(key, opened, dispatch, query.data)
        return server

    def _dispatch(self, name: str, opened: Opened) -> Dispatch:
        found = Dispatch(self._loop, name, opened.sock, self._on_short, self._on_broken, inherited=opened.inherited)
        found.thief.on_steal = self._on_steal
        return found

    def _newconn(self, server: Shared, dispatch: Dispatch, talk: Conversation) -> Newconn:
        return Newconn(self._loop, talk, server.key, dispatch.wake, lambda refused: self._refused(server, refused))

    def _seat(self, member: Member, query: QueryServer, server: Shared) -> None:
        talk, dispatch, sock = member.talk, server.dispatch, server.opened.sock
        if dispatch is None:
            fd = os.dup(sock.fileno())
            server.seats[member.id] = _Seat()
            kind = DGRAM_NATIVE if query.address_type in ("udp4", "udp6") else NATIVE
            talk.send(messages.query_reply(query.seq, server.key, errno=0, data=server.data), fd, kind)
            return
        name = sock.getsockname()
        sockname = (name[0], name[1]) if isinstance(name, tuple) else None
        reply = messages.query_reply(query.seq, server.key, data=server.data, sockname=sockname, mailbox=query.mailbox)
        if query.mailbox:
            writing, reading = mail.pair()
            outbox, inbox = mail.Outbox(writing), mail.Inbox(reading)
            try:
                theirs = os.dup(reading)
            except OSError:
                outbox.close()
                inbox.close()
                raise
            box = Box(member.id, outbox, inbox, member.steal_after)
            server.seats[member.id] = _Seat(box, inbox)
            talk.send(reply, theirs)
        else:
            newconn = self._newconn(server, dispatch, talk)
            box = Box(member.id, newconn)
            server.seats[member.id] = _Seat(box, newconn=newconn)
            talk.send(reply)
        dispatch.add(box)

    def close(self, worker: int, key: str) -> None:
        """A worker has closed its server."""
        server = self.servers.get(key)
        if server is not None and worker in server.seats:
            self._unseat(server, worker, gone=False)
            self._forget_if_empty(server)

    def gate(self, worker: int, key: str, is_open: bool) -> None:
        """A worker takes no more of a server's connections for now, or takes them again."""
        server = self.servers.get(key)
        seat = server.seats.get(worker) if server is not None else None
        if server is None or seat is None or seat.box is None or seat.inbox is None or server.dispatch is None:
            return
        seated = any(box is seat.box for box in server.dispatch.boxes)
        if is_open and not seated:
            server.dispatch.add(seat.box)
        elif not is_open and seated:
            server.dispatch.remove(worker)
            self._take_back(seat.inbox, server.dispatch, worker)
            seat.box.posted.clear()

    def leave(self, worker: int, *, gone: bool) -> None:
        """A worker is gone, or has been asked to go: it is handed nothing more, what it has not taken goes to others.

        Of one that is asked to go and is the last, it stays where it is: that worker may still take it. Harmless when
        repeated.
        """
        for server in list(self.servers.values()):
            if worker in server.seats:
                self._unseat(server, worker, gone=gone)
                if not self._keep:
                    self._forget_if_empty(server)
        if gone:
            for server, newconn in self._leaving.pop(worker, ()):
                for lost in newconn.take_back():
                    self._refused(server, lost)

    def stop(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Take no new connections; ``done`` is called when what waits has been handed on, or at once.

        Workers keep their places: they are asked to end one by one.
        """
        self._closing = True
        waiting = 1

        def closed() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()

        for server in self.servers.values():
            server.opened.remove()
            if server.dispatch is not None:
                waiting += 1
                server.dispatch.close(hand_on, closed)
        closed()

    def close_all(self) -> None:
        """Close every server, and refuse what is asked from now on."""
        self._closing = True
        for server in list(self.servers.values()):
            for worker in list(server.seats):
                self._unseat(server, worker, gone=False)
            self._forget_if_empty(server)

    # -- a successor of this process -----------------------------------------------------------------------------

    def describe(self) -> tuple[ServerState, ...]:
        """All servers, for it."""
        return tuple(self._described(server) for server in self.servers.values())

    def _described(self, server: Shared) -> ServerState:
        dispatch = server.dispatch
        turns = {} if dispatch is None else resuming.turns(dispatch)
        seats = [
            SeatState(
                worker,
                None if seat.box is None else seat.box.describe(turns.get(worker, -1)),
                None if seat.newconn is None else seat.newconn.describe(),
            )
            for worker, seat in server.seats.items()
        ]
        for worker, going in self._leaving.items():
            seats += [SeatState(worker, None, one.describe(), left=True) for of, one in going if of is server]
        sock = resuming.describe(server.opened, dispatch)
        name = server.key if dispatch is None else dispatch.name
        return ServerState(server.key, name, sock, dispatch is not None, lines.encode(server.data), tuple(seats))

    def take_up(self, left: Iterable[ServerState], talks: Mapping[int, Conversation]) -> dict[int, dict[str, Box]]:
        """Serve what a predecessor of this process has served.

        Args:
            left: its servers.
            talks: the channels of all workers.

        Returns:
            How each worker is handed its connections, by the server's name for people.
        """
        boxes: dict[int, dict[str, Box]] = {}
        for one in left:
            opened = resuming.opened(one.sock)
            dispatch = self._dispatch(one.name, opened) if one.in_turn else None
            server = self.servers[one.key] = Shared(one.key, opened, dispatch, lines.decode(one.data.rstrip()))
            rotation: list[tuple[int, Box]] = []
            for seat in one.seats:
                box = self._take_seat(server, seat, talks[seat.worker])
                if box is not None and seat.box is not None:
                    rotation.append((seat.box.turn, box))
                    boxes.setdefault(seat.worker, {})[one.name] = box
            if dispatch is not None:
                resuming.rejoin(dispatch, rotation)
        return boxes

    def _take_seat(self, server: Shared, left: SeatState, talk: Conversation) -> Box | None:
        newconn = None
        if left.newconn is not None and server.dispatch is not None:
            newconn = self._newconn(server, server.dispatch, talk)
            newconn.take_up(left.newconn)
            if left.left:
                newconn.close()
                self._leaving.setdefault(left.worker, []).append((server, newconn))
                return None
        if left.box is None:
            server.seats[left.worker] = _Seat()
            return None
        inbox = mail.Inbox(left.box.reading) if newconn is None else None
        box = Box(left.worker, newconn or mail.Outbox(left.box.writing), inbox, left.box.steal_after)
        box.take_up(left.box)
        server.seats[left.worker] = _Seat(box, inbox, newconn)
        return box

    # -- what follows --------------------------------------------------------------------------------------------

    def _unseat(self, server: Shared, worker: int, *, gone: bool) -> None:
        seat = server.seats.pop(worker)
        dispatch = server.dispatch
        if dispatch is None or seat.box is None:
            return
        dispatch.remove(worker)
        seat.box.outbox.close()
        if seat.inbox is not None:
            if gone or dispatch.boxes:
                self._take_back(seat.inbox, dispatch, worker)
            seat.inbox.close()
        if seat.newconn is not None and gone:
            self._reclaim(dispatch, worker, seat.newconn.take_back())
        elif seat.newconn is not None:  # what is on its way is accepted or comes back, unless it dies before
            self._leaving.setdefault(worker, []).append((server, seat.newconn))

    def _take_back(self, inbox: mail.Inbox, dispatch: Dispatch, worker: int) -> None:
        """One at a time, each handed on before the next is taken: with no descriptor free, what is taken is lost."""
        with suppress(EOFError, OSError):
            while (got := inbox.take()) is not None:
                self._reclaim(dispatch, worker, [got])

    def _reclaim(self, dispatch: Dispatch, worker: int, mails: list[mail.Mail]) -> None:
        if count := dispatch.reclaim(mails):
            self._on_reclaimed(worker, count)

    def _refused(self, server: Shared, refused: mail.Mail) -> None:
        if self.servers.get(server.key) is server and server.dispatch is not None:
            server.dispatch.reclaim([refused])
        elif refused.fd is not None:
            os.close(refused.fd)  # nobody is left to have it; Node leaves its client hanging

    def _forget_if_empty(self, server: Shared) -> None:
        if server.seats or self.servers.get(server.key) is not server:
            return
        del self.servers[server.key]
        server.opened.remove()
        if server.dispatch is not None:
            server.dispatch.close(False, lambda: None)
            server.dispatch.discard()
        server.opened.sock.close()


def _key(query: QueryServer) -> str:
    """The text is ours to choose, workers only compare it; this is Node's, by JavaScript's idea of text."""
    parts = [_js(query.address), _js(query.port), _js(query.address_type), _js(query.fd, "undefined")]
    if query.port == 0:
        parts.append(str(query.index))
    return ":".join([*parts, "shared"] if query.shared else parts)


def _js(value: object, nothing: str = "null") -> str:
    return nothing if value is None else str(value)


def _shown(query: QueryServer) -> str:
    if query.address_type == -1:
        return f"unix:{query.address}"
    if query.fd is not None:
        return f"fd:{query.fd}"
    host = query.address or "*"
    return f"[{host}]:{query.port}" if ":" in host else f"{host}:{query.port}"
