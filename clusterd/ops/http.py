"""A small HTTP/1.1 server on h11, for the monitoring address and the control socket.

It runs in the primary's loop, so everything a client can make it hold or do is bounded, and a client can neither block
nor end it: whatever arrives, it gets a status or is closed, and the next client is served.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable
from urllib.parse import parse_qsl, urlsplit

import h11

from clusterd.ops.exchange import JSON, TEXT, Credentials, Handler, Request, Response, Routes, text
from clusterd.unix.sockets import peer_credentials

__all__ = ["JSON", "TEXT", "Credentials", "Handler", "HttpServer", "Request", "Response", "Routes", "start", "text"]

MAX_CONNECTIONS = 64
MAX_HEAD = 8 * 1024
"""Bytes of request line and headers."""
MAX_BODY = 64 * 1024
TIMEOUT = 5.0
"""Seconds for a whole request to arrive, for an idle connection, and for a response to be taken."""
LINGER = 1.0
"""Seconds for which what a refused client still sends is read and thrown away: closing at once would answer it with a
reset, which destroys the response on its way (RFC 9112 section 9.6)."""
LINGER_BYTES = 2 * 1024 * 1024
ACCEPTS_A_TURN = 16
ACCEPT_PAUSE = 0.1
"""Seconds without accepting when the process or the machine is out of descriptors or memory."""

ROOT = 0
own_uid = os.geteuid
"""These two users are answered on a unix socket. The file's mode says the same (0600), but a mode can be changed."""

