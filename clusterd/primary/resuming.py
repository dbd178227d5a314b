"""What all parts of a handover have in common: sockets, rotations and conversations, written down and taken up."""

import socket
from collections.abc import Iterable

from ..errors import HostError
from ..unix import local
from ..unix.mail import Mail
from ..unix.stream import FdStream
from ..wire import suspended
from ..wire.conversation import Conversation
from .box import Box
from .dispatch import Dispatch
from .handed import SocketState
from .listeners import Opened
from .shared import Shared


def describe(opened: Opened, queue: Dispatch | Shared | None) -> SocketState:
    """A listening socket, and what has been accepted from it and is held yet."""
    bound = opened.bound
    device, inode = (bound.file if bound is not None else None) or (0, 0)
    return SocketState(
        fd=opened.sock.fileno(),
        path=bound.path if bound is not None else "",
        device=device,
        inode=inode,
        inherited=opened.inherited,
        held=queue.held if isinstance(queue, Dispatch) else (),
        name=queue.name if queue is not None else "",
        shared=isinstance(queue, Shared),
    )


def own(state: SocketState) -> tuple[socket.socket, local.Bound | None]:
    """A listening socket, and its file if it has one.

    Raises:
        HostError: it is not open.
    """
    try:
        sock = socket.socket(fileno=state.fd)
        sock.setblocking(False)
    except OSError as error:
        raise HostError(f"descriptor {state.fd} was left and is no socket: {error.strerror}") from None
    if not state.path:
        return sock, None
    return sock, local.Bound(sock, state.path, (state.device, state.inode) if state.inode else None)


def opened(state: SocketState) -> Opened:
    """The listening socket, ours again.

    Raises:
        HostError: it is not open.
    """
    return Opened(*own(state), state.inherited)


def turns(dispatch: Dispatch) -> dict[int, int]:
    """Worker to place in the rotation; 0 is the next in turn."""
    return {box.worker: place for place, box in enumerate(dispatch.in_turn())}


def rejoin(dispatch: Dispatch, boxes: Iterable[tuple[int, Box]]) -> None:
    """The rotation as it stood: each box with its place, -1 is none."""
    for turn, box in sorted(boxes, key=lambda entry: entry[0]):
        if turn >= 0:
            dispatch.add(box)
    dispatch.thief.arm()


def hand_on(dispatch: Dispatch, left: SocketState) -> None:
    """What a predecessor of this process had accepted and handed to nobody comes first."""
    dispatch.reclaim([Mail(payload, fd, False) for payload, fd in left.held])


def take_up(talk: Conversation, stream: FdStream, left: suspended.Suspended) -> None:
    """Go on with a conversation where a predecessor of this process has left it."""
    suspended.take_up(talk, left)
    for piece in left.unsent:
        stream.take_up(piece.data, piece.fds)
