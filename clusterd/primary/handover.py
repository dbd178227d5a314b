"""What a primary leaves to its successor in the same process: a document that names its descriptors, and its reading.

A descriptor stays open under its number over execve(2), so a number says all. Everything has a default: what another
version of clusterd has written is read as far as it goes.
"""

import os
from typing import Any, Final

import msgspec

from ..config.load import Loaded
from ..config.schema import Config
from ..errors import ClusterdError
from ..unix import memfile
from ..wire.tls import Material

VERSION: Final = 2
"""Of the document. A successor reads its own and older ones."""

VARIABLE: Final = "CLUSTERD_UPGRADE"
"""Names the descriptor of the document in the successor's environment."""


BACK: Final = "CLUSTERD_UPGRADE_BACK"
"""Has the words, in JSON, that run the old code: a successor that fails becomes that, once. Without it, it is that."""


class HandoverError(ClusterdError):
    """The state of a running primary cannot be handed on, or not be taken over."""


class BoxState(msgspec.Struct, omit_defaults=True):
    """A mailbox: both of its ends, and its place in its listener's rotation, -1 if not in it; 0 is the next in turn."""

    writing: int
    reading: int
    handed: int = 0
    turn: int = -1
    steal_after: float = 0.0


class OutputState(msgspec.Struct, omit_defaults=True):
    """A pipe that a worker prints to, and the beginning of a line that has been read."""

    fd: int
    stream: str
    partial: bytes = b""


class ChildState(msgspec.Struct, omit_defaults=True):
    """A worker's process."""

    id: int
    pool: str
    slot: int
    generation: int
    pid: int
    pidfd: int
    channel: int
    board: int
    stacks: int
    unread: bytes = b""
    boxes: dict[str, BoxState] = {}
    shared: tuple[str, ...] = ()
    admitted: bool = False
    notified: int = -1
    online: bool = True
    ready: bool = False
    draining: bool = False
    outputs: tuple[OutputState, ...] = ()
    last_lines: tuple[str, ...] = ()


class SocketState(msgspec.Struct, omit_defaults=True):
    """A listening socket, and of a unix socket its file.

    Attributes:
        inherited: the service manager holds it too.
    """

    fd: int
    path: str = ""
    device: int = 0
    inode: int = 0
    inherited: bool = False


class Handover(msgspec.Struct, omit_defaults=True):
    """The whole.

    Attributes:
        clusterd: the version that wrote it.
        pid: whose it is.
        config_sha256: of the configuration that is in force.
        config: that itself: what the file says now is the next reload's affair.
        loaded: what was read last, from which the next reload's changes are told.
        hashes: of the configurations of generations that are tried out, or were last.
        tls: what the files of certificates and keys held when they were read, by pool and listener.
        core: the rules' state (:mod:`.state`).
        books: what observers have counted, by name (:mod:`.state`).
        listeners: by name.
        control, observer, monitoring: the primary's own sockets.
        seq: the number of the next message on a channel.
        generation: the last that was used.
        reclaimed: connections taken back from workers, by pool and reason.
        nofile: the soft limit of descriptors that pools get.
        started_at: on the monotonic clock.
        upgrades: before this one.
        environment: variables that were taken out of the environment.
        command: the words that ran this primary, with its own interpreter: what a successor that fails goes back to.
        caretaker: the descriptor that keeps it going.
        tried: a successor has failed with it already.
    """

    version: int = VERSION
    clusterd: str = ""
    pid: int = 0
    config_sha256: str = ""
    config: Config | None = None
    loaded: Loaded | None = None
    hashes: dict[int, str] = {}
    tls: dict[str, dict[str, Material]] = {}
    core: Any = None
    books: dict[str, Any] = {}
    children: tuple[ChildState, ...] = ()
    listeners: dict[str, SocketState] = {}
    control: SocketState | None = None
    observer: SocketState | None = None
    monitoring: SocketState | None = None
    seq: int = 0
    generation: int = 1
    reclaimed: tuple[tuple[str, str, int], ...] = ()
    nofile: int = 1024
    started_at: float = 0.0
    upgrades: int = 0
    environment: dict[str, str] = {}
    command: tuple[str, ...] = ()
    caretaker: int = -1
    tried: bool = False

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        found = {one.fd for one in self.listeners.values()}
        found |= {one.fd for one in (self.control, self.observer, self.monitoring) if one is not None}
        for child in self.children:
            found |= {child.pidfd, child.channel, child.board, child.stacks, child.notified}
            found |= {fd for box in child.boxes.values() for fd in (box.writing, box.reading)}
            found |= {output.fd for output in child.outputs}
        return found - {-1}


def write(handover: Handover) -> int:
    """The document in a file in memory; its descriptor, close-on-exec.

    Raises:
        HandoverError: there is a name in it that is no text.
        OSError: EMFILE, ENFILE or ENOMEM.
    """
    try:
        document = msgspec.msgpack.encode(handover)
    except UnicodeEncodeError as error:
        raise HandoverError(f"no upgrade: {error.object!r:.100} is not UTF-8, and cannot be written down") from None
    return memfile.create("clusterd-upgrade", document)


def read(fd: int) -> Handover:
    """Read one.

    Raises:
        HandoverError: it is none, or of a later version.
    """
    try:
        found = msgspec.msgpack.decode(memfile.read(fd), type=Handover)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HandoverError(f"the state of the running primary cannot be read: {error}") from None
    if found.version > VERSION:
        raise HandoverError(
            f"the state is of clusterd {found.clusterd} (version {found.version}); this one understands {VERSION}"
        )
    return found


def keep_open(handover: Handover, also: int) -> None:
    """Have everything that it names stay open over execve(2).

    Raises:
        OSError: EBADF.
    """
    for fd in handover.descriptors() | {also}:
        os.set_inheritable(fd, True)


def close_again(handover: Handover) -> None:
    """In the successor: nobody that it starts is to have them."""
    for fd in handover.descriptors():
        os.set_inheritable(fd, False)
