"""uvicorn's protocol classes with what a worker adds: counting, the token of the unread, a bound on heads, a goodbye.

They are extended, never copied, and :func:`fit` checks at start that what is touched is there: these classes are public
in use (every server that embeds uvicorn builds them) and private in name.
"""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic_ns
from typing import Any, Final, NamedTuple, Protocol

from ..errors import HostError
from ..unix.sockets import unread
from ..wire.proxy import Header
from ..wire.rows import Row
from . import tls
from .arrival import Arrival
from .heads import freeing, limited
from .library import ServerState, uvicorn
from .mailbox import Taken
from .slow import watched

GOODBYE_PATIENCE: Final = 5.0
"""Seconds that a WebSocket client gets to answer the close frame."""

SWITCHING_PROTOCOLS: Final = 101
BAD_REQUEST: Final = 400
_SUCCESSES: Final = int(Row.REQUESTS_2XX)
FORBIDDEN: Final = 403

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class Owner(Protocol):
    """What a connection asks of those who keep all of them."""

    draining: bool
    watches: bool

    @property
    def words(self) -> memoryview:
        """The worker's row of the scoreboard."""

    @property
    def observe(self) -> Callable[[int], None]:
        """Count a response that is complete, by the nanoseconds that it took."""

    def count(self, status: int) -> None:
        """A response has begun."""

    def closing(self, cycle: Any, message: Message) -> Message:
        """The start of a response while draining, to be sent instead."""

    def let_linger(self, protocol: Any) -> None:
        """Nothing is under way on this connection: close it after a while."""

    def upgraded(self) -> None:
        """A connection has become another kind of connection."""


class Kinds(NamedTuple):
    """The HTTP protocols, by what a connection owes and what comes before its HTTP.

    Attributes:
        free: nobody waits for its first byte.
        bounded: its token is to be returned at the first byte.
        arriving: … and a proxy's header or TLS come before that.
    """

    free: Callable[..., Any]
    bounded: Callable[..., Any]
    arriving: Callable[..., Any]


def extend(config: uvicorn.Config, owner: Owner) -> Kinds:
    """Put counting into uvicorn's classes for this configuration, which fits."""
    base = config.http_protocol_class
    # Responses that uvicorn gives of itself, 500 after an exception and 503, pass through no other place than the
    # cycle, and the cycle's class is found by name in its module. Asked at the app, they would not be counted.
    names = vars(sys.modules[base.__module__])
    names["RequestResponseCycle"] = _counting(names["RequestResponseCycle"], owner)
    # uvicorn has uvloop make two sockets of a transport to ask each for an address that the transport knows: 7 us.
    names["get_local_addr"], names["get_remote_addr"] = _local, _remote
    websocket = config.ws_protocol_class
    if websocket is not None:
        config.ws_protocol_class = type("WorkerWebSocket", (WebSocket, websocket), {"owner": owner})
    unbounded = not hasattr(base, "handle_events")  # h11 has a limit of its own
    reading = limited(base) if unbounded else base.data_received
    added = {"owner": owner, "data_received": reading}
    http = type("WorkerHttp", (Http, base), added)
    added = added | {"data_received": limited(base, freeing=True) if unbounded else freeing(reading)}
    return Kinds(http, type("WorkerBounded", (Bounded, base), added), type("WorkerArriving", (Arriving, base), added))


def fit(config: uvicorn.Config) -> None:
    """Check that this uvicorn has what is used here; ``config`` is loaded.

    Raises:
        HostError: it has not.
    """
    http = config.http_protocol_class
    cycle = getattr(sys.modules[http.__module__], "RequestResponseCycle", None)
    missing = [
        f"{http.__name__}({name}=)"
        for name in ("config", "server_state", "app_state", "_loop")
        if name not in inspect.signature(http).parameters
    ]
    missing += [
        f"{http.__name__}.{name}"
        for name in ("data_received", "send_400_response", "timeout_keep_alive_handler", "shutdown")
        if not hasattr(http, name)
    ]
    if (
        cycle is None
        or not (hasattr(cycle, "send") and hasattr(cycle, "run_asgi"))
        or "on_response" not in inspect.signature(cycle).parameters
    ):
        missing.append(f"{http.__module__}.RequestResponseCycle with send, run_asgi and on_response")
    state = ServerState()
    missing += [
        f"ServerState.{name}" for name in ("connections", "tasks", "default_headers") if not hasattr(state, name)
    ]
    if missing:
        raise HostError(
            f"uvicorn {uvicorn.__version__} does not fit: it lacks {', '.join(missing)};"
            " install one that clusterd is tried with (uvicorn>=0.30,<1)"
        )


