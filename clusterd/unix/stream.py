"""A ``AF_UNIX SOCK_STREAM`` connection with descriptors, driven by an asyncio loop: bounded reads, queued writes.

asyncio's own transports carry no ancillary data. Nothing here blocks, whatever the other holders of the socket do to
its
flags: every call carries ``MSG_DONTWAIT``.
"""

import array
import asyncio
import errno
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

READ_SIZE: Final = 64 * 1024
"""Bytes read in one turn of the event loop, at most."""
MAX_FDS: Final = 16
"""Descriptors received with one read, at most; what is beyond is lost, and reported."""
DEFAULT_LIMIT: Final = 16 * 1024 * 1024
"""Bytes queued for writing, at most."""
LOST: Final = -1
"""In the place of descriptors that were lost with a read, where the owner wants to know."""
RETRY_DELAY: Final = 0.05
"""Seconds until a write is tried again that the kernel was too short of memory or descriptors in flight for."""

_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_READ_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
_TRUNCATED: Final = int(socket.MSG_CTRUNC)  # a plain integer: one "&" of socket's own costs a microsecond
_SHORT: Final = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})


_passing: Final = array.array("i", [0])
_RIGHTS: Final = ((int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS), _passing),)


@runtime_checkable
class Hasty(Protocol):
    """A loop that calls a reader while it waits, without a turn of its own; the reader says whether it has to turn."""

    def hasten(self, fd: int, callback: Callable[[], bool]) -> None: ...


class _Chunk:
    __slots__ = ("data", "fds")

    def __init__(self, data: memoryview, fds: list[int]) -> None:
        self.data = data
        self.fds = fds  # copies of our own; closed once their byte is sent


