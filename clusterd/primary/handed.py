"""The parts of a handover (:mod:`.handover`): what each thing of a primary's is made of again."""

from collections.abc import Iterable
from typing import Protocol

import msgspec


class Holds(Protocol):
    """What names descriptors."""

    def descriptors(self) -> set[int]: ...


def united(sets: Iterable[set[int]]) -> set[int]:
    """All that is in any of them."""
    return set().union(*sets)


class BoxState(msgspec.Struct, omit_defaults=True):
    """A mailbox: both of its ends, -1 is none; the rest as a :class:`~.box.Box` has it.

    Attributes:
        turn: its place in its listener's rotation, -1 if not in it; 0 is the next in turn.
        number: as of ``believe``.
    """

    writing: int
    reading: int
    handed: int = 0
    turn: int = -1
    steal_after: float = 0.0
    posted: tuple[float, ...] = ()
    taken_at: float = 0.0
    robbed: bool = False
    number: int = -1


class OutputState(msgspec.Struct, omit_defaults=True):
    """A pipe that a worker prints to, and the beginning of a line that has been read."""

    fd: int
    stream: str
    partial: bytes = b""


class SocketState(msgspec.Struct, omit_defaults=True):
    """A listening socket, and of a unix socket its file.

    Attributes:
        inherited: the service manager holds it too.
        held: connections that were accepted and handed to nobody yet, with what goes with each.
        name: of who hands its connections on, where that is not clear.
        shared: workers accept by themselves.
    """

    fd: int
    path: str = ""
    device: int = 0
    inode: int = 0
    inherited: bool = False
    held: tuple[tuple[bytes, int], ...] = ()
    name: str = ""
    shared: bool = False

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        return {self.fd, *(fd for _, fd in self.held)}


class NewconnState(msgspec.Struct, omit_defaults=True):
    """Connections on their way to a worker without a mailbox: number, what goes with it, and our copy, of each."""

    answered: int = 0
    flying: tuple[tuple[int, bytes, int], ...] = ()


class SeatState(msgspec.Struct, omit_defaults=True):
    """A worker's place at a server; neither box nor connections on their way where it has the socket itself.

    Attributes:
        left: it has been asked to go: only what is on its way is still its own.
    """

    worker: int
    box: BoxState | None = None
    newconn: NewconnState | None = None
    left: bool = False


class ServerState(msgspec.Struct, omit_defaults=True):
    """A server that workers of a script pool have asked for.

    Attributes:
        key: its name on the wire; ``name``: for people.
        in_turn: the primary accepts, and hands over.
        data: what its first worker gave for all, in JSON.
    """

    key: str
    name: str
    sock: SocketState
    in_turn: bool = True
    data: bytes = b"null"
    seats: tuple[SeatState, ...] = ()

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        found = self.sock.descriptors()
        for seat in self.seats:
            if seat.box is not None:
                found |= {seat.box.writing, seat.box.reading}
            if seat.newconn is not None:
                found |= {fd for _, _, fd in seat.newconn.flying}
        return found
