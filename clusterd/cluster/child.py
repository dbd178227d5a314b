"""The worker's side of ``cluster``: what it shares, what it hears, and how it ends."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ChannelClosed
from ..wire import messages
from ..worker import ending
from ..worker.link import Link
from ..worker.sharing import Shares
from .handles import Parcel, unpack
from .worker import Peer, Worker

T = TypeVar("T")

SETTLING = 0.01
"""Seconds between looks whether what was sent is on its way, when the channel is to be closed."""

POLITE = 10.0
"""Seconds that a server gets to end which sees to its own end."""

PATIENCE = 5.0
"""Seconds that what was sent gets to be on its way, when this process is about to end."""


class IpcChannel:
    """``cluster.process.channel``: whether it keeps an idle worker alive."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.holds = True

    def ref(self) -> None:
        """It does; so it is at first."""
        self.holds = True

    def unref(self) -> None:
        """It does not: ``cluster.run()`` returns when the last server is closed."""
        self.holds = False
        self._on_change()


class Process(Peer):
    """This process, as its own ``cluster.process``: the primary is at the other end."""

    def __init__(self, child: "Child", channel: IpcChannel) -> None:
        super().__init__()
        self.pid = os.getpid()
        self.channel = channel
        self._child = child

    def _write(self, message: Any, parcel: Parcel | None) -> bool:
        child = self._child
        if child.threaded and asyncio._get_running_loop() is None:  # another thread has the channel
            asked = asyncio.run_coroutine_threadsafe(self._write_there(message, parcel), child.loop())
            return asked.result()
        return self._write_now(message, parcel)

    async def _write_there(self, message: Any, parcel: Parcel | None) -> bool:
        return self._write_now(message, parcel)

    def _write_now(self, message: Any, parcel: Parcel | None) -> bool:
        link = self._child.link
        if parcel is None:
            return link.send(message)
        return link.send(message, parcel.fd, parcel.kind, parcel.details)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        self._child.loop().call_soon_threadsafe(function, *arguments)

    def disconnect(self) -> None:
        """Close the channel at once: the process ends, with exit code 0."""
        if not self.connected:
            self._soon(self.emit, "error", ChannelClosed("IPC channel is already disconnected", "ERR_IPC_DISCONNECTED"))
            return
        self.connected = False
        self._child.hang_up()

    def kill(self, signal: str | int = "SIGTERM") -> bool:
        """Send this process a signal."""
        from .settings import signal_number

        ending.signal_myself(signal_number(signal))
        return True


