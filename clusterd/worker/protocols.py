"""uvicorn's connections with what a worker adds to them: counting, the unread token, a bound on heads, a kind end.

uvicorn's classes are extended, never copied: what is touched here is checked at start (``fit``), because the classes
are public in use (every ASGI server that embeds uvicorn builds them) and private in name.
"""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn
from uvicorn.server import ServerState

from ..errors import HostError
from ..unix.sockets import unread
from ..wire.rows import Row
from .mailbox import Token

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's head with httptools, which has no bound of its own; h11 takes 16 KiB."""

HEAD_PATIENCE: Final = 5.0
"""Seconds that a head, begun but not complete when ``linger`` is over, gets for its rest."""

GOODBYE_PATIENCE: Final = 5.0
"""Seconds that a WebSocket client gets to answer the close frame."""

SERVICE_RESTART: Final = "1012 (RFC 6455 §7.4, IANA registry: Service Restart)"

_BEFORE_CLASSES: Final = int(Row.REQUESTS_1XX) - 1
_FORBIDDEN: Final = 403
_SWITCHING: Final = 101
_CLOSE: Final = (b"connection", b"close")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Gauge(set[Any]):
    """A set that keeps its size in a word of the scoreboard, and says when it has become empty."""

    def __init__(self, words: memoryview, word: Row, on_empty: Callable[[], None]) -> None:
        super().__init__()
        self._words = words
        self._word = int(word)
        self._on_empty = on_empty

    def add(self, item: Any) -> None:
        set.add(self, item)
        self._words[self._word] = len(self)

    def discard(self, item: Any) -> None:
        set.discard(self, item)
        self._words[self._word] = size = len(self)
        if not size:
            self._on_empty()

    remove = discard  # uvicorn never relies on the KeyError


class Connections:
    """All connections of one engine, and how they end.

    Args:
        loop: the worker's.
        config: uvicorn's, loaded.
        words: the worker's row of the scoreboard.
        linger: seconds, see :class:`clusterd.worker.options.HttpOptions`.

    Attributes:
        state: uvicorn's state of a server, shared by the connections.
        draining: responses end their connections.
        changed: set whenever the last connection or the last request has ended.

    Raises:
        HostError: this uvicorn is not one that this version fits.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: uvicorn.Config, words: memoryview, linger: float
    ) -> None:
        fit(config)
        self.draining = False
        self.changed = asyncio.Event()
        self.state = ServerState()
        self.state.connections = Gauge(words, Row.CONNECTIONS_OPEN, self.changed.set)
        self.state.tasks = Gauge(words, Row.REQUESTS_IN_FLIGHT, self.changed.set)
        self._loop = loop
        self._config = config
        self._words = words
        self._linger = linger
        self._patient_until = 0.0
        self._adopting: set[asyncio.Task[Any]] = set()
        self._make_transport: Callable[..., Any] | None = getattr(loop, "_make_socket_transport", None)
        module = sys.modules[config.http_protocol_class.__module__]
        cycle = module.RequestResponseCycle
        # Responses that uvicorn gives of itself (500 after an exception, 503) pass no other place than the cycle.
        vars(module)["RequestResponseCycle"] = _counting(getattr(cycle, "uvicorns_own", cycle), self)
        self._http = _http(config.http_protocol_class, self)
        if config.ws_protocol_class is not None:
            config.ws_protocol_class = _websocket(config.ws_protocol_class, self)

    # -- the life of one -----------------------------------------------------------------------------------------

    def adopt(self, sock: Any, app_state: dict[str, Any], token: Token) -> None:
        """Serve a connection that was handed over.

        Args:
            sock: its socket.
            app_state: what the app's lifespan has left for its requests.
            token: told when the first byte is read.
        """
        protocol = self._http(config=self._config, server_state=self.state, app_state=app_state, _loop=self._loop)
        protocol.token = token
        self.state.connections.add(protocol)  # connection_made does so too, but a turn later: a drain may come between
        if self._make_transport is not None:
            # asyncio's own step behind connect_accepted_socket: without its task and its future, 15 us cheaper.
            try:
                self._make_transport(sock, protocol)
            except BaseException:
                self.state.connections.discard(protocol)
                raise
        else:
            task = self._loop.create_task(self._connect(sock, protocol))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)
        if self.draining:
            self._loop.call_later(self._linger, self._expire, protocol)

    async def _connect(self, sock: Any, protocol: Any) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, sock)
        except OSError:  # gone before it was here
            protocol.token.read()
            self.state.connections.discard(protocol)
            sock.close()

    def count(self, status: int) -> None:
        """A response has begun."""
        if 100 <= status <= 599:
            self._words[_BEFORE_CLASSES + status // 100] += 1

    # -- the end of all ------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """From now on every response says ``Connection: close``; idle connections are closed after ``linger``.

        It is said by the response itself and not by uvicorn's default headers: those would get into the handshake of a
        WebSocket, and into cycles only that begin later.
        """
        self.draining = True
        self._patient_until = self._loop.time() + self._linger
        for protocol in list(self.state.connections):
            cycle = getattr(protocol, "cycle", None)
            if cycle is not None and cycle.response_started and not cycle.response_complete:
                self._let_linger(cycle, protocol)  # its client was told it may send more
        self._loop.call_later(self._linger, self._expire_all)

    def closing(self, cycle: Any, message: Message) -> Message:
        """The start of a response while draining: the last of its connection, if it can be.

        Closing a socket with unread data in it is a reset, which can take the response away from the client: while
        more waits (a pipelined request, the rest of a body) the connection stays.
        """
        protocol = cycle.on_response.__self__
        if cycle.more_body or (self._more_waits(protocol) and self._loop.time() < self._patient_until):
            self._let_linger(cycle, protocol)
            return message
        return {**message, "headers": [*message.get("headers", ()), _CLOSE]}

    def _more_waits(self, protocol: Any) -> bool:
        return bool(getattr(protocol, "pipeline", None)) or _begun(protocol) or _unread(protocol)

    def _let_linger(self, cycle: Any, protocol: Any) -> None:
        """This response does not end its connection: when it is complete the client gets ``linger``."""
        on_response = cycle.on_response

        def lingering() -> None:
            on_response()
            self._loop.call_later(self._linger, self._expire, protocol)

        cycle.on_response = lingering

    def _expire_all(self) -> None:
        for protocol in list(self.state.connections):
            self._expire(protocol)

    def _expire(self, protocol: Any, last: bool = False) -> None:
        """Close a connection on which nothing happens; the others end by themselves."""
        if protocol not in self.state.connections:
            return
        if protocol.transport is None:
            self._loop.call_soon(self._expire, protocol)
        elif protocol.transport.is_closing():
            pass
        elif isinstance(protocol, _WebSocket):
            protocol.say_goodbye()
        elif not _busy(protocol):
            if not last and (_begun(protocol) or _unread(protocol)):
                self._loop.call_later(HEAD_PATIENCE, self._expire, protocol, True)
            else:
                protocol.shutdown()


def _busy(protocol: Any) -> bool:
    cycle = protocol.cycle
    return cycle is not None and not cycle.response_complete


def _unread(protocol: Any) -> bool:
    """Data waits in the socket, or its end."""
    sock = protocol.transport.get_extra_info("socket")
    return sock is not None and unread(sock.fileno())


def _begun(protocol: Any) -> bool:
    """A request's head has begun to arrive and is not complete."""
    if hasattr(protocol, "conn"):
        return bool(protocol.conn.trailing_data[0])
    # httptools: a scope is made at a head's first byte, its cycle after the last.
    return protocol.scope is not None and (protocol.cycle is None or protocol.cycle.scope is not protocol.scope)


