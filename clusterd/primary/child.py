"""One worker's process, as the primary holds it: its number, and everything that was made for it."""

import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..core import events as e
from ..errors import PeerError
from ..unix import mail, scoreboard
from ..unix.notified import Notified
from ..unix.stream import FdStream
from ..wire import messages, rows, series
from ..wire.channel import Received
from ..wire.conversation import Conversation
from . import output
from . import stacks as stack_files
from .dispatch import Box, Dispatch
from .memory import Weight
from .shared import Shared
from .weighing import weigh


@dataclass(slots=True)
class Child:
    """One worker's process, as the primary holds it. Descriptors are closed by ``release``.

    Attributes:
        queues: where its connections come from, by listener; those of the reload that it was born with.
        online: it has spoken on its channel; a program that has not knows of none.
        notified: where it says that it is ready, if it says it so (:mod:`.readiness`).
        past: connections that it got from what it does not serve any more, by name.
    """

    id: int
    pool: str
    slot: int
    generation: int
    talk: Conversation
    stream: FdStream
    board: scoreboard.Board
    boxes: dict[str, Box]
    inboxes: dict[str, mail.Inbox]
    last_lines: deque[str]
    stacks: stack_files.Stacks
    values: series.Reader
    queues: dict[str, Dispatch | Shared]
    shared: tuple[str, ...] = ()
    outputs: list[output.Output] = field(default_factory=list)
    pid: int = 0
    pidfd: int = -1
    notified: Notified | None = None
    online: bool = False
    ready: bool = False
    draining: bool = False
    killed: bool = False
    turned_ns: int = 0
    past: dict[str, int] = field(default_factory=dict)

    def row(self) -> tuple[int, ...]:
        """The scoreboard as it is now. Untrusted."""
        words = self.board.words[: rows.WORDS].tolist()
        words[rows.Row.HEARTBEAT_NS] = self.turned_ns or words[rows.Row.HEARTBEAT_NS]
        return tuple(words)

    def handed(self) -> dict[str, int]:
        """Listener to the connections it got: of mailboxes our own count, of shared listeners its own. Untrusted."""
        accepted = {name: self.board.words[rows.ACCEPTED + number] for number, name in enumerate(self.shared)}
        return self.past | accepted | {name: box.handed for name, box in self.boxes.items()}

    def vital(self) -> e.Vital:
        """What it says of itself. Untrusted."""
        words = self.board.words
        return e.Vital(
            self.id,
            self.turned_ns or words[rows.Row.HEARTBEAT_NS],
            sum(words[rows.Row.REQUESTS_1XX : rows.Row.REQUESTS_5XX + 1]),
            words[rows.Row.REQUESTS_5XX],
            words[rows.Row.PROPORTIONAL_BYTES],
        )

    def weight(self) -> Weight:
        """What it holds of the memory."""
        words = self.board.words
        size = weigh(words[rows.Row.PROPORTIONAL_BYTES], words[rows.Row.RESIDENT_BYTES], self.pid)
        return Weight(self.id, self.pool, self.slot, size, self.ready, self.draining)

    def visit(self, key: str, accepted: Callable[[], None], refused: Callable[[], None]) -> socket.socket | None:
        """See :meth:`Children.visit`; ``key`` is of one of its servers, ``accepted`` is called when it has it."""
        try:
            near, far = socket.socketpair()
        except OSError:
            return None

        def answered(received: Received) -> None:
            try:
                reply = messages.read(received.message)
            except PeerError:
                reply = None
            if isinstance(reply, messages.Reply) and reply.accepted:
                accepted()
            else:
                refused()

        self.talk.ask(messages.newconn(key), answered, far.detach())
        return near

    def close_mail(self) -> None:
        """No more mail: what is in the boxes can still be taken."""
        for box in self.boxes.values():
            box.outbox.close()

    def release(self) -> None:
        """Close everything that is left. Harmless when repeated."""
        self.talk.close()
        self.close_mail()
        for inbox in self.inboxes.values():
            inbox.close()
        for reader in self.outputs:
            reader.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.notified is not None:
            self.notified.close()
        self.stacks.close()
        for box in self.boxes.values():
            box.doubt()
        self.board.close()
