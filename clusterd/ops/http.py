"""A small HTTP/1.1 server on h11, for the monitoring address and the control socket.

It runs in the primary's loop, so everything a client can make it hold or do is bounded, and a client can neither block
nor end it: whatever arrives, it gets a status or is closed, and the next client is served.
"""

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Mapping

from clusterd.ops.connection import Connection
from clusterd.ops.exchange import Answer, Answerer, Credentials, Request, Response, Routes, Stream, read_only, text
from clusterd.unix.sockets import peer_credentials, peer_groups

MAX_CONNECTIONS = 64
MAX_OF_A_USER = 16
"""Connections of one user at a unix socket, root and the service's own aside: nobody keeps the others out."""
ACCEPTS_A_TURN = 16
ACCEPT_PAUSE = 0.1
"""Seconds without accepting when the process or the machine is out of descriptors or memory."""

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\n\r\ntoo many connections\n"
)
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class HttpServer:
    """A running server; made by :func:`start`.

    Attributes:
        connections: how many are open.
        refused: connections turned away because too many were open.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, answers: Answerer) -> None:
        self.refused = 0
        self.connections = 0
        self._answers = answers
        self._loop = loop
        self._sock = sock
        self._open: set[Connection] = set()
        self._of_user: Counter[int] = Counter()
        self._serving: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._closed = False
        loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Stop listening and drop every connection. Closes the socket; a unix socket's file is its maker's."""
        if self._closed:
            return
        self._closed = True
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for connection in list(self._open):
            connection.finish()

    def add(self, connection: Connection) -> None:
        """A connection has begun; if the server was closed in the meantime, it ends at once."""
        self._open.add(connection)
        if self._closed:
            connection.abort()

    def remove(self, connection: Connection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        self._count(connection.peer, -1)

    def _count(self, peer: Credentials | None, by: int) -> None:
        self.connections += by
        if peer is not None:
            self._of_user[peer.uid] += by
            if not self._of_user[peer.uid]:
                del self._of_user[peer.uid]

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, _address = self._sock.accept()
            except OSError as error:
                if error.errno in _SHORT:
                    self._loop.remove_reader(self._sock)
                    self._resume = self._loop.call_later(ACCEPT_PAUSE, self._accept_again)
                # Anything else is nobody waiting any more (EAGAIN), or one client that has gone already (accept(2)).
                return
            connection.setblocking(False)
            peer = None
            if connection.family == socket.AF_UNIX:
                try:
                    peer = Credentials(*peer_credentials(connection), peer_groups(connection))
                except OSError:  # it has gone before anything could be known of it
                    connection.close()
                    continue
            if self.connections >= MAX_CONNECTIONS or self._is_full_of(peer):
                self.refused += 1
                with connection:
                    try:
                        connection.send(BUSY)
                    except OSError:
                        pass
                continue
            self._count(peer, 1)
            task = self._loop.create_task(self._serve(connection, peer))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _is_full_of(self, peer: Credentials | None) -> bool:
        return peer is not None and peer.uid not in (0, os.geteuid()) and self._of_user[peer.uid] >= MAX_OF_A_USER

    def _accept_again(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    async def _serve(self, connection: socket.socket, peer: Credentials | None) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: Connection(self, self._loop, peer), connection)
        except OSError:
            self._count(peer, -1)
            connection.close()

    def answer(self, request: Request) -> Answer:
        """The answer to a request, now or later; never raises."""
        try:
            answer = self._answers(request)
        except Exception as error:
            return self._failed(request, error)
        return answer if isinstance(answer, Response | Stream) else self._later(request, answer)

    async def _later(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except Exception as error:
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Response:
        self._loop.call_exception_handler({"message": f"the handler of {request.path} failed", "exception": error})
        return text(500, "internal error; the service's log has it")


async def start(sock: socket.socket, answers: Answerer | Routes) -> HttpServer:
    """Serve on a listening socket, from now until :meth:`HttpServer.close`.

    Args:
        sock: TCP or unix, listening; it becomes the server's, non-blocking.
        answers: what answers; routes are read-only.
    """
    sock.setblocking(False)
    if isinstance(answers, Mapping):
        answers = read_only(answers)
    return HttpServer(asyncio.get_running_loop(), sock, answers)
