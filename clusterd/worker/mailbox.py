"""Taking connections out of the worker's mailboxes, at most two ahead of what has been read.

That bound is what a SIGKILL of this worker can cost: mail that was not taken is read back by the primary, a connection
that was taken and not read is lost.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final, Protocol

from ..errors import PeerError
from ..unix.mail import Inbox, Mail, silence
from ..unix.sockets import unread
from ..wire.mail import Letter, unpack
from ..wire.rows import HANDOVER, TAKEN_MAILBOXES, TAKEN_NS, Row
from .options import Door, Inboxed
from .sockets import handed

MAX_UNREAD: Final = 2
"""Connections taken and not yet read, over all mailboxes of the worker."""

SILENT_AFTER: Final = 0.05
"""Seconds after which a connection whose client says nothing counts no more."""

A_TURN: Final = 4
"""Connections taken in one turn of the loop, at most, if each is read as it is taken. They are answered in the next
turn; a worker that is killed between the two loses them, so they are few. Taken one by one each costs a third more."""

PROMPT_NS: Final = 2_000_000
"""Nanoseconds that mail has lain at most for more than one to be taken in a turn. Where it lies longer turns are long:
to take several then would keep them from workers that are free sooner (measured: a third of all was stolen back)."""

RETRY_AFTER: Final = 0.1
"""Seconds without taking while this process is short of descriptors or the kernel of memory."""

TELL_AFTER: Final = 60.0
"""Seconds without a shortage after which the next one is news."""

_IDLE_EVENTS: Final = 4
"""Wake-ups for mail that may not be taken before the loop stops watching for it. Not at the first: under load the gate
opens within a turn or two, and taking a reader out and in again costs asyncio 10 us, an idle wake-up one."""

_TAKEN: Final = int(Row.CONNECTIONS_TAKEN)
_UNREAD: Final = int(Row.CONNECTIONS_UNREAD)

logger = logging.getLogger("clusterd")


class Taken(Protocol):
    """What whoever serves a connection owes to whoever took it.

    Attributes:
        bounded: how many may be taken and not read is limited, and this is one of them until ``read`` is called.
    """

    bounded: bool

    def read(self) -> None:
        """The first byte is read, or the connection is closed: to be called before its descriptor is. Idempotent."""


class Token:
    """A connection's place among those not yet read. Whoever serves the connection calls ``read``."""

    __slots__ = ("_intake", "fd", "taken_ns")
    bounded = True

    def __init__(self, intake: "Intake", fd: int, taken_ns: int) -> None:
        self._intake = intake
        self.fd = fd
        self.taken_ns = taken_ns

    def read(self) -> None:
        """The first byte is read, or the connection is closed: to be called before its descriptor is. Idempotent."""
        self._intake._leave(self)


class _Box:
    """One mailbox. ``family``, ``kind``, ``proto``: what its connections were found to be, -1 before the first;
    ``word``: where it is told which mail was taken out of it last."""

    __slots__ = ("door", "ended", "family", "inbox", "kind", "name", "proto", "word")

    def __init__(self, box: Inboxed, number: int) -> None:
        self.word = TAKEN_NS + min(number, TAKEN_MAILBOXES)
        self.name = box.name
        self.door = box.door
        self.inbox = Inbox(box.fd)
        self.family = self.kind = self.proto = -1
        self.ended = False