# -- what a connection is doing --------------------------------------------------------------------------------------


def busy(protocol: Any) -> bool:
    """A request is being answered."""
    return protocol.cycle is not None and not protocol.cycle.response_complete


def begun(protocol: Any) -> bool:
    """A request's head has begun to arrive and is not complete."""
    if hasattr(protocol, "conn"):
        return bool(protocol.conn.trailing_data[0])
    # httptools: a scope is made at a head's first byte, the cycle that holds it after its last.
    return protocol.scope is not None and (protocol.cycle is None or protocol.cycle.scope is not protocol.scope)


def waiting(protocol: Any) -> bool:
    """Something waits in the socket, data or its end. False too if the socket is gone."""
    sock = protocol.transport.get_extra_info("socket")
    fd = -1 if sock is None else sock.fileno()
    return fd >= 0 and unread(fd)


def _remote(transport: Any) -> tuple[str, int] | None:
    """uvicorn's ``get_remote_addr``: the client's address, where it has one that is host and port."""
    try:
        address = transport.get_extra_info("peername")
    except OSError:  # it has gone
        return None
    return (address[0], address[1]) if isinstance(address, tuple) else None


def _local(transport: Any) -> tuple[str, int | None] | None:
    """uvicorn's ``get_local_addr``: host and port, or the path of a unix socket."""
    address = transport.get_extra_info("sockname")
    if isinstance(address, tuple):
        return address[0], address[1]
    return (address, None) if isinstance(address, str) else None


# -- the classes -----------------------------------------------------------------------------------------------------


def _counting(base: Any, owner: Owner) -> type[Any]:
    """uvicorn's cycle of request and response; ``send`` is a plain function, so that nothing more is awaited."""
    base = getattr(base, "uvicorns_own", base)  # a second engine in one process counts once, too
    base_send, base_run = base.send, base.run_asgi
    count, observe, words = owner.count, owner.observe, owner.words

    def run_asgi(cycle: Any, app: Any) -> Awaitable[None]:
        cycle.began_ns = monotonic_ns()
        return base_run(cycle, app)  # type: ignore[no-any-return]

    def send(cycle: Any, message: Message) -> Awaitable[None]:
        if cycle.response_started:
            if not (cycle.response_complete or message.get("more_body")):
                observe(monotonic_ns() - cycle.began_ns)
        elif message["type"] == "http.response.start":
            if 200 <= (status := message["status"]) <= 299:  # ``count``, without the call, of those that are many
                words[_SUCCESSES] += 1
            else:
                count(status)
            if owner.draining:
                message = owner.closing(cycle, message)
        return base_send(cycle, message)  # type: ignore[no-any-return]

    async def watched_run_asgi(cycle: Any, app: Any) -> None:
        await watched(cycle, run_asgi(cycle, app))

    run = watched_run_asgi if owner.watches else run_asgi
    return type("WorkerCycle", (base,), {"send": send, "run_asgi": run, "uvicorns_own": base})


class Http(asyncio.Protocol):
    """What is added to uvicorn's HTTP protocols; it stands before them in the order of bases."""

    owner: Owner
    told: Header | None = None
    certificate: str | None = None
    arrival: Arrival | None = None
    app: Any
    transport: Any
    headed: Any = None
    head = 0

    def free(self) -> None:
        """The connection is not unread any more."""

    def send_400_response(self, msg: str) -> None:
        self.owner.count(BAD_REQUEST)
        super().send_400_response(msg)  # type: ignore[misc]

    def timeout_keep_alive_handler(self) -> None:
        """After a turn that took long the timer and the next request are due together: the request wins."""
        if self.transport.is_closing() or not waiting(self):
            super().timeout_keep_alive_handler()  # type: ignore[misc]


