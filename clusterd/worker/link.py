"""The worker's end of its control channel: what it tells the primary, and how it learns that it is to end."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from ..errors import PeerError
from ..unix.stream import FdStream
from ..wire import messages
from ..wire.channel import Channel, Received
from ..wire.conversation import Conversation

#: The link of this process, for :mod:`clusterd.cluster`; ``None`` in a process that is no worker.
current: "Link | None" = None


class Link:
    """The control channel of this worker, on its event loop.

    Args:
        loop: the worker's loop.
        sock: the channel's socket, past ``go``.
        channel: the protocol's state so far.
        early: messages that came together with ``go``.
        worker, slot, pool, generation: who this worker is.

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
        self._listeners: list[Callable[[Any, int | None], None]] = []
        self._on_gone: list[Callable[[], None]] = []
        self._closed = False
        self._talk = Conversation(channel, self._received, self._broken)
        self._talk.attach(FdStream(loop, sock, self._talk.data, self._eof))
        for message in early:
            self._received(message)

    # -- to the primary ------------------------------------------------------------------------------------------

    def online(self) -> None:
        """Node's ``online``: this process speaks. It says nothing of the app."""
        self._tell(messages.online())

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

    def send(self, message: Any, fd: int | None = None) -> bool:
        """Send a message of the app's; false says: slow down.

        Raises:
            TypeError, ValueError: it is nothing JSON can say, or too long.
        """
        return self._talk.send(message, fd)

    def on_message(self, listener: Callable[[Any, int | None], None]) -> None:
        """Have ``listener(message, fd)`` called with each message of the app's from the primary."""
        self._listeners.append(listener)

    def on_primary_gone(self, listener: Callable[[], None]) -> None:
        """Have ``listener()`` called when the primary has died."""
        self._on_gone.append(listener)

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
                listener(received.message, received.fd)
            return
        try:
            message = messages.read(received.message)
        except PeerError:
            message = None  # an act of a later version with other fields: Node ignores what it does not know
        if isinstance(message, messages.Disconnect):
            self.draining.set()

    def _eof(self) -> None:
        self._gone()

    def _broken(self, error: PeerError) -> None:
        self._loop.call_soon(self._gone)

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
