"""One HTTP/1.1 client, from accept to close: h11 between its bytes and what the server answers.

It always has a deadline or a bound, and never more than one request in hand.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

import h11

from clusterd.ops.exchange import Answer, Credentials, Feed, Request, Response, Stream, text

MAX_HEAD = 8 * 1024
"""Bytes of request line and headers."""
MAX_BODY = 64 * 1024
TIMEOUT = 5.0
"""Seconds for a whole request to arrive, for an idle connection, and for a response to be taken."""
LINGER = 1.0
"""Seconds for which what a refused client still sends is read and thrown away: closing at once would answer it with a
reset, which destroys the response on its way (RFC 9112 section 9.6)."""
LINGER_BYTES = 2 * 1024 * 1024
IDLE = 15.0
"""Seconds without news after which a stream gets an empty line: a client that has gone is found out by it."""

REASONS = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 409: b"Conflict", 413: b"Content Too Large", 415: b"Unsupported Media Type",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip


class Server(Protocol):
    """What a connection needs of its server."""

    def answer(self, request: Request) -> Answer: ...

    def add(self, connection: "Connection") -> None: ...

    def remove(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """See the module.

    Args:
        peer: who it is, over a unix socket.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, peer: Credentials | None) -> None:
        self.peer = peer
        self._server = server
        self._loop = loop
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._with_body = True  # of the answer: one to HEAD has none
        self._begun = False
        self._paused = False
        self._lingering = False
        self._thrown_away = 0
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.Future[Response] | None = None  # one of these two while an answer is not complete
        self._feed: Feed | None = None
        self._flowing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._deadline(TIMEOUT)
        self._server.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._later is not None:
            self._later.cancel()
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        self._server.remove(self)

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def finish(self) -> None:
        """End at once, but with what a stream still has to say, as far as the kernel takes it."""
        if self._feed is not None:
            while piece := self._feed.take():
                self._send(h11.Data(data=piece))
            self._send(h11.EndOfMessage())
            if not self._transport.get_write_buffer_size():
                self._transport.close()
                return
        self._transport.abort()

    @property
    def _busy(self) -> bool:
        return self._later is not None or self._feed is not None

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self._transport.abort()
            return
        self._http.receive_data(data)
        if self._busy:
            if len(self._http.trailing_data[0]) > MAX_HEAD:
                self._transport.pause_reading()
            return
        if not self._begun:
            self._begun = True
            self._deadline(TIMEOUT)
        self._advance()

    def eof_received(self) -> bool:
        """Half-closed clients (``nc``, ``printf | socat``) get their answer; after it the connection closes."""
        if self._lingering:
            return False
        self._http.receive_data(b"")
        if not self._busy:
            self._advance()
        return self._busy

    def pause_writing(self) -> None:
        """The client does not take its answers, so it is not asked for further requests either."""
        self._paused = True
        if not self._lingering:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._feed is not None:
            self._wake()
        else:
            self._advance()

    def _deadline(self, seconds: float, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then or self._late)

    def _late(self) -> None:
        if self._begun and not self._lingering and not self._paused:
            self._refuse(408, "the request took too long")
        else:
            self._transport.abort()

    def _advance(self) -> None:
        """Answer what is complete, for as long as the client takes the answers."""
        while not self._paused and not self._lingering and not self._busy and not self._transport.is_closing():
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
                    self._with_body = event.method != b"HEAD"
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
            peer=self.peer,
        )
        match self._server.answer(request):
            case Response() as response:
                self._write(response)
                self._complete()
            case Stream() as stream:
                self._begin(stream)
            case later:
                if self._timer is not None:
                    self._timer.cancel()  # the time that it takes is its maker's affair
                self._later = asyncio.ensure_future(later)
                self._later.add_done_callback(self._come)

    def _come(self, later: "asyncio.Future[Response]") -> None:
        """What was to be waited for is there."""
        self._later = None
        if later.cancelled() or self._transport.is_closing():
            self._transport.abort()
            return
        self._write(later.result())
        self._complete()

    def _complete(self) -> None:
        """The response is written; what comes next."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self._linger()
            return
        self._http.start_next_cycle()
        self._with_body = True
        data, ended = self._http.trailing_data
        self._begun = bool(data)
        self._deadline(TIMEOUT)
        if self._begun:
            # A further request is there already. One a turn of the loop: ten thousand of them fit into what is read at
            # once, and the primary's own work must not wait for their answers.
            self._transport.pause_reading()
            self._loop.call_soon(self._advance)
        elif ended:
            self._transport.close()
        elif not self._paused:
            self._transport.resume_reading()

    # -- streams -------------------------------------------------------------------------------------------------

    def _begin(self, stream: Stream) -> None:
        headers = [("content-type", stream.content_type), ("cache-control", "no-store")]
        self._send(h11.Response(status_code=stream.status, headers=headers, reason=REASONS.get(stream.status, b"")))
        if not self._with_body:
            stream.feed.close()
            self._send(h11.EndOfMessage())
            self._complete()
            return
        self._feed = stream.feed
        self._feed.attach(self._wake)
        self._wake()

    def _wake(self) -> None:
        if not self._flowing and self._feed is not None:
            self._flowing = True
            self._loop.call_soon(self._flow)

    def _flow(self) -> None:
        """One piece a turn of the loop, while the client takes them."""
        self._flowing = False
        if self._feed is None or self._paused or self._transport.is_closing():
            return
        piece = self._feed.take()
        if piece is None:
            self._deadline(IDLE, self._idle)
        elif piece:
            self._send(h11.Data(data=piece))
            self._wake()
        else:
            self._feed.close()
            self._feed = None
            self._send(h11.EndOfMessage())
            self._complete()

    def _idle(self) -> None:
        if self._feed is not None and not self._paused:
            self._send(h11.Data(data=b"\n"))
            self._deadline(IDLE, self._idle)

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, message: str) -> None:
        """The last response of a connection whose request cannot be read."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(text(status, message), close=True)
        self._linger()

    def _write(self, response: Response, *, close: bool = False) -> None:
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
            h11.Data(data=response.body if self._with_body else b""),
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
