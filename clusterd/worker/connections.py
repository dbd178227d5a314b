"""All connections of a worker's HTTP engine: how one is taken in, and how they end when the worker drains."""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from ..wire.rows import REQUEST, Row
from .arrival import FAREWELL, Arrival, Complaints
from .library import ServerState, uvicorn
from .mailbox import Taken
from .options import PLAIN, Door
from .protocols import Message, WebSocket, begun, busy, extend, waiting
from .sockets import Lent

HEAD_PATIENCE: Final = 5.0
"""Seconds that a request which has begun to arrive when ``linger`` is over gets for the rest of its head."""

logger = logging.getLogger("clusterd")

EARLY: Final = 4 * 1024
"""Bytes read of a connection as it is taken."""

_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_OPEN: Final = int(Row.CONNECTIONS_OPEN)
_IN_FLIGHT: Final = int(Row.REQUESTS_IN_FLIGHT)
_BEFORE_CLASSES: Final = int(Row.REQUESTS_1XX) - 1
_CLOSE: Final = (b"connection", b"close")


class Open(set[Any]):
    """The connections: a set that keeps its size in the scoreboard, and says when it has become empty.

    Its ``add`` is the set's own, for uvicorn calls it once more for each connection that is there already: whoever adds
    one calls ``count``.
    """

    def __init__(self, words: memoryview, on_empty: Callable[[], object]) -> None:
        super().__init__()
        self._words = words
        self._on_empty = on_empty

    def count(self) -> None:
        """Write down how many they are."""
        self._words[_OPEN] = len(self)

    def discard(self, item: Any) -> None:
        """As ``set.discard``."""
        set.discard(self, item)
        self._words[_OPEN] = size = len(self)
        if not size:
            self._on_empty()

    remove = discard  # uvicorn's use of it never meets a KeyError