REASONS = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 413: b"Content Too Large", 431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 503: b"Service Unavailable", 505: b"HTTP Version Not Supported",
}  # fmt: skip

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 21\r\n\r\ntoo many connections\n"
)
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class HttpServer:
    """A running server; made by :func:`start`.

    Attributes:
        connections: how many are open.
        refused: connections turned away because :data:`MAX_CONNECTIONS` were open.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, routes: Routes, owner_only: bool) -> None:
        self.routes = routes
        self.owner_only = owner_only
        self.refused = 0
        self._loop = loop
        self._sock = sock
        self._open: set[_Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.connections = 0
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
            connection.abort()

    def add(self, connection: "_Connection") -> None:
        """A connection has begun; if the server was closed in the meantime, it ends at once."""
        self._open.add(connection)
        if self._closed:
            connection.abort()

    def remove(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._open.discard(connection)
        self.connections -= 1

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
            if self.connections >= MAX_CONNECTIONS:
                self.refused += 1
                with connection:
                    try:
                        connection.send(BUSY)
                    except OSError:
                        pass
                continue
            self.connections += 1
            task = self._loop.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _accept_again(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            peer = None
            if connection.family == socket.AF_UNIX:
                peer = Credentials(*peer_credentials(connection))
            await self._loop.connect_accepted_socket(lambda: _Connection(self, self._loop, peer), connection)
        except OSError:  # it has gone before anything could be known of it
            self.connections -= 1
            connection.close()

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """The response to a request, now or later; never raises."""
        if self.owner_only and (request.peer is None or request.peer.uid not in (ROOT, own_uid())):
            return text(403, "only root and the user the service runs as may ask this")
        handler = self.routes.get(request.path)
        if handler is None:
            known = ", ".join(sorted(self.routes))
            return text(404, f"nothing here; there are {known}")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET and HEAD\n", headers={"allow": "GET, HEAD"})
        try:
            answer = handler(request)
        except Exception as error:
            return self._failed(request, error)
        return answer if isinstance(answer, Response) else self._later(request, answer)

    async def _later(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except Exception as error:
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Response:
        self._loop.call_exception_handler({"message": f"the handler of {request.path} failed", "exception": error})
        return text(500, "internal error; the service's log has it")


async def start(sock: socket.socket, routes: Routes, *, owner_only: bool | None = None) -> HttpServer:
    """Serve on a listening socket, from now until :meth:`HttpServer.close`.

    Args:
        sock: TCP or unix, listening; it becomes the server's, non-blocking.
        owner_only: answer only root and the own user, known by the kernel's word; default: on unix sockets.
    """
    sock.setblocking(False)
    if owner_only is None:
        owner_only = sock.family == socket.AF_UNIX
    return HttpServer(asyncio.get_running_loop(), sock, routes, owner_only)


class _Connection(asyncio.Protocol):
    """One client, from accept to close. It always has a deadline, and never more than one request in hand."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop, peer: Credentials | None) -> None:
        self._server = server
        self._loop = loop
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._begun = False
        self._paused = False
        self._lingering = False
        self._thrown_away = 0
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Future[Response] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._deadline(TIMEOUT)
        self._server.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._server.remove(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self._transport.abort()
            return
        if not self._begun:
            self._begun = True
            self._deadline(TIMEOUT)
        self._http.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """Half-closed clients (``nc``, ``printf | socat``) get their answer; after it the connection closes."""
        if self._lingering:
            return False
        self._http.receive_data(b"")
        self._advance()
        return self._answering is not None

    def pause_writing(self) -> None:
        """The client does not take its answers, so it is not asked for further requests either."""
        self._paused = True
        if not self._lingering:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._advance()

    def _deadline(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._begun and not self._lingering and not self._paused:
            self._refuse(408, "the request took too long")
        else:
            self._transport.abort()

    def _advance(self) -> None:
        """Answer what is complete, for as long as the client takes the answers."""
        while not (self._paused or self._lingering or self._answering or self._transport.is_closing()):
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
                self._refuse(status, "the head is too big" if status == 431 else "bad request")
                return
            if event is h11.NEED_DATA:
                self._transport.resume_reading()
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                return
            match event:
                case h11.Request():
                    self._request = event
                    self._body.clear()
                    if _head_size(event) > MAX_HEAD:
                        self._refuse(431, "the head is too big")
                    elif event.http_version not in (b"1.0", b"1.1"):
                        self._refuse(505, "HTTP/1.0 or HTTP/1.1")
                case h11.Data():
                    self._body += event.data
                    if len(self._body) > MAX_BODY:
                        self._refuse(413, f"at most {MAX_BODY} bytes of body")
                case h11.EndOfMessage():
                    self._respond()
                    if self._answering is not None:
                        return
                    if self._begun and not self._lingering:
                        # A further request is there already. One a turn of the loop: ten thousand of them fit into
                        # what is read at once, and the primary's own work must not wait for their answers.
                        self._transport.pause_reading()
                        self._loop.call_soon(self._advance)
                        return
                case h11.ConnectionClosed():
                    self._transport.close()
                    return
                case _:  # PAUSED: bytes behind a request that ends the connection
                    self._linger()
                    return

    def _respond(self) -> None:
        assert self._request is not None
        head, self._request = self._request, None
        try:
            target = urlsplit(head.target.decode("ascii"))
            query = dict(parse_qsl(target.query, keep_blank_values=True, max_num_fields=32))
        except ValueError:
            self._refuse(400, "bad request")
            return
        request = Request(
            method=head.method.decode("ascii"),
            path=target.path,
            query=query,
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in head.headers},
            body=bytes(self._body),
            peer=self._peer,
        )
        answer = self._server.answer(request)
        if isinstance(answer, Response):
            self._finish(answer, request)
            return
        # The client waits for us now, so its deadline stands still; and what it sends on stays in the socket.
        self._transport.pause_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._answering = asyncio.ensure_future(answer)
        self._answering.add_done_callback(lambda done: self._answered(done, request))

    def _answered(self, done: asyncio.Future[Response], request: Request) -> None:
        self._answering = None
        if not done.cancelled() and not self._transport.is_closing():
            self._deadline(TIMEOUT)
            self._finish(done.result(), request)
            self._advance()

    def _finish(self, response: Response, request: Request) -> None:
        self._write(response, with_body=request.method != "HEAD")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._begun = bool(self._http.trailing_data[0])
            self._deadline(TIMEOUT)
        else:
            self._linger()

    def _refuse(self, status: int, message: str) -> None:
        """The last response of a connection whose request cannot be read."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(text(status, message), close=True)
        self._linger()

    def _write(self, response: Response, *, with_body: bool = True, close: bool = False) -> None:
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("cache-control", "no-store"),
            *response.headers.items(),
        ]
        if close:
            headers.append(("connection", "close"))
        reason = REASONS.get(response.status, b"")
        self._send(
            h11.Response(status_code=response.status, headers=headers, reason=reason),
            h11.Data(data=response.body if with_body else b""),
            h11.EndOfMessage(),
        )

    def _send(self, *events: h11.Event) -> None:
        """One write, so that small responses are one segment."""
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))

    def _linger(self) -> None:
        if self._lingering or self._transport.is_closing():
            return
        self._lingering = True
        self._deadline(LINGER if not self._paused else TIMEOUT)
        self._transport.resume_reading()
        self._transport.write_eof()


def _head_size(request: h11.Request) -> int:
    """The head's bytes, as h11 does not count them where the whole head arrives in one piece."""
    line = len(request.method) + len(request.target) + 12
    return line + sum(len(name) + len(value) + 4 for name, value in request.headers)