# -- uvicorn's classes, extended -------------------------------------------------------------------------------------


def _counting(base: Any, connections: Connections) -> type[Any]:
    """uvicorn's cycle of request and response, counted. ``send`` is a plain function: no further await."""
    base_send = base.send
    count = connections.count

    def send(cycle: Any, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start" and not cycle.response_started:
            count(message["status"])
            if connections.draining:
                message = connections.closing(cycle, message)
        sent: Awaitable[None] = base_send(cycle, message)
        return sent

    return type("CountedCycle", (base,), {"send": send, "uvicorns_own": base})


class _Http(asyncio.Protocol):
    """What is added to both of uvicorn's HTTP protocols; stands before them in the order of bases."""

    connections: Connections
    token: Token | None = None
    transport: Any

    def data_received(self, data: bytes) -> None:
        if self.token is not None:
            self.token.read()
            self.token = None
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.token is not None:
            self.token.read()
            self.token = None
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self.connections.count(400)
        super().send_400_response(msg)  # type: ignore[misc]

    def timeout_keep_alive_handler(self) -> None:
        """After a turn that took long the timer and the next request are due together: the request wins."""
        if self.transport.is_closing() or not _unread(self):
            super().timeout_keep_alive_handler()  # type: ignore[misc]


class _HttpTools(_Http):
    scope: Any
    cycle: Any
    _head = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("Request head too large.")


class _WebSocket(asyncio.Protocol):
    """What is added to uvicorn's WebSocket protocols."""

    connections: Connections
    transport: Any
    app: Any
    _accepted = False
    _parting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        app = self.app

        def counted(scope: Any, receive: Any, send: Send) -> Any:
            return app(scope, receive, lambda message: self._send(send, message))

        self.app = counted

    def _send(self, send: Send, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "websocket.accept":
            self.connections.count(_SWITCHING)
            self._accepted = True
            if self.connections.draining:
                self.connections.let_linger(self)
        elif kind == "websocket.close":
            if not self._accepted:
                self.connections.count(_FORBIDDEN)
            self._parting = True
        elif kind == "websocket.http.response.start":
            self.connections.count(message["status"])
        return send(message)
