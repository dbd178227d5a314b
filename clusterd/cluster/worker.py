"""One worker, as both sides see it; and what ``worker.process`` is the same of on both."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..errors import ChannelClosed
from .emitter import Emitter
from .handles import Handle, Parcel, pack

Callback = Callable[[Exception | None], object]
"""Called when a message was written, with ``None``, or with what prevented it."""


class Peer(Emitter):
    """A process at the other end of a channel: what Node's ``ChildProcess`` and ``process`` have in common.

    Attributes:
        pid: its pid; ``None`` if it could not be started.
        connected: whether messages can be sent.
        exit_code: how it ended; ``None`` while it runs, or if a signal ended it.
        signal_code: the name of the signal that ended it, ``SIGTERM``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pid: int | None = None
        self.connected = True
        self.exit_code: int | None = None
        self.signal_code: str | None = None

    def send(
        self,
        message: Any,
        handle: Handle | None = None,
        *,
        keep_open: bool = False,
        callback: Callback | None = None,
    ) -> bool:
        """Send a message, and a socket with it.

        Args:
            message: what JSON can say; with ``serialization="advanced"`` also cycles, sets, bytes, dates.
            handle: a connection, which the sender loses; or a listening or datagram socket, which it keeps.
            keep_open: it keeps the connection too.
            callback: called when it was written, with ``None``; or with an error. Without one that is an ``error``
                event.

        Returns:
            False: slow down, much is unsent. The message goes all the same, unless the channel is closed.

        Raises:
            TypeError: the message, or the handle, is nothing that can be sent.
            ValueError: it is too long.
        """
        if not self.connected:
            self._failed(ChannelClosed(), callback)
            return False
        parcel = pack(handle, keep_open)
        more = self._write(message, parcel)
        if callback is not None:
            self._soon(callback, None)
        return more

    def _failed(self, error: Exception, callback: Callback | None) -> None:
        if callback is not None:
            self._soon(callback, error)
        else:
            self._soon(self.emit, "error", error)

    def _write(self, message: Any, parcel: Parcel | None) -> bool:
        raise ChannelClosed

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    def disconnect(self) -> None:
        """Close the channel."""

    def kill(self, signal: str | int = "SIGTERM") -> bool:
        """Send a signal to the process; false if it has ended."""
        return False


class Actions(Protocol):
    """What differs between a worker seen from the primary and from itself."""

    def disconnect(self, worker: "Worker") -> None: ...
    def kill(self, worker: "Worker", signal: str | int) -> None: ...


class Worker(Emitter):
    """A worker: in the primary one of ``cluster.workers``, in the worker itself ``cluster.worker``.

    Events: ``online``, ``listening`` (address), ``message`` (message, handle), ``disconnect``, ``exit`` (code, signal),
    ``error`` (error).

    Attributes:
        id: counts up from 1 in the primary, and is never used twice.
        process: the process: ``pid``, ``connected``, ``exit_code``, ``signal_code``, ``stdin`` …
        state: ``none``, ``online``, ``listening``, ``disconnected``, ``dead``; in the worker also ``disconnecting``,
            ``destroying``.
        exited_after_disconnect: whether it ended because it was meant to; ``None`` until that is known.
    """

    def __init__(
        self, options: Mapping[str, Any] | None = None, *, id: int = 0, state: str = "none", process: Any = None
    ) -> None:
        super().__init__()
        options = options or {}
        self.id = int(options.get("id", id) or 0)
        self.state = str(options.get("state", state) or "none")
        self.process: Any = options.get("process", process)
        self.exited_after_disconnect: bool | None = None
        self._actions: Actions | None = None
        if isinstance(self.process, Peer):
            self.process.on("error", lambda error: self.emit("error", error))
            self.process.on("message", lambda message, handle: self.emit("message", message, handle))

    def __repr__(self) -> str:
        return f"<Worker {self.id} {self.state}>"

    def send(
        self,
        message: Any,
        handle: Handle | None = None,
        *,
        keep_open: bool = False,
        callback: Callback | None = None,
    ) -> bool:
        """Send a message to the other side; see :meth:`Peer.send`."""
        return bool(self.process.send(message, handle, keep_open=keep_open, callback=callback))

    def disconnect(self) -> "Worker":
        """Have it close its servers, let connections end, close the channel, and so end. Harmless when repeated."""
        if self._actions is not None:
            self._actions.disconnect(self)
        return self

    def kill(self, signal: str | int = "SIGTERM") -> None:
        """In the primary: send the signal. In the worker: end now, with exit code 0, as one that was meant to.

        Raises:
            ValueError: there is no such signal.
        """
        if self._actions is not None:
            self._actions.kill(self, signal)

    def destroy(self, signal: str | int = "SIGTERM") -> None:
        """As ``kill``."""
        self.kill(signal)

    def is_connected(self) -> bool:
        """Whether messages can be sent."""
        return bool(self.process is not None and self.process.connected)

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        process = self.process
        return process is not None and (process.exit_code is not None or process.signal_code is not None)
