"""Mailboxes: ``AF_UNIX SOCK_SEQPACKET`` pairs that carry one small payload and at most one descriptor a message.

The bound and the wake-up are the kernel's (unix(7), ``unix_dgram_sendmsg``): a connected pair holds messages until
their charged size reaches the writer's ``SO_SNDBUF``. At its minimum, which ``pair`` sets, that is about six small
messages; ``SIOCOUTQ`` of the writing end is what is charged now, 0 is "all taken"; the writing end polls
writable again once at most a quarter is charged, which is one message or none.

The reading end is one *file description* that several processes may hold: its owner hands it out and keeps a copy to
take back what was never taken. Therefore nothing here relies on ``O_NONBLOCK``, which any holder can clear: every call
carries ``MSG_DONTWAIT``. ``socket.send_fds`` and ``recv_fds`` are not used because Python 3.11 drops their flags, and
``MSG_PEEK`` is not used because it installs descriptors a second time.
"""

import array
import errno
import fcntl
import os
import socket
import struct
import termios
from enum import Enum, auto
from typing import Final, NamedTuple

MAX_PAYLOAD: Final = 512
"""Bytes of payload that ``Inbox.take`` has room for; ``Outbox.post`` refuses more."""

# Plain integers: these are on the path of every connection, and one "&" of socket's IntFlags costs a microsecond.
SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_TAKE_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_LOST_SOMETHING: Final = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)
_SOCKET: Final = int(socket.SOL_SOCKET)
_PASSED: Final = int(socket.SCM_RIGHTS)
_FD: Final = struct.Struct("i")
# CMSG_LEN and not CMSG_SPACE: the padding of the latter has room for a second descriptor on 64-bit machines.
_ONE_FD: Final = socket.CMSG_LEN(_FD.size)
_SHORT: Final = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
_BROKEN: Final = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ECONNREFUSED, errno.EPERM, errno.EACCES}
)


class Posted(Enum):
    """What became of a message that was posted: only after ``SENT`` the kernel holds it, and its descriptor."""

    SENT = auto()
    FULL = auto()
    """The box has no room; it polls writable when it was emptied."""
    BROKEN = auto()
    """Nobody can take from this box any more: the reading end is closed or was shut down, or a security module forbids
    it."""
    SHORT = auto()
    """The kernel is short of something that is not the box's (ETOOMANYREFS: too many descriptors of this user in
    flight; ENOBUFS, ENOMEM). The box polls writable all the same: try again by timer, never by poll."""


class Mail(NamedTuple):
    """One message taken.

    Attributes:
        payload: what was posted with it, at most ``MAX_PAYLOAD`` bytes.
        fd: the descriptor that came with it, close-on-exec, now the taker's to close; ``None`` if there was none.
        truncated: a descriptor (or a part of an overlong payload) was lost on the way, most likely because this process
            was at its RLIMIT_NOFILE (``MSG_CTRUNC``). It cannot be had again.
    """

    payload: bytes
    fd: int | None
    truncated: bool


def pair() -> tuple[int, int]:
    """Make a mailbox.

    Returns:
        ``(writing, reading)``: two descriptors, close-on-exec, for ``Outbox`` and ``Inbox``. The pair is one-way:
        whoever holds the reading end cannot send through it (EPIPE), so nobody need ever drain the writing end.

    Raises:
        OSError: EMFILE, ENFILE, ENOBUFS or ENOMEM, as socketpair(2).
    """
    writing, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel raises it to its minimum
        writing.shutdown(socket.SHUT_RD)
    except OSError:
        writing.close()
        reading.close()
        raise
    return writing.detach(), reading.detach()