class Bounded(Http):
    """… where it is waited for the first byte."""

    token: Taken | None = None
    flow: Any
    early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.early:
            self._begin(transport)

    def _begin(self, transport: Any) -> None:
        """What was read of it before it had a transport comes first."""
        early, self.early = self.early, b""
        try:
            self.data_received(early)
        except BaseException:
            # Of an exception in data_received a transport makes an end; in here it would leave the client hanging.
            transport.abort()
            raise
        if self.flow.read_paused:
            # The transport begins to read after this, whatever it was told in the meantime.
            self.loop.call_soon(transport.pause_reading)  # type: ignore[attr-defined]

    def free(self) -> None:
        """The connection is not unread any more."""
        if self.token is not None:
            self.token.read()
            self.token = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.free()
        super().connection_lost(exc)


class Arriving(Bounded):
    """… where a proxy's header or TLS come before HTTP."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.arrival = None
        early, self.early = self.early, b""
        super().connection_made(transport)
        if self.told is not None and self.told.client is not None:
            self.client, self.server = self.told.client, self.told.server
        connection = transport.get_extra_info("ssl_object")
        if connection is not None:
            self.app = _telling(self.app, tls.extension(connection, self.certificate))
        if early:
            self.early = early
            self._begin(transport)


def _telling(app: Any, extension: dict[str, Any]) -> Callable[[Any, Any, Any], Any]:
    """The app, told of TLS."""

    def told(scope: Any, receive: Any, send: Any) -> Any:
        scope.setdefault("extensions", {})["tls"] = extension
        return app(scope, receive, send)

    return told


class WebSocket(asyncio.Protocol):
    """What is added to uvicorn's WebSocket protocols; it stands before them in the order of bases."""

    owner: Owner
    transport: Any
    app: Any
    accepted = False
    parting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        app = self.app

        def counted(scope: Any, receive: Any, send: Send) -> Any:
            return app(scope, receive, lambda message: self._send(send, message))

        # What this connection was before it was a WebSocket: that protocol is the transport's until this one is set.
        http: Any = transport.get_protocol()
        connection = transport.get_extra_info("ssl_object")
        if connection is not None:
            app = _telling(app, tls.extension(connection, http.certificate))
        self.app = counted
        super().connection_made(transport)
        self.owner.upgraded()
        if http.told is not None and http.told.client is not None:
            self.client, self.server = http.told.client, http.told.server

    def _send(self, send: Send, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "websocket.accept" and not self.accepted:
            self.accepted = True
            self.owner.count(SWITCHING_PROTOCOLS)
            if self.owner.draining:
                self.owner.let_linger(self)
        elif kind == "websocket.close":
            if not self.accepted:
                self.owner.count(FORBIDDEN)
            self.parting = True
        elif kind == "websocket.http.response.start":
            self.owner.count(message["status"])
        return send(message)

    def say_goodbye(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close with 1012, Service Restart (RFC 6455 §7.4.2, IANA), and wait for the client's answer.

        uvicorn's own ``shutdown`` says 1012, tells the app, and closes the socket at once: what the client is just
        sending turns that into a reset, and the code is lost. So only the last step is held back.
        """
        if self.parting or not self.accepted:
            return  # it closes already; or waits for the app's answer, which will bring it here
        self.parting = True
        transport, state = self.transport, getattr(self, "conn", None)
        if hasattr(state, "close_rcvd"):
            self.transport = _Parting(transport, state)
            transport.resume_reading()  # uvicorn pauses it while the app has messages to take
            loop.call_later(GOODBYE_PATIENCE, transport.close)
        self.shutdown()  # type: ignore[attr-defined]


class _Parting:
    """A transport whose ``close`` waits for the peer's close frame; the rest is the transport's."""

    def __init__(self, transport: Any, state: Any) -> None:
        self._transport = transport
        self._state = state

    def close(self) -> None:
        if self._state.close_rcvd is not None:
            self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
