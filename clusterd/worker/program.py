"""A worker that is a program of its own: it finds its channel in its environment, as Node's do."""

import asyncio
import os
import socket
import sys
import threading
from dataclasses import dataclass

from ..errors import AppError
from ..unix.scoreboard import WORD, Board
from ..wire import rows, series
from ..wire.channel import Channel
from ..wire.codecs import ADVANCED, JSON
from . import stacks, values
from .appmetrics import Collecting, install
from .beat import Beat
from .link import Link


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a worker is given.

    Attributes:
        id: its number.
        sock: its end of the channel.
        channel: the protocol's state.
        board: the worker's row of the scoreboard, of a pool's worker.
        stacks: the file for its stacks, of a pool's worker, else -1.
        collecting: likewise, what of the app's metrics must be asked for.
    """

    id: int
    sock: socket.socket
    channel: Channel
    board: Board | None = None
    collecting: Collecting | None = None
    stacks: int = -1

    @property
    def words(self) -> memoryview | None:
        """The row itself."""
        return None if self.board is None else self.board.words

    def beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say once a second that the loop turns, and show its stacks when asked; to be called from it."""
        if self.stacks >= 0 and threading.current_thread() is threading.main_thread():
            stacks.arm(self.stacks, loop)
        if self.board is not None and self.collecting is not None:
            Beat(loop, self.board, self.collecting.look).start()

    def link(self, loop: asyncio.AbstractEventLoop) -> Link:
        """The channel, on a loop."""
        env = os.environ
        slot, generation = env.get("CLUSTERD_SLOT", "0"), env.get("CLUSTERD_GENERATION", "0")
        link = Link(
            loop,
            self.sock,
            self.channel,
            [],
            worker=self.id,
            slot=int(slot) if slot.isdecimal() else 0,
            pool=env.get("CLUSTERD_POOL", ""),
            generation=int(generation) if generation.isdecimal() else 0,
        )
        if self.collecting is not None:
            self.collecting.connect(loop, link)
        return link


def inherit() -> Inherited | None:
    """Take the channel out of the environment, so that a child of this process does not find it.

    Returns:
        ``None`` if this process is no worker.

    Raises:
        AppError: it is one of a primary that speaks another serialization.
    """
    unique = os.environ.pop("NODE_UNIQUE_ID", "")
    if not unique:
        return None
    number = os.environ.pop("NODE_CHANNEL_FD", "")
    mode = os.environ.pop("NODE_CHANNEL_SERIALIZATION_MODE", JSON.name)
    if mode == "advanced":
        raise AppError(
            "this worker's primary is a Node program with serialization 'advanced', which is V8's own format; leave"
            " that setting out there: 'json' is what Node and Python have in common"
        )
    if mode not in (JSON.name, ADVANCED.name):
        raise AppError(f"this worker's primary uses serialization {mode!r}; 'json' was expected")
    try:
        fd = int(number)
        sock = socket.socket(fileno=fd)
    except (ValueError, OSError):
        raise AppError(f"NODE_UNIQUE_ID is set, but NODE_CHANNEL_FD ({number!r}) is no channel") from None
    sock.set_inheritable(False)
    channel = Channel(codec=ADVANCED if mode == ADVANCED.name else JSON)
    board = _board()
    collecting = None if board is None else _own_metrics(board)
    return Inherited(int(unique) if unique.isdecimal() else 0, sock, channel, board, collecting, _stacks())


def _stacks() -> int:
    number = os.environ.pop("CLUSTERD_STACKS_FD", "")
    if not number.isdecimal():
        return -1
    os.set_inheritable(int(number), False)
    return int(number)


def _board() -> Board | None:
    number = os.environ.pop("CLUSTERD_BOARD_FD", "")
    if not number.isdecimal():
        return None
    try:
        board = Board.attach(int(number), series.SIZE // WORD, writable=True)
    except (OSError, ValueError):
        return None
    os.close(int(number))
    board.words[rows.Row.VERSION] = rows.VERSION
    return board


def _own_metrics(board: Board) -> Collecting:
    """The program's own metrics, of those that it makes from now on."""
    left_alone = install()
    if left_alone:
        sys.stderr.write(f"clusterd: {left_alone}\n")
    return Collecting(values.attach(board.bytes))
