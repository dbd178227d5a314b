"""The ways by which connections of a grant come in: by mailbox, by channel, or accepted by this worker itself."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from ..unix import sockets
from ..unix.mail import Inbox, drain
from ..wire import messages
from ..wire.mail import Letter
from ..wire.rows import WORDS
from .link import Link
from .mailbox import Intake, Token
from .options import Inboxed
from .sharing import Grant

A_TURN = 16
"""Connections that are accepted in one turn of the loop, at most."""

TURNS = 4
"""Turns of the loop within which a connection's transport has read what had come when it was taken."""

SHORT = 0.1
"""Seconds without accepting after this process or the kernel was short of something."""

Take = Callable[[socket.socket], None]
"""Called with each connection, which is the callee's."""


class Connection(socket.socket):
    """A connection that says when it is closed, whoever closes it: asyncio's transports, uvloop's, the app."""

    __slots__ = ("_on_close", "transport")

    family = socket.SocketType.family  # type: ignore[assignment]  # plain numbers, asked for by every transport
    type = socket.SocketType.type  # type: ignore[assignment]

    def __init__(self, family: int, kind: int, proto: int, fd: int, on_close: "Callable[[Connection], None]") -> None:
        self._on_close: Callable[[Connection], None] | None = on_close
        self.transport: asyncio.BaseTransport | None = None
        super().__init__(family, kind, proto, fileno=fd)

    def _real_close(self, *arguments: Any) -> None:
        super()._real_close(*arguments)  # type: ignore[misc]
        self._closed_now()

    def detach(self) -> int:
        """As ``socket.detach``."""
        fd = super().detach()
        self._closed_now()
        return fd

    def _closed_now(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close(self)


class Door(Protocol):
    """One way in. It is shut at first."""

    def open(self) -> None: ...
    def shut(self) -> None: ...
    def close(self, take_rest: bool = False) -> None: ...


class MailDoor:
    """Connections come by mailbox; by channel those that are meant for this worker alone, such as health checks.

    While it is shut nothing is taken, and the primary gives what lies in the box to others.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, link: Link, grant: Grant, take: Take, words: memoryview | None
    ) -> None:
        assert grant.fd is not None
        self._loop = loop
        self._link = link
        self._grant = grant
        self._take = take
        self._words = words if words is not None else memoryview(bytearray(8 * WORDS)).cast("Q")
        self._intake: Intake | None = None
        self._ever_shut = False

    def open(self) -> None:
        """Take connections."""
        if self._intake is None:
            assert self._grant.fd is not None
            box = Inboxed(self._grant.key, os.dup(self._grant.fd), self._grant.sockname or ("", -1))
            self._intake = Intake(self._loop, [box], self._taken, lambda: None, self._words)
            self._intake.start()
            self._link.serve(self._grant.key, lambda fd: _taken(self._take, fd))
            if self._ever_shut:
                self._link.tell(messages.gate(self._grant.key, True))

    def shut(self) -> None:
        """Take none for now."""
        if self._intake is not None:
            self._intake.close()
            self._intake = None
            self._ever_shut = True
            self._link.serve(self._grant.key, None)
            self._link.tell(messages.gate(self._grant.key, False))

    def close(self, take_rest: bool = False) -> None:
        """Take none any more. What lies in the box is the primary's to read back; or with ``take_rest`` ours."""
        if self._intake is not None:
            self._intake.close()
            self._intake = None
        self._link.serve(self._grant.key, None)
        assert self._grant.fd is not None
        inbox = Inbox(self._grant.fd)
        for mail in drain(inbox) if take_rest else ():
            if mail.fd is not None:
                self._take(socket.socket(fileno=mail.fd))
        inbox.close()

    def _taken(self, sock: socket.socket, letter: Letter, token: Token, door: object) -> None:
        self._take(sock)
        self._watch(token, TURNS)

    def _watch(self, token: Token, turns: int) -> None:
        """It counts as read once its transport has had its turn; one that stays silent the intake lets go by itself."""
        try:
            waiting = sockets.unread(token.fd)
        except OSError:
            waiting = False
        if turns == 0 or (turns < TURNS and not waiting):
            token.read()
        else:
            self._loop.call_soon(self._watch, token, turns - 1)


class ChannelDoor:
    """Connections come by channel, as Node hands them over."""

    def __init__(self, link: Link, grant: Grant, take: Take) -> None:
        self._link = link
        self._grant = grant
        self._take = take

    def open(self) -> None:
        """Take connections."""
        self._link.serve(self._grant.key, lambda fd: _taken(self._take, fd))
        early, self._grant.early[:] = self._grant.early[:], []
        for fd in early:
            _taken(self._take, fd)

    def shut(self) -> None:
        """Refuse them: Node gives them to others."""
        self._link.serve(self._grant.key, lambda fd: False)

    def close(self, take_rest: bool = False) -> None:
        """Refuse them for good."""
        self._link.serve(self._grant.key, None)


def _taken(take: Take, fd: int) -> bool:
    """One that came by channel: whether it could be had."""
    try:
        take(socket.socket(fileno=fd))
    except OSError:
        return False
    return True


class SocketDoor:
    """This worker has the listening socket, as all others have; by channel come those that are meant for it alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: Link, grant: Grant, take: Take) -> None:
        assert grant.fd is not None
        self._loop = loop
        self._link = link
        self._key = grant.key
        self._take = take
        self._sock = socket.socket(fileno=grant.fd)
        self._sock.setblocking(False)
        self._sock.listen(grant.wanted.backlog or 511)
        self._open = False
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Take connections."""
        if not self._open and self._pause is None:
            self._open = True
            self._loop.add_reader(self._sock, self._readable)
            self._link.serve(self._key, lambda fd: _taken(self._take, fd))

    def shut(self) -> None:
        """Take none for now: others do, or the kernel's queue has them."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock)
            self._link.serve(self._key, None)

    def close(self, take_rest: bool = False) -> None:
        """Take none any more."""
        self.shut()
        if self._pause is not None:
            self._pause.cancel()
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(A_TURN):
            if not self._open:
                return
            try:
                accepted = sockets.accept(self._sock)
            except OSError:
                self.shut()
                self._pause = self._loop.call_later(SHORT, self._unpause)
                return
            if accepted is None:
                return
            self._take(socket.socket(self._sock.family, self._sock.type, self._sock.proto, fileno=accepted[0]))

    def _unpause(self) -> None:
        self._pause = None
        self.open()


def door_of(
    loop: asyncio.AbstractEventLoop, link: Link, grant: Grant, take: Take, words: memoryview | None = None
) -> Door:
    """The way in that the primary has granted.

    Args:
        words: the worker's row of the scoreboard, if it has one.
    """
    if grant.mailbox:
        return MailDoor(loop, link, grant, take, words)
    if grant.fd is not None:
        return SocketDoor(loop, link, grant, take)
    return ChannelDoor(link, grant, take)