class Intake:
    """Reads the mailboxes of a worker on its event loop.

    Args:
        loop: the worker's.
        boxes: the mailboxes; their descriptors are closed by ``close``.
        on_connection: called with each connection, its papers, its token and its door. The socket is blocking: making
            it non-blocking is the callee's, before anything waits for it. What it raises closes that connection and is
            logged.
        on_end: called once, when no box can bring mail any more.
        words: the worker's row of the scoreboard.

    Attributes:
        ended: no more connections will come.
        garbage: messages so far that were neither letter nor probe.
        lost: connections so far that the kernel dropped because this process had no descriptor free (``MSG_CTRUNC``).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        boxes: Sequence[Inboxed],
        on_connection: Callable[[socket.socket, Letter, Token, Door], None],
        on_end: Callable[[], None],
        words: memoryview,
    ) -> None:
        self.ended = False
        self.garbage = 0
        self.lost = 0
        self._loop = loop
        self._boxes = [_Box(box, number) for number, box in enumerate(boxes)]
        self._on_connection = on_connection
        self._on_end = on_end
        self._words = words
        self._observe = HANDOVER.observer(words)
        self._unread: dict[Token, None] = {}  # oldest first
        self._promising: dict[_Box, None] = {}  # may hold mail though the loop need not say so; in turn
        self._watching = False
        self._idle_events = 0
        self._silence_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._short_ns = 0  # when it was last
        self._waited_ns = 0  # between accept and take, of the last connection
        # The reserve: a descriptor that is closed for each recvmsg and opened again after it, so that while it is open
        # there is room for one. No cheaper sign says that: the number of the last descriptor received does not (the
        # kernel gives the lowest free one, whatever is taken above it), nor does a count (the app opens its own, any
        # number between two messages). As dup of what is open already the pair costs 0.4 us, /dev/null again 1.2 us.
        # What remains is a thread of the app that opens a file between our close and recvmsg, at the limit's last
        # descriptor: counted in ``lost`` and logged.
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._reserve = -1

    def start(self) -> None:
        """Begin to take mail."""
        if not self._boxes:
            self._finish()
        elif self._reopen():
            self._watch()

    def close(self) -> None:
        """Take nothing more and close the mailboxes; what lies in them stays the primary's to read back. Idempotent."""
        self._unwatch()
        for timer in (self._silence_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        self._silence_timer = self._retry_timer = None
        self._boxes_close()
        for fd in (self._reserve, self._spare):
            if fd >= 0:
                os.close(fd)
        self._reserve = self._spare = -1

    def _boxes_close(self) -> None:
        self._promising.clear()
        for box in self._boxes:
            box.inbox.close()
        self._boxes = []

    # -- when to take --------------------------------------------------------------------------------------------

    def _readable(self, box: _Box) -> None:
        if len(self._unread) < MAX_UNREAD:
            silent = len(self._unread)
            for _ in range(A_TURN):
                # Whose request had come is read already: the next may be taken in the same turn.
                if (
                    self._reserve < 0
                    or not self._take(box)
                    or len(self._unread) > silent
                    or self._waited_ns > PROMPT_NS
                ):
                    break
            return
        self._promising[box] = None
        self._idle_events += 1
        if self._idle_events >= _IDLE_EVENTS:
            self._unwatch()

    def _leave(self, token: Token) -> None:
        """A connection counts no more: it was read, closed, or found to be silent."""
        if token not in self._unread:
            return
        was_shut = len(self._unread) >= MAX_UNREAD
        del self._unread[token]
        self._words[_UNREAD] = len(self._unread)
        if was_shut and self._reserve >= 0:
            self._opened()

    def _opened(self) -> None:
        """The gate has opened: take at once. Waiting for the loop to say "readable" would cost a turn of it."""
        self._idle_events = 0
        for _ in range(A_TURN):
            if not self._promising or len(self._unread) >= MAX_UNREAD or self._reserve < 0:
                break
            self._take(next(iter(self._promising)))
            if self._waited_ns > PROMPT_NS:
                break
        if not self._watching and self._reserve >= 0 and len(self._unread) < MAX_UNREAD:
            self._watch()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._idle_events = 0
            for box in self._boxes:
                if not box.ended:
                    self._loop.add_reader(box.inbox.fileno(), self._readable, box)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            for box in self._boxes:
                if not box.ended:
                    self._loop.remove_reader(box.inbox.fileno())

    def _hush(self) -> None:
        """The gate was shut a while ago: those that have said nothing since hold it no longer.

        One timer for all, and none while the gate is open. It asks the kernel, not the clock alone: after a turn that
        took long a client has spoken that nobody could listen to, and uvloop runs timers before it reads.
        """
        self._silence_timer = None
        now = monotonic_ns()
        for token in list(self._unread):
            if now - token.taken_ns >= SILENT_AFTER * 1e9 and not unread(token.fd):
                self._leave(token)
        self._arm()

    def _arm(self) -> None:
        if self._silence_timer is None and len(self._unread) >= MAX_UNREAD:
            age = (monotonic_ns() - next(iter(self._unread)).taken_ns) / 1e9
            # A connection that spoke and is not read yet is older than that: its turn comes, look again in a while.
            delay = SILENT_AFTER - age if age < SILENT_AFTER else SILENT_AFTER / 10
            self._silence_timer = self._loop.call_later(delay, self._hush)

    # -- taking --------------------------------------------------------------------------------------------------

    def _take(self, box: _Box) -> bool:
        """Take one message; whether there was one."""
        self._promising.pop(box, None)
        os.close(self._reserve)
        self._reserve = -1
        mail = None
        try:
            mail = box.inbox.take()
        except EOFError:
            self._end(box)
        except OSError as error:
            self._promising[box] = None
            self._pause(error)
            return False
        if self._reopen() and mail is not None:
            self._promising[box] = None  # to the end of the row: boxes take turns
        if mail is not None:
            self._deliver(box, mail)
        return mail is not None

    def _deliver(self, box: _Box, mail: Mail) -> None:
        fd = mail.fd
        if fd is None:
            if mail.truncated:
                self.lost += 1
                logger.error("a connection of %s was lost: no descriptor was free to receive it", box.name)
            return  # a probe: that it was taken is all it wants
        try:
            letter = unpack(mail.payload)
            sock = handed(box.family, box.kind, box.proto, fd)
        except (PeerError, OSError) as error:
            os.close(fd)
            self._refuse(box, error)
            return
        if box.family < 0:  # found by two calls for the first connection, known for all others
            box.family, box.kind, box.proto = sock.family, sock.type, sock.proto
        now = monotonic_ns()
        token = Token(self, fd, now)
        self._unread[token] = None
        words = self._words
        words[_UNREAD] = len(self._unread)
        words[_TAKEN] += 1
        words[box.word] = letter.accepted_ns  # before anything is done with it: its place in the box is free
        self._waited_ns = waited = now - letter.accepted_ns
        self._observe(waited)
        if self._silence_timer is None and len(self._unread) >= MAX_UNREAD:
            self._arm()
        try:
            self._on_connection(sock, letter, token, box.door)
        except Exception:
            logger.exception("a connection of %s could not be served", box.name)
            token.read()
            sock.close()

    def _refuse(self, box: _Box, error: Exception) -> None:
        self.garbage += 1
        if self.garbage == 1:
            logger.error("mail of %s is not what it should be, and is passed over: %s", box.name, error)

    # -- shortage and end ----------------------------------------------------------------------------------------

    def _reopen(self) -> bool:
        try:
            self._reserve = os.dup(self._spare)
        except OSError as error:
            self._pause(error)
            return False
        return True

    def _pause(self, error: OSError) -> None:
        """Take nothing for a while; the mail goes to others, or waits.

        At the limit each connection that ends lets one in and all is short again: that is told once, not each time.
        """
        self._unwatch()
        before, self._short_ns = self._short_ns, monotonic_ns()
        if not before or self._short_ns - before > TELL_AFTER * 1e9:
            why = os.strerror(error.errno or 0)
            if error.errno == errno.EMFILE:
                why += "; raise [pools.NAME.limits] nofile, or find out what leaks"
            logger.error("no connections are taken for now: %s", why)
        if self._retry_timer is None:
            self._retry_timer = self._loop.call_later(RETRY_AFTER, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        if self.ended:
            return
        if self._reserve >= 0 or self._reopen():
            self._opened()

    def _end(self, box: _Box) -> None:
        """No more mail will come through this box. Called while the reserve is closed: ``silence`` needs one."""
        if self._watching:
            self._loop.remove_reader(box.inbox.fileno())
        box.ended = True
        try:
            silence(box.inbox.fileno())
        except OSError as error:
            logger.warning("the ended mailbox of %s could not be silenced: %s", box.name, error)
        if all(other.ended for other in self._boxes):
            self._finish()

    def _finish(self) -> None:
        self.ended = True
        self._on_end()
