"""What a primary leaves to its successor in the same process: a document that names its descriptors, and its reading.

A descriptor stays open under its number over execve(2), so a number says all. Everything has a default: what another
version of clusterd has written is read as far as it goes.
"""

import os
from typing import Any, Final

import msgspec

from ..config.load import Loaded
from ..config.schema import Config, Pool
from ..errors import ClusterdError
from ..spawner.client import Left
from ..unix import memfile
from ..wire.suspended import Suspended
from ..wire.tls import Material
from .handed import BoxState, Holds, OutputState, ServerState, SocketState, united

VERSION: Final = 2
"""Of the document. A successor reads its own and older ones."""

VARIABLE: Final = "CLUSTERD_UPGRADE"
"""Names the descriptor of the document in the successor's environment."""


BACK: Final = "CLUSTERD_UPGRADE_BACK"
"""Has the words, in JSON, that run the old code: a successor that fails becomes that, once. Without it, it is that."""


class HandoverError(ClusterdError):
    """The state of a running primary cannot be handed on, or not be taken over."""


class ChildState(msgspec.Struct, omit_defaults=True):
    """A worker's process.

    Attributes:
        unread: in the place of ``talk`` where the first version wrote it.
        boxes: its mailboxes; those of servers that it has asked for are in their seats.
        past: connections that it got from servers that it does not serve any more.
        queues: the key of each listener whose key is not its name; empty: it is closed.
    """

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
    talk: Suspended | None = None
    boxes: dict[str, BoxState] = {}
    past: dict[str, int] = {}
    queues: dict[str, str] = {}
    shared: tuple[str, ...] = ()
    admitted: bool = False
    notified: int = -1
    online: bool = True
    ready: bool = False
    draining: bool = False
    killed: bool = False
    turned_ns: int = 0
    outputs: tuple[OutputState, ...] = ()
    last_lines: tuple[str, ...] = ()

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        found = {
            self.pidfd,
            self.channel,
            self.board,
            self.stacks,
            self.notified,
            *(output.fd for output in self.outputs),
        }
        found |= {fd for box in self.boxes.values() for fd in (box.writing, box.reading)}
        return found | (self.talk.descriptors() if self.talk is not None else set())


class ScriptsState(msgspec.Struct, omit_defaults=True):
    """What is done for script pools.

    Attributes:
        pools: their configurations, also of those that a reload tries out or has taken away.
        servers: by pool.
        asked: the workers that have been asked to go.
        felt: those that are asked for signs of life.
    """

    pools: dict[str, Pool] = {}
    servers: dict[str, tuple[ServerState, ...]] = {}
    asked: tuple[int, ...] = ()
    felt: tuple[int, ...] = ()

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        return united(server.descriptors() for servers in self.servers.values() for server in servers)


class HookState(msgspec.Struct, omit_defaults=True):
    """A pool's ``on_message``: its process, if there is one, and when there may be another."""

    target: str
    pid: int = 0
    pidfd: int = -1
    channel: int = -1
    talk: Suspended | None = None
    delay: float = 0.0
    began: float = 0.0
    not_before: float = 0.0
    dropped: bool = False

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        return {self.pidfd, self.channel} | (self.talk.descriptors() if self.talk is not None else set())


class ZygoteState(msgspec.Struct, omit_defaults=True):
    """A zygote's process, its pipes, and the last lines that it has printed."""

    pool: str
    generation: int
    process: Left
    outputs: tuple[OutputState, ...] = ()
    last_lines: tuple[str, ...] = ()

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        return {self.process.pidfd, self.process.control, *(output.fd for output in self.outputs)}


class TrialState(msgspec.Struct, omit_defaults=True):
    """What a reload is trying out.

    Attributes:
        config: what is to be in force.
        tls: as of a handover, by pool: those that get the generation.
        listeners: by name, the key of each (see ``further``).
    """

    config: Config | None = None
    tls: dict[str, dict[str, Material]] = {}
    listeners: dict[str, str] = {}


class Handover(msgspec.Struct, omit_defaults=True):
    """The whole.

    Attributes:
        version: of the document, set when it is written. What is not said is 1, which never said it.
        clusterd: the version that wrote it.
        pid: whose it is.
        config_sha256: of the configuration that is in force.
        config: that itself: what the file says now is the next reload's affair.
        loaded: what was read last, from which the next reload's changes are told.
        hashes: of the configurations of generations that are tried out, or were last.
        tls: what the files of certificates and keys held when they were read, by pool and listener.
        core: the rules' state (:mod:`.state`).
        books: what observers have counted, by name (:mod:`.state`).
        zygotes: all that live.
        listeners: by name, which is their key too.
        further: other listening sockets, by a key: those that a reload has brought or taken away.
        trials: by generation.
        leaving: the key of each that a reload has taken away, with the generation that did.
        refused: pools whose code on disk a reload has found to be no good.
        scripts: the servers of script pools.
        hooks: by pool.
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
        counted: the one from which it tells what it has handed on.
        lifeline: our end of what tells the kernel of this process's death.
        tried: a successor has failed with it already.
    """

    version: int = 1
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
    zygotes: tuple[ZygoteState, ...] = ()
    listeners: dict[str, SocketState] = {}
    further: dict[str, SocketState] = {}
    trials: dict[int, TrialState] = {}
    leaving: dict[str, int] = {}
    refused: tuple[str, ...] = ()
    scripts: ScriptsState = msgspec.field(default_factory=ScriptsState)
    hooks: dict[str, HookState] = {}
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
    counted: int = -1
    lifeline: int = -1
    tried: bool = False

    def descriptors(self) -> set[int]:
        """All that have to stay open."""
        own = [one for one in (self.control, self.observer, self.monitoring) if one is not None]
        parts: list[Holds] = [*own, *self.listeners.values(), *self.further.values(), *self.children, *self.zygotes]
        parts += [self.scripts, *self.hooks.values()]
        return (united(part.descriptors() for part in parts) | {self.lifeline}) - {-1}


def write(handover: Handover) -> int:
    """The document in a file in memory; its descriptor, close-on-exec.

    Raises:
        HandoverError: there is a name in it that is no text.
        OSError: EMFILE, ENFILE or ENOMEM.
    """
    handover.version = VERSION
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