class Connections:
    """What is being served.

    Args:
        loop: the worker's.
        config: uvicorn's, loaded and found to fit; its protocol classes are extended.
        words: the worker's row of the scoreboard.
        watches: slow requests are looked for.
        linger: seconds, see :class:`clusterd.worker.options.HttpOptions`.

    Attributes:
        state: uvicorn's state of a server, shared by the connections.
        draining: each response is the last of its connection.
        changed: set whenever the last connection has ended.
        words: as given.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: uvicorn.Config,
        words: memoryview,
        linger: float,
        *,
        watches: bool = False,
    ) -> None:
        self.draining = False
        self.watches = watches
        self.changed = asyncio.Event()
        self.state = ServerState()
        self._open = self.state.connections = Open(words, self.changed.set)
        self._loop = loop
        self._config = config
        self.words = words
        self.observe = REQUEST.observer(words)
        self._linger = linger
        self._patient_until = 0.0
        self._free, self._bounded, self._arriving = extend(config, self)
        self._connecting: set[asyncio.Task[Any]] = set()
        self._stepping: list[tuple[socket.socket, Any, Coroutine[Any, Any, Any], asyncio.Future[Any]]] = []
        self._complaints = Complaints()
        self._make_transport: Callable[..., object] | None = getattr(loop, "_make_socket_transport", None)

    def adopt(self, sock: socket.socket, app_state: dict[str, Any], token: Taken, door: Door = PLAIN) -> None:
        """Serve a connection that was handed over.

        Args:
            sock: its socket.
            app_state: what the app's lifespan has left for its requests.
            token: told when the first byte is read.
            door: what comes before HTTP.

        Raises:
            OSError: asyncio cannot use this socket; it stays the caller's.
        """
        plain = door.plain
        kind = (self._bounded if token.bounded else self._free) if plain else self._arriving
        protocol = kind(config=self._config, server_state=self.state, app_state=app_state, _loop=self._loop)
        if plain:
            self._enter(sock, protocol, token)
        else:
            self._let_arrive(sock, protocol, token, door)
        if self.draining:
            self.let_linger(protocol)

    @property
    def welcoming(self) -> bool:
        """The loop is one that closes descriptors by itself: uvloop."""
        return self._make_transport is None

    def welcome(self, app_state: dict[str, Any], fd: int, family: int) -> None:
        """Serve a connection that comes plain, owes nothing and was accepted here, where ``welcoming``.

        It is :meth:`adopt` without its questions: 4 us of 65 for a connection with one request. The descriptor is its
        own, also if it raises.
        """
        try:
            protocol = self._free(config=self._config, server_state=self.state, app_state=app_state, _loop=self._loop)
        except BaseException:
            os.close(fd)
            raise
        self._open.add(protocol)
        self.words[_OPEN] = len(self._open)
        lent: Any = Lent(fd, family)
        self._step_in(lent, protocol, self._loop.connect_accepted_socket(lambda: protocol, lent))
        if self.draining:
            self.let_linger(protocol)

    def _enter(self, sock: socket.socket, protocol: Any, token: Taken) -> None:
        """The next byte is HTTP's."""
        if token.bounded:  # to read at once frees its place; else the try costs more than the turn that it spares
            try:
                early = sock.recv(EARLY, _DONTWAIT)
            except OSError:
                early = b""  # nothing yet; or a fault, which the transport will find
            if early:
                token.read()
                protocol.early = early
            else:
                protocol.token = token
        # connection_made does so too, but a turn later, and a drain may look in between.
        self._open.add(protocol)
        self.words[_OPEN] = len(self._open)  # its ``count``, without the call
        if self._make_transport is not None:
            # asyncio's own step behind connect_accepted_socket, without the task and the future around it: 10 us less.
            try:
                sock.setblocking(False)  # uvloop does it by itself
                self._make_transport(sock, protocol)
            except BaseException:
                self.state.connections.discard(protocol)
                raise
        else:
            self._step_in(sock, protocol, self._loop.connect_accepted_socket(lambda: protocol, sock))

    def _step_in(self, sock: socket.socket, protocol: Any, coming: Coroutine[Any, Any, Any]) -> None:
        """uvloop's way in, which is a coroutine of one step: done here and now, a task would take it a turn later.

        To be told when ``connection_made`` was called would cost each connection one more turn of the loop: those that
        came before are seen to instead.
        """
        if self._stepping:
            self._have_stepped_in()
        try:
            made = coming.send(None)
        except StopIteration:
            return
        except BaseException:
            self.state.connections.discard(protocol)
            raise
        self._stepping.append((sock, protocol, coming, made))

    def _have_stepped_in(self) -> None:
        """What is behind the coroutines' one ``await`` is their end, or the failure."""
        stepping, self._stepping = self._stepping, []
        for step in stepping:
            sock, protocol, coming, made = step
            if not made.done():
                self._stepping.append(step)
                continue
            try:
                coming.send(None)
            except StopIteration:
                continue
            except Exception as error:
                self._failed(sock, protocol, PLAIN, error)

    def _let_arrive(self, sock: socket.socket, protocol: Any, token: Taken, door: Door) -> None:
        """A proxy's header or TLS come first."""

        def enter(patience: float) -> None:
            if door.tls is None:
                protocol.arrival = None
                try:
                    self._enter(sock, protocol, token)
                except OSError:
                    fail("")
                return
            protocol.certificate = door.certificate
            coming = self._loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=door.tls,
                ssl_handshake_timeout=patience,
                ssl_shutdown_timeout=FAREWELL,
            )
            arrival.abort = self._connect(sock, protocol, door, coming)

        def fail(why: str) -> None:
            if why:
                self._complaints.tell(door.listener, why)
            token.read()
            self.state.connections.discard(protocol)
            sock.close()

        sock.setblocking(False)
        self._open.add(protocol)
        self._open.count()
        arrival = Arrival(self._loop, sock, door, token, protocol, enter, fail)
        protocol.arrival = arrival
        arrival.go()

    def _connect(
        self, sock: socket.socket, protocol: Any, door: Door, coming: Coroutine[Any, Any, Any]
    ) -> Callable[[], object]:
        """Wait for the transport; returns what calls that off."""
        task = self._loop.create_task(coming)
        self._connecting.add(task)
        task.add_done_callback(partial(self._connected, sock, protocol, door))
        return task.cancel

    def _connected(self, sock: socket.socket, protocol: Any, door: Door, task: asyncio.Task[Any]) -> None:
        self._connecting.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._failed(sock, protocol, door, error)

    def _failed(self, sock: socket.socket, protocol: Any, door: Door, error: BaseException) -> None:
        protocol.free()
        self.state.connections.discard(protocol)
        sock.close()
        if isinstance(error, ssl.SSLError):
            self._complaints.tell(door.listener, f"TLS: {error.reason or error}")
            return
        if isinstance(error, asyncio.CancelledError):
            return
        if not isinstance(error, OSError):  # one that was gone before it was here is no news
            logger.error("a connection could not be served", exc_info=error)

    def upgraded(self) -> None:
        """A connection has become another kind of connection."""
        self._open.count()

    def count(self, status: int) -> None:
        """A response has begun."""
        if 100 <= status <= 599:
            self.words[_BEFORE_CLASSES + status // 100] += 1

    def sample(self) -> None:
        """Once a second: write down how many requests are in flight, which at each request would cost it 0.3 us, and
        let go of the connections that have come in."""
        self.words[_IN_FLIGHT] = len(self.state.tasks)
        self._have_stepped_in()

    # -- the end -------------------------------------------------------------------------------------------------

    async def drain(self, coming: Callable[[], bool]) -> None:
        """Have every connection end kindly, beginning now; returns when none and no task of a request is left.

        Args:
            coming: whether more connections may come; ``changed`` is to be set when that changes.

        ``Connection: close`` is put into the response itself and not into uvicorn's default headers: those get into
        the handshake of a WebSocket too, and only into responses whose request has yet to come.
        """
        self.draining = True
        self._patient_until = self._loop.time() + self._linger
        for protocol in list(self.state.connections):
            cycle = getattr(protocol, "cycle", None)
            if cycle is not None and cycle.response_started and not cycle.response_complete:
                self._linger_after(cycle, protocol)  # its client has been told that it may send more
        self._loop.call_later(self._linger, self._expire_all)
        while coming() or self.state.connections or self.state.tasks:
            if coming() or self.state.connections:
                self.changed.clear()
                await self.changed.wait()
            else:  # what an app does after its responses, or after its client went away
                await asyncio.wait(self.state.tasks)
        self.sample()

    def closing(self, cycle: Any, message: Message) -> Message:
        """The start of a response while draining: the last of its connection, if it can be.

        Closing a socket that has unread data is a reset, which can take the response away from its client: while more
        waits, a pipelined request or the rest of a body, the connection stays.
        """
        protocol = cycle.on_response.__self__  # uvicorn's cycle knows its protocol by this method only
        if cycle.more_body or (self._loop.time() < self._patient_until and _more(protocol)):
            self._linger_after(cycle, protocol)
            return message
        return {**message, "headers": [*message.get("headers", ()), _CLOSE]}

    def let_linger(self, protocol: Any) -> None:
        """Nothing is under way on this connection: close it in ``linger`` seconds if that is still so."""
        self._loop.call_later(self._linger, self._expire, protocol)

    def _linger_after(self, cycle: Any, protocol: Any) -> None:
        """This response does not end its connection: when it is complete, the client gets ``linger``."""
        on_response = cycle.on_response

        def lingering() -> None:
            on_response()
            self.let_linger(protocol)

        cycle.on_response = lingering

    def _expire_all(self) -> None:
        for protocol in list(self.state.connections):
            self._expire(protocol)

    def _expire(self, protocol: Any, last: bool = False) -> None:
        """End a connection on which nothing is under way; one that is busy ends by itself."""
        if protocol not in self.state.connections:
            return
        arrival: Arrival | None = getattr(protocol, "arrival", None)
        if arrival is not None:
            self._expire_arrival(protocol, arrival, last)
        elif protocol.transport is None:  # it is being taken in, which is a matter of a turn
            self._loop.call_soon(self._expire, protocol)
        elif protocol.transport.is_closing():
            return
        elif isinstance(protocol, WebSocket):
            protocol.say_goodbye(self._loop)
        elif not busy(protocol):
            if not last and (begun(protocol) or waiting(protocol)):
                self._loop.call_later(HEAD_PATIENCE, self._expire, protocol, True)
            else:
                protocol.shutdown()

    def _expire_arrival(self, protocol: Any, arrival: Arrival, last: bool) -> None:
        """It has not come as far as HTTP: one that has begun may get there yet, and send its request."""
        if not last and arrival.begun:
            self._loop.call_later(HEAD_PATIENCE, self._expire, protocol, True)
        elif arrival.abort is not None:
            arrival.abort()
        else:
            arrival.stop("")


def _more(protocol: Any) -> bool:
    """The client has sent more than the request that is being answered."""
    return bool(getattr(protocol, "pipeline", None)) or begun(protocol) or waiting(protocol)