class Outbox:
    """The writing end of a mailbox. Closing it is the end of mail for the reader, after what is still queued.

    Attributes:
        limit: ``SO_SNDBUF`` in bytes; the box is full exactly when ``queued()`` has reached it.
        sendmsg, rights, passing: what ``post`` does, for a caller that cannot afford a call more: put the descriptor
            into ``passing[0]``, then ``sendmsg((payload,), rights, SEND_FLAGS)``. It raises what ``post`` would tell.
    """

    __slots__ = ("_count", "_fd", "_socket", "limit", "passing", "rights", "sendmsg")

    def __init__(self, fd: int) -> None:
        """Take over the writing descriptor of ``pair``; ``close`` closes it.

        Raises:
            OSError: it is no open socket (EBADF, ENOTSOCK).
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self.limit: int = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._fd = fd
        self.sendmsg = self._socket.sendmsg  # bound once: this is called for every connection
        self.passing = array.array("i", [-1])  # filled in place, as is _count: tuples made once are 0.3 us less
        self.rights = ((_SOCKET, _PASSED, self.passing),)
        self._count = array.array("i", [0])  # filled in place by every ioctl; a bytes argument costs 0.5 us more

    def fileno(self) -> int:
        """The descriptor, -1 after ``close``."""
        return self._socket.fileno()

    def post(self, payload: bytes, fd: int | None = None) -> Posted:
        """Put one message into the box, without ever blocking.

        The descriptor stays open here and is the caller's to close, whatever is returned.

        Args:
            payload: 1 to ``MAX_PAYLOAD`` bytes. An empty message cannot be told from the end of mail.
            fd: an open descriptor to go with it.

        Raises:
            ValueError: the payload is empty or too long.
            OSError: the caller's mistake, such as EBADF for a descriptor that is not open.
        """
        if not 0 < len(payload) <= MAX_PAYLOAD:
            raise ValueError(f"a mailbox takes payloads of 1 to {MAX_PAYLOAD} bytes, not {len(payload)}")
        try:
            if fd is None:
                self.sendmsg((payload,), (), SEND_FLAGS)
            else:
                self.passing[0] = fd
                self.sendmsg((payload,), self.rights, SEND_FLAGS)
        except BlockingIOError:
            return Posted.FULL
        except OSError as error:
            if error.errno in _BROKEN:
                return Posted.BROKEN
            if error.errno in _SHORT:
                return Posted.SHORT
            raise
        return Posted.SENT

    def queued(self) -> int:
        """Bytes charged to messages that nobody has taken yet (a small message counts 768); 0 is an empty box.

        Raises:
            ValueError: after ``close``.
        """
        fcntl.ioctl(self._fd, termios.TIOCOUTQ, self._count)  # SIOCOUTQ is the same number: sockios.h
        return self._count[0]

    @property
    def full(self) -> bool:
        """Whether the next ``post`` is certain to return ``FULL``: exact, the kernel compares the same two numbers."""
        return self.queued() >= self.limit

    def close(self) -> None:
        """Close the descriptor; harmless when repeated."""
        self._fd = -1
        self._socket.close()


class Inbox:
    """The reading end of a mailbox. Several processes may take from one box: each message goes to one of them."""

    __slots__ = ("_recvmsg", "_socket")

    def __init__(self, fd: int) -> None:
        """Take over the reading descriptor of ``pair``; ``close`` closes it.

        Raises:
            OSError: it is no open socket (EBADF, ENOTSOCK).
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
        self._recvmsg = self._socket.recvmsg

    def fileno(self) -> int:
        """The descriptor, -1 after ``close``."""
        return self._socket.fileno()

    def take(self) -> Mail | None:
        """Take the oldest message, without ever blocking; ``None`` when there is none now.

        Raises:
            EOFError: the last writing end is closed and all mail is taken, or a holder of the reading end shut it down.
            OSError: the kernel refused the call itself (ENOMEM, ENOBUFS); the message stays in the box.
        """
        try:
            payload, ancillary, flags, _ = self._recvmsg(MAX_PAYLOAD, _ONE_FD, _TAKE_FLAGS)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # Told once, before the mail that is still queued, if the writer went while something lay unread on its
            # side: never with ``pair``, whose reading end cannot send.
            return self.take()
        fd: int | None = None
        if ancillary:  # there is room for one
            level, kind, data = ancillary[0]
            if level == _SOCKET and kind == _PASSED and len(data) >= _FD.size:
                fd = _FD.unpack_from(data)[0]
        if not payload and fd is None:
            raise EOFError("no more mail will come: the mailbox has no writer any more")
        return Mail(payload, fd, flags & _LOST_SOMETHING != 0)

    def detach(self) -> int:
        """Give the descriptor back to the caller, who closes it; the object is of no use afterwards."""
        return self._socket.detach()

    def close(self) -> None:
        """Close the descriptor; harmless when repeated."""
        self._socket.close()


def drain(inbox: Inbox) -> list[Mail]:
    """Take all that is in the box now, for what the other holder of the reading end never took.

    Returns:
        The messages, oldest first; their descriptors are the caller's. The end of mail ends the list and is no error.
    """
    mails: list[Mail] = []
    try:
        while (mail := inbox.take()) is not None:
            mails.append(mail)
    except EOFError:
        pass
    return mails


def silence(fd: int) -> None:
    """Put a descriptor that never becomes readable in the place of ``fd``, a mailbox at its end.

    A server that takes its mailbox for a listening socket knows no end of one: it would be told "readable" for ever and
    spin.

    Raises:
        OSError: EBADF, EMFILE or ENFILE; ``fd`` is then unchanged.
    """
    # An eventfd at zero never polls readable and has no peer; a socketpair would need its other end kept open.
    quiet = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        os.dup2(quiet, fd, inheritable=False)
    finally:
        os.close(quiet)