class Child:
    """This process as a worker.

    Args:
        link: its channel.
        loop: gives the loop that it is on.
        managed: it serves an application for a pool, and is ended by who does that.

    Attributes:
        worker: ``cluster.worker``.
        process: ``cluster.process``.
        shares: what it shares.
        threaded: the loop runs in a thread, beside a program that has none.
        on_running: called with the loop when it begins to run.
    """

    def __init__(self, link: Link, loop: Callable[[], asyncio.AbstractEventLoop], *, managed: bool = False) -> None:
        self.link = link
        self.loop = loop
        self.threaded = False
        self.on_running: Callable[[asyncio.AbstractEventLoop], None] = lambda loop: None
        self.shares = Shares(link)
        self.shares.on_change = self._look
        self._managed = managed
        self._gone: asyncio.Event | None = None
        self._ended = False
        self._polite = False
        self._tries = 0
        self.process = Process(self, IpcChannel(self._look))
        self.worker = Worker(id=link.id, state="online", process=self.process)
        self.worker._actions = self
        link.on_message(self._message)
        link.on_primary_gone(self._primary_gone)
        link.on_asked(self._asked)

    # -- what the primary says -----------------------------------------------------------------------------------

    def _message(self, message: Any, fd: int | None, kind: str | None) -> None:
        self.process.emit("message", message, unpack(fd))

    def _asked(self) -> None:
        """The primary wants it to end. Asked again, it is about to."""
        if self._managed or self.worker.exited_after_disconnect:
            return
        self.worker.exited_after_disconnect = True
        self._close_servers(self._settle)

    def _primary_gone(self) -> None:
        if not self._managed:
            self._disconnected()

    # -- how it ends ---------------------------------------------------------------------------------------------

    def disconnect(self, worker: Worker) -> None:
        """As :meth:`Worker.disconnect`, of this worker's own will."""
        if self._managed:
            self.link.leave()
            return
        if worker.state in ("disconnecting", "destroying") or worker.exited_after_disconnect:
            return
        worker.state = "disconnecting"
        worker.exited_after_disconnect = True
        # The answer is waited for: the primary knows that it is meant before it sees the channel close.
        self._close_servers(lambda: self._announce(self._settle))

    def kill(self, worker: Worker, signal: str | int) -> None:
        """As :meth:`Worker.kill`, of this worker's own will: connections are cut."""
        if worker.state == "destroying":
            return
        worker.exited_after_disconnect = True
        if not self.process.connected:
            self._exit()
        else:
            worker.state = "destroying"
            self._announce(self._settle)

    def _close_servers(self, then: Callable[[], None]) -> None:
        self.shares.close(then)
        # A server that sees to its own end, as uvicorn, Hypercorn and aiohttp's runner do, is told to by SIGTERM: it
        # knows which of its connections are idle, which nobody else does.
        self._polite = ending.ask_politely()

    def _announce(self, then: Callable[[], None]) -> None:
        if self.link.connected:
            self.link.ask(messages.exited_after_disconnect(), lambda received: then())

    def hang_up(self) -> None:
        """Close the channel, after what is on its way."""
        self._settle()

    def _settle(self) -> None:
        self.process.connected = False
        self._tries += 1
        if self.link.settled or not self.link.connected or self._tries * SETTLING > PATIENCE:
            self.link.close()
            self.loop().call_soon(self._disconnected)
        else:
            self.loop().call_later(SETTLING, self._settle)

    def _disconnected(self) -> None:
        if self._ended:
            return
        self._ended = True
        self.process.connected = False
        meant = self.worker.exited_after_disconnect
        self.worker.emit("disconnect")
        if not meant or self.worker.state == "destroying":
            self._exit()
        self.process.emit("disconnect")
        if self.threaded and not self.shares.servers:
            self._exit()
        self._look()

    def _exit(self) -> None:
        if self.threaded:
            ending.at_once(0)
        raise SystemExit(0)

    # -- running -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self.threaded and self._ended and not self.shares.servers:
            self._exit()
        if self._gone is not None and (self._ended or self._idle):
            self._gone.set()

    @property
    def _idle(self) -> bool:
        return not self.process.channel.holds and not self.shares.holding

    async def live(self, main: Coroutine[Any, Any, T] | None) -> T | None:
        """Run ``main`` until it ends, or until the channel has closed as it was meant to; without one, until then."""
        self._gone = asyncio.Event()
        on_running, self.on_running = self.on_running, lambda loop: None
        on_running(asyncio.get_running_loop())
        self._look()
        gone = asyncio.ensure_future(self._gone.wait())
        if main is None:
            await gone
            return None
        task = asyncio.ensure_future(main)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a sys.exit in it is no news
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._ended and self._polite:
                await asyncio.wait((task,), timeout=POLITE)
            if not task.done() and self._ended:
                task.cancel()
            return await self._end_of(task)
        finally:
            gone.cancel()

    async def _end_of(self, task: "asyncio.Future[T]") -> T | None:
        try:
            result = await task
        except asyncio.CancelledError:
            # A server that is closed cancels who waits in its `serve_forever`: that is how such a program ends.
            if not self.worker.exited_after_disconnect:
                raise
            result = None
        if self.worker.exited_after_disconnect and not self._ended:
            assert self._gone is not None
            await self._gone.wait()
        return result

    @property
    def ending(self) -> bool:
        """It is to end, because it was asked to or wants to."""
        return bool(self.worker.exited_after_disconnect)

    def close(self) -> None:
        """The program has ended by itself: the channel closes after what is on its way."""
        self.link.close()
