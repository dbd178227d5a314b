"""A worker's process as the primary has it: Node's ``ChildProcess``."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import ChannelClosed
from ..wire.channel import Received
from . import settings
from .handles import Parcel, unpack
from .pipes import Pipe
from .worker import Peer

if TYPE_CHECKING:
    from ..primary.programs import Launch, Program

SETTLING = 0.01
"""Seconds between looks whether what was sent is on its way, when the channel is to be closed."""


class ChildProcess(Peer):
    """A worker's process.

    Events: ``message`` (message, handle), ``disconnect``, ``exit`` (code, signal), ``error`` (error).

    Args:
        loop: the primary's.
        on_internal: called with what it says that is no message of the app's.

    Attributes:
        killed: a signal was sent to it, successfully.
        stdin, stdout, stderr: our ends of its standard streams, where they are pipes; else ``None``.
        stdio: all of them, by number.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_internal: Callable[[Received], None]) -> None:
        super().__init__()
        self.killed = False
        self.stdio: list[Pipe | None] = []
        self._loop = loop
        self._on_internal = on_internal
        self._program: Program | None = None
        self._disconnected = False

    def start(self, launch: "Launch", seq: Iterator[int]) -> None:
        """Start it.

        Raises:
            PermissionError: uid or gid may not be changed.
        """
        from ..primary.programs import Program

        try:
            program = self._program = Program(
                self._loop,
                launch,
                seq,
                on_message=self._received,
                on_hung_up=self._hung_up,
                on_exit=self._exited,
            )
        except PermissionError:
            raise
        except OSError as error:
            # No such directory, no such interpreter: an event, as in Node, and never an exit.
            self._soon(self._not_started, error)
            return
        self.pid = program.pid
        self.stdio = [
            Pipe(self._loop, program.pipes[number]) if number in program.pipes else None
            for number in range(len(launch.stdio))
        ]

    def _not_started(self, error: OSError) -> None:
        self.exit_code = -(error.errno or 1)
        self.emit("error", error)
        self._soon(self._hung_up)  # after `fork`

    @property
    def program(self) -> "Program | None":
        """The process itself; ``None`` if it could not be started."""
        return self._program

    @property
    def stdin(self) -> Pipe | None:
        """What it reads."""
        return self.stdio[0] if self.stdio else None

    @property
    def stdout(self) -> Pipe | None:
        """What it prints."""
        return self.stdio[1] if len(self.stdio) > 1 else None

    @property
    def stderr(self) -> Pipe | None:
        """What it complains of."""
        return self.stdio[2] if len(self.stdio) > 2 else None

    # -- to it ---------------------------------------------------------------------------------------------------

    def _write(self, message: Any, parcel: Parcel | None) -> bool:
        assert self._program is not None
        if parcel is None:
            return self._program.talk.send_in_row(message)
        return self._program.talk.send_in_row(message, parcel.fd, parcel.kind, parcel.details)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message of the cluster; dropped if the channel is closed."""
        if self.connected and self._program is not None:
            self._program.talk.send(message)

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon(function, *arguments)

    def disconnect(self) -> None:
        """Close the channel, after what is on its way: the worker ends at once, with exit code 0."""
        if not self.connected:
            self._soon(self.emit, "error", ChannelClosed("IPC channel is already disconnected", "ERR_IPC_DISCONNECTED"))
            return
        self.connected = False
        self._close_when_settled()

    def _close_when_settled(self) -> None:
        program = self._program
        if program is None or program.hung_up:
            return
        if program.talk.channel.settled and not program.stream.pending():
            program.hang_up()
        else:
            self._loop.call_later(SETTLING, self._close_when_settled)

    def kill(self, signal: str | int = "SIGTERM") -> bool:
        """Send a signal; false if it has ended.

        Raises:
            ValueError: there is no such signal.
        """
        number = settings.signal_number(signal)
        try:
            sent = self._program is not None and self._program.signal(number)
        except PermissionError as error:
            self._soon(self.emit, "error", error)
            return False
        self.killed = self.killed or (sent and number != 0)
        return sent

    # -- from it -------------------------------------------------------------------------------------------------

    def _received(self, received: Received) -> None:
        if received.internal:
            self._on_internal(received)
        else:
            self.emit("message", received.message, unpack(received.fd))

    def _hung_up(self) -> None:
        self.connected = False
        if not self._disconnected:
            self._disconnected = True
            self.emit("disconnect")

    def _exited(self, code: int | None, number: int | None) -> None:
        self.exit_code, self.signal_code = code, settings.signal_name(number)
        self._hung_up()  # always before
        self.emit("exit", self.exit_code, self.signal_code)