class FdStream:
    """One end of a stream socket.

    ``on_eof`` is called exactly once, from the loop, when the peer is gone or the connection is broken, after
    everything that had arrived was given to ``on_data``; never after ``close``. After it nothing is sent any more;
    ``close`` is still the owner's.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_data: Callable[[bytes, list[int]], object],
        on_eof: Callable[[], None],
        *,
        on_truncated: Callable[[], None] | None = None,
        limit: int = DEFAULT_LIMIT,
        read_size: int = READ_SIZE,
    ) -> None:
        """Start reading.

        Args:
            loop: any loop with ``add_reader`` and ``add_writer``.
            sock: a connected stream socket, owned from here on.
            on_data: gets what one turn brought: 1 to ``READ_SIZE`` bytes, and descriptors (close-on-exec, the callee's
                to close) that came with some of these bytes, in order; ``LOST`` in the place of what was lost. On a
                loop that is :class:`Hasty` it is called while that waits, which needs no turn if it returns ``False``.
            on_eof: see the class.
            on_truncated: called before the ``on_data`` of a read with which descriptors were lost (``MSG_CTRUNC``: this
                process is at its RLIMIT_NOFILE, or the peer sent more than ``MAX_FDS``). Without it such a loss ends
                the stream as if by EOF, and descriptors of one write only come with one ``on_data``.
            limit: bytes queued for writing, at most.
            read_size: bytes read in one turn, at most: what they mean is worked through in that turn too.
        """
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._on_data = on_data
        self._on_eof = on_eof
        self._on_truncated = on_truncated
        self._limit = limit
        self._read_size = read_size
        self._queue: deque[_Chunk] = deque()
        self._pending = 0
        self._writer_added = False
        self._retry: asyncio.TimerHandle | None = None
        self._send_failed = False
        self._ended = False
        self._watch()

    def fileno(self) -> int:
        """The descriptor, -1 after ``close``."""
        return self._socket.fileno()

    def pending(self) -> int:
        """Bytes queued that the kernel has not taken yet."""
        return self._pending

    @property
    def ended(self) -> bool:
        """Whether nothing can be sent any more: ``close`` was called, or the peer is gone."""
        return self._ended or self._send_failed

    def unsent(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """What the kernel has not taken yet, piece by piece, and the descriptors that go with each; they stay here."""
        return [(bytes(chunk.data), tuple(chunk.fds)) for chunk in self._queue]

    def take_up(self, data: bytes, fds: Sequence[int]) -> None:
        """Send what another process's end of this connection left unsent; the descriptors are ours from now on."""
        self._queue.append(_Chunk(memoryview(data), list(fds)))
        self._pending += len(data)
        self._wait_to_send()

    def write(self, data: bytes, fds: Sequence[int] = ()) -> bool:
        """Send, or queue what the kernel does not take now; order is kept.

        Args:
            data: the bytes. They are one sendmsg(2) if the kernel takes them whole.
            fds: descriptors that go with the first byte. They stay the caller's, who may close them when this returns:
                what has to wait is copied.

        Returns:
            False, and nothing of it will be sent: the stream has ended, or the queue would exceed ``limit`` (the peer
            does not read).

        Raises:
            ValueError: descriptors without a byte to go with.
            OSError: EBADF for one of ``fds``; EMFILE or ENFILE when they must be copied. Nothing of it will be sent.
        """
        if not data:
            if fds:
                raise ValueError("descriptors travel with a byte: data must not be empty")
            return not self.ended
        if self.ended or self._pending + len(data) > self._limit:
            return False
        view = memoryview(data)
        if not self._queue:
            sent = self._send(view, fds)
            if self._send_failed:
                return False
            if sent:
                view, fds = view[sent:], ()
        if view:
            self._queue.append(_Chunk(view, _copies(fds)))
            self._pending += len(view)
            self._wait_to_send()
        return True

    def write_now(self, data: bytes, fd: int) -> bool:
        """As ``write``, of one descriptor; false, and nothing is sent, if it would have to wait, or fails."""
        if self._queue or self._ended or self._send_failed:
            return False
        _passing[0] = fd
        try:
            sent = self._socket.sendmsg((data,), _RIGHTS, _FLAGS)
        except OSError:
            return False
        if sent < len(data):  # the descriptor went with the first byte
            self._queue.append(_Chunk(memoryview(data)[sent:], []))
            self._pending += len(data) - sent
            self._wait_to_send()
        return True

    def read_now(self) -> None:
        """Give ``on_data`` what has arrived already, without waiting for the loop; at most sixteen reads of it.

        For the owner who has learnt by another way that the peer has died, and wants its last words before it goes on.
        """
        for _ in range(16):
            if self._ended or not _readable(self._fd):
                return
            self._read()

    def move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be driven by ``loop`` from now on; to be called where the old one does not run, or in its thread."""
        if self._ended:
            self._loop = loop
            return
        self._loop.remove_reader(self._fd)
        if self._writer_added:
            self._loop.remove_writer(self._fd)
            self._writer_added = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._loop = loop
        if self._send_failed:
            loop.call_soon(self._read_rest)
        else:
            self._watch()
        self._wait_to_send()

    def close(self) -> None:
        """Give the kernel what it takes of the queue at once, drop the rest, close everything; no callback follows.

        Harmless when repeated.
        """
        if self._socket.fileno() < 0:
            return
        if not self.ended:
            self._send_queue()
        self._stop()
        self._socket.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._fd, self._read)
        if isinstance(self._loop, Hasty):
            self._loop.hasten(self._fd, self._read)

    def _read(self) -> bool:
        """Read once; false if nothing was asked of the loop."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(self._read_size, _ANCILLARY, _READ_FLAGS)
        except BlockingIOError:
            if self._send_failed:  # the peer takes nothing any more but has not closed: there is no more to wait for
                self._end()
            return True
        except OSError as error:
            if error.errno in _SHORT:
                return True  # still readable: the next turn tries again
            self._end()
            return True
        fds = self._descriptors(ancillary, flags) if ancillary or flags & _TRUNCATED else []
        if fds is None:
            return True
        if not data:
            _close_all(fds)
            self._end()
            return True
        if fds and self._on_truncated is not None and not self._send_failed:
            data = self._read_on(data, fds)
        if self._ended:  # closed by on_truncated
            _close_all(fds)
            return True
        if self._send_failed:
            self._loop.call_soon(self._read_rest)
            self._on_data(data, fds)
            return True
        return self._on_data(data, fds) is not False

    def _read_on(self, data: bytes, fds: list[int]) -> bytes:
        """A read ends with a descriptor's bytes, however much waits: read more of the kind in the same turn."""
        parts = [data]
        left = self._read_size - len(data)
        while left > 0 and len(fds) < MAX_FDS and not self._ended:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(left, _ANCILLARY, _READ_FLAGS)
            except OSError:
                break  # there is no more, or the next turn is told what is wrong
            if not data:
                break
            came = self._descriptors(ancillary, flags) or ()
            parts.append(data)
            fds += came
            left -= len(data)
            if not came:
                break
        return b"".join(parts)

    def _descriptors(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> list[int] | None:
        """What came with a read, ``LOST`` last if some did not; ``None``: that was the end."""
        if not ancillary and not flags & _TRUNCATED:
            return []
        fds = array.array("i")
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        if flags & _TRUNCATED:
            if self._on_truncated is None:
                _close_all(fds)
                self._end()
                return None
            self._on_truncated()
            fds.append(LOST)
        return fds.tolist()

    def _read_rest(self) -> None:
        if not self._ended:
            self._read()

    def _send(self, data: memoryview, fds: Sequence[int]) -> int:
        """One sendmsg; bytes taken, 0 when it must wait (a timer is then set if polling would not tell)."""
        try:
            if not fds:
                return self._socket.send(data, _FLAGS)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            return self._socket.sendmsg([data], ancillary, _FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _SHORT:
                self._retry = self._retry or self._loop.call_later(RETRY_DELAY, self._try_again)
                return 0
            if error.errno in (errno.EBADF, errno.EINVAL) and fds:
                raise  # the caller's descriptor; our own socket is open
            self._fail_sending()
            return 0

    def _send_queue(self) -> None:
        while self._queue and not self._send_failed:
            chunk = self._queue[0]
            sent = self._send(chunk.data, chunk.fds)
            if not sent:
                break
            self._pending -= sent
            _close_all(chunk.fds)
            chunk.fds = []
            chunk.data = chunk.data[sent:]
            if not chunk.data:
                self._queue.popleft()

    def _write_ready(self) -> None:
        self._send_queue()
        self._wait_to_send()

    def _try_again(self) -> None:
        self._retry = None
        self._write_ready()

    def _wait_to_send(self) -> None:
        """Have the loop call ``_write_ready`` if the queue waits for room; a running timer is waited for instead."""
        wanted = bool(self._queue) and self._retry is None
        if wanted and not self._writer_added:
            self._loop.add_writer(self._fd, self._write_ready)
        elif not wanted and self._writer_added:
            self._loop.remove_writer(self._fd)
        self._writer_added = wanted

    def _fail_sending(self) -> None:
        # EPIPE or ECONNRESET. What the peer sent before it went is still to be read, and on_eof is not called from
        # within the caller's write.
        self._send_failed = True
        # From here on the loop reads without being told, for a poll would not tell that there is nothing more.
        self._loop.remove_reader(self._fd)
        self._drop_queue()
        self._wait_to_send()
        self._loop.call_soon(self._read_rest)

    def _end(self) -> None:
        self._stop()
        self._on_eof()

    def _stop(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.remove_reader(self._fd)
            self._drop_queue()
            if self._retry is not None:
                self._retry.cancel()
                self._retry = None
            self._wait_to_send()

    def _drop_queue(self) -> None:
        for chunk in self._queue:
            _close_all(chunk.fds)
        self._queue.clear()
        self._pending = 0


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _copies(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        if fd != LOST:
            os.close(fd)
