"""The worker's end of its control channel: what it tells the primary, and how it learns that it is to end."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import PeerError
from ..unix.stream import FdStream
from ..wire import messages, reports
from ..wire.channel import NATIVE, Channel, Received
from ..wire.conversation import Conversation
from ..wire.flights import WINDOW

#: The link of this process, for :mod:`clusterd.cluster`; ``None`` in a process that is no worker.
current: "Link | None" = None


class Link:
    """The control channel of this worker, on its event loop.

    Args:
        loop: the worker's loop.
        sock: the channel's socket, past ``go``.
        channel: the protocol's state so far.
        early: messages that came together with ``go``.
        worker, slot, pool, generation: who this worker is; the slot is -1 for a spare, until it has got one.

    Attributes:
        draining: set when the worker is to end: the primary asked, or is gone, or the worker itself wants to.
        primary_gone: the primary has died or has closed the channel.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        channel: Channel,
        early: list[Received],
        *,
        worker: int,
        slot: int,
        pool: str,
        generation: int,
    ) -> None:
        self.id = worker
        self.slot = slot
        self.pool = pool
        self.generation = generation
        self.draining = asyncio.Event()
        self.primary_gone = False
        self.exited_after_disconnect = False
        self._loop = loop
        self._listeners: list[Callable[[Any, int | None, str | None], None]] = []
        self._on_gone: list[Callable[[], None]] = []
        self._on_asked: list[Callable[[], None]] = []
        self._on_collect: Callable[[int], None] | None = None
        self._on_placed: list[Callable[[], None]] = []
        self._closed = False
        self._servers: dict[str, Callable[[int], bool]] = {}
        self._talk = Conversation(channel, self._received, self._broken)
        self._stream = FdStream(loop, sock, self._talk.data, self._eof, on_truncated=self._truncated)
        self._talk.attach(self._stream, self._soon)
        for message in early:
            self._received(message)

    # -- to the primary ------------------------------------------------------------------------------------------

    def online(self) -> None:
        """Node's ``online``: this process speaks. It says nothing of the app."""
        self._tell(messages.online(WINDOW))

    def listening(self, address: str | None, port: int, address_type: int, fd: int | None = None) -> None:
        """Node's ``listening``: this worker serves that address.

        Args:
            address: an IP address, a path, or ``None`` for any.
            port: -1 for a unix socket.
            address_type: 4, 6, or -1 for a unix socket.
        """
        self._tell(messages.listening(address=address, port=port, address_type=address_type, fd=fd))

    def ready(self) -> None:
        """All of the worker's listeners are served."""
        self._tell(messages.ready())

    def failed(self, stage: str, report: str) -> None:
        """The worker cannot become ready, and why; it ends after this.

        Args:
            stage: ``import``, ``lifespan`` …
            report: for people; cut if long.
        """
        self._tell(messages.failed(stage, report))

    def send(
        self,
        message: Any,
        fd: int | None = None,
        kind: str = NATIVE,
        details: Mapping[str, object] | None = None,
    ) -> bool:
        """Send a message of the app's; false says: slow down. ``fd`` is the link's from then on.

        Raises:
            TypeError, ValueError: it is nothing the channel can say, or too long.
        """
        return self._talk.send_in_row(message, fd, kind, details)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message of the cluster; of none that is closed."""
        self._tell(message)

    def ask(self, message: dict[str, Any], on_answer: Callable[[Received], None]) -> None:
        """Send a message of the cluster that is answered. A descriptor in the answer is the callee's."""
        if not self._closed:
            self._talk.ask(message, on_answer)

    def on_message(self, listener: Callable[[Any, int | None, str | None], None]) -> None:
        """Have ``listener(message, fd, kind)`` called with each message of the app's from the primary.

        A descriptor is the listener's; ``kind`` is what its sender says it is.
        """
        self._listeners.append(listener)

    def serve(self, key: str, server: Callable[[int], bool] | None) -> None:
        """Have ``server(fd)`` called with each connection of ``key`` that comes by channel; ``None``: no more.

        It says whether it will have the connection, which is its own then.
        """
        if server is None:
            self._servers.pop(key, None)
        else:
            self._servers[key] = server

    def _soon(self, function: Callable[[], None]) -> None:
        if self._loop.is_running():
            self._loop.call_soon(function)
        else:
            function()  # nobody knows when there will be a turn

    @property
    def connected(self) -> bool:
        """Whether the primary can be talked to."""
        return not (self._closed or self.primary_gone)

    @property
    def settled(self) -> bool:
        """Whether nothing waits to be sent, or to be acknowledged."""
        return self._talk.channel.settled and not self._stream.pending()

    def move(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on on another loop; to be called where neither runs, or from the new one."""
        if loop is not self._loop:
            self._loop = loop
            self._stream.move(loop)

    def on_primary_gone(self, listener: Callable[[], None]) -> None:
        """Have ``listener()`` called when the primary has died."""
        self._on_gone.append(listener)

    def on_asked(self, listener: Callable[[], None]) -> None:
        """Have ``listener()`` called when the primary asks this worker to end."""
        self._on_asked.append(listener)

    def on_collect(self, listener: Callable[[int], None]) -> None:
        """Have ``listener(round)`` called when the primary asks for the metrics that the app computes."""
        self._on_collect = listener

    def when_placed(self, listener: Callable[[], None]) -> None:
        """Have ``listener()`` called when this worker has its slot: now, or, of a spare, when it is given one."""
        if self.slot >= 0:
            listener()
        else:
            self._on_placed.append(listener)

    def leave(self) -> None:
        """End by own will: say so (Node's ``exitedAfterDisconnect``), then drain."""
        if not self.draining.is_set():
            self.exited_after_disconnect = True
            self._tell(messages.exited_after_disconnect())
            self.draining.set()

    def close(self) -> None:
        """Close the channel: the last word of a worker that has drained."""
        self._closed = True
        self._talk.close()

    # -- from the primary ----------------------------------------------------------------------------------------

    def _received(self, received: Received) -> None:
        if not received.internal:
            for listener in self._listeners:
                listener(received.message, received.fd, received.kind)
            if received.fd is not None and not self._listeners:
                os.close(received.fd)
            return
        try:
            message = messages.read(received.message) or reports.read(received.message)
        except PeerError:
            message = None  # an act of a later version with other fields: Node ignores what it does not know
        if isinstance(message, messages.NewConn) and received.fd is not None:
            self._newconn(message, received.fd)
            return
        if received.fd is not None:
            os.close(received.fd)
        if isinstance(message, messages.Disconnect):
            self.draining.set()
            for asked in self._on_asked:
                asked()
        elif isinstance(message, reports.Collect) and self._on_collect is not None:
            self._on_collect(message.round)
        elif isinstance(message, messages.Admit) and self.slot < 0:
            self.slot = message.slot
            for placed in self._on_placed:
                placed()

    def _newconn(self, message: messages.NewConn, fd: int) -> None:
        server = self._servers.get(message.key)
        accepted = server is not None and server(fd)
        if not accepted:
            os.close(fd)
        self._tell(messages.accepted(message.seq, accepted))

    def _truncated(self) -> None:
        """No number was left for a descriptor: its sender is told, and keeps it. An answer is not sent again for ever:
        who waits for one would wait for ever."""
        if self._talk.asking:
            self._loop.call_soon(self._gone)

    def _eof(self) -> None:
        self._gone()

    def _broken(self, error: PeerError) -> None:
        self._loop.call_soon(self._gone)

    def lost(self) -> None:
        """The primary has died: no more is heard of it, and this worker is to end."""
        self._gone()

    def _gone(self) -> None:
        if self._closed or self.primary_gone:
            return
        self.primary_gone = True
        for listener in self._on_gone:
            listener()
        self.draining.set()

    def _tell(self, message: dict[str, Any]) -> None:
        if not self._closed:
            self._talk.send(message)
