"""A worker that is a program of its own, started as Node's ``fork`` does: its streams, its channel, its exit."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto

from ..errors import HostError, PeerError
from ..unix import pidfd, spawn
from ..unix.stream import FdStream
from ..wire.channel import Channel, Received
from ..wire.codecs import Codec
from ..wire.conversation import Conversation


class Stdio(Enum):
    """What a descriptor of the program is to be, where it is not one of ours."""

    PIPE = auto()
    """One end of a pair of sockets, whose other end is ours; both ways."""
    IGNORE = auto()
    """/dev/null."""
    IPC = auto()
    """The channel."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started.

    Attributes:
        argv: the program and its arguments.
        env: its environment; the channel's variables are added.
        unique_id: the worker's number, ``NODE_UNIQUE_ID``.
        stdio: what its descriptors 0, 1, 2 … are to be; ``Stdio.IPC`` once.
        codec: how the channel's values are written.
        cwd, uid, gid: as of ``spawn``.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    unique_id: int
    stdio: Sequence[Stdio | int]
    codec: Codec
    cwd: str | None = None
    uid: int | None = None
    gid: int | None = None


class Program:
    """A program that was started.

    Args:
        loop: the primary's.
        launch: what to start.
        seq: the primary's count of messages.
        on_message: called with everything it says that answers nothing.
        on_hung_up: called once, when the channel is at its end or broken.
        on_exit: called once, with exit code and signal, of which one is ``None``.

    Attributes:
        pid: its pid.
        pipes: our ends of its ``Stdio.PIPE`` descriptors, by number; whoever uses one takes it out.

    Raises:
        OSError: it could not be started; the error of the system call that failed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        launch: Launch,
        seq: Iterator[int],
        *,
        on_message: Callable[[Received], None],
        on_hung_up: Callable[[], None],
        on_exit: Callable[[int | None, int | None], None],
    ) -> None:
        self.pipes: dict[int, socket.socket] = {}
        self._loop = loop
        self._on_hung_up = on_hung_up
        self._on_exit = on_exit
        self._hung_up = False
        with ExitStack() as theirs, ExitStack() as if_it_fails:
            near, fds, ipc = self._descriptors(launch, theirs, if_it_fails)
            child = _spawn(launch, fds, ipc)
            if_it_fails.pop_all()
        self.pid, self._pidfd = child
        self.talk = Conversation(Channel(seq=seq, codec=launch.codec), on_message, self._broken)
        self.stream = FdStream(loop, near, self.talk.data, self._end_of_file, on_truncated=lambda: None)
        self.talk.attach(self.stream, loop.call_soon)
        loop.add_reader(self._pidfd, self._ended)

    def _descriptors(
        self, launch: Launch, theirs: ExitStack, if_it_fails: ExitStack
    ) -> tuple[socket.socket, dict[int, int], int]:
        """Our end of the channel; what the program's descriptors are; which of them is the channel."""
        fds: dict[int, int] = {}
        ipc = -1
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        theirs.enter_context(far)
        if_it_fails.enter_context(near)
        for number, what in enumerate(launch.stdio):
            if what is Stdio.IPC:
                ipc, fds[number] = number, far.fileno()
            elif what is Stdio.IGNORE:
                fds[number] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                theirs.callback(os.close, fds[number])
            elif what is Stdio.PIPE:
                ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                theirs.enter_context(other)
                if_it_fails.enter_context(ours)
                ours.setblocking(False)
                self.pipes[number], fds[number] = ours, other.fileno()
            else:
                assert isinstance(what, int)
                fds[number] = what
        return near, fds, ipc

    # -- its end -------------------------------------------------------------------------------------------------

    def signal(self, number: int) -> bool:
        """Send a signal; false if it has ended.

        Raises:
            PermissionError: it runs as another user.
        """
        return self._pidfd >= 0 and pidfd.send_signal(self._pidfd, number)

    @property
    def hung_up(self) -> bool:
        """Whether the channel is at its end."""
        return self._hung_up

    def hang_up(self) -> None:
        """Close the channel; ``on_hung_up`` follows from the loop."""
        if not self._hung_up:
            self._hung_up = True
            self.talk.close()
            self._loop.call_soon(self._on_hung_up)

    def _end_of_file(self) -> None:
        self.hang_up()

    def _broken(self, error: PeerError) -> None:
        # It cannot be understood any more, and would not understand: it is ended as one that has lost its channel.
        self._loop.call_soon(self.hang_up)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.stream.read_now()  # what it said last
        try:
            status = pidfd.wait(self._pidfd)
        except ChildProcessError:  # somebody reaped it behind our back
            status = None
        os.close(self._pidfd)
        self._pidfd = -1
        self.hang_up()  # a child of its own may hold the other end for ever
        code, number = (None, int(signal.SIGKILL)) if status is None else (status.code, status.signal)
        self._loop.call_soon(self._on_exit, code, number)


def _spawn(launch: Launch, fds: dict[int, int], ipc: int) -> spawn.Child:
    plain = len(fds) == 4 and ipc == 3  # the number is free to choose, and only the channel is not 0, 1 or 2
    number = fds[ipc] if plain else ipc
    env = {**launch.env, "NODE_UNIQUE_ID": str(launch.unique_id), "NODE_CHANNEL_FD": str(number)}
    env["NODE_CHANNEL_SERIALIZATION_MODE"] = launch.codec.name
    try:
        return spawn.spawn(
            launch.argv,
            env=env,
            cwd=launch.cwd,
            user=launch.uid,
            group=launch.gid,
            pass_fds=(number,) if plain else (),
            placed=None if plain else {number: fd for number, fd in fds.items() if number > 2},
            own_group=False,
            stdin=fds.get(0),
            stdout=fds.get(1),
            stderr=fds.get(2),
        )
    except HostError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise OSError(str(error)) from error
