"""One worker's mailbox of one listener, as the primary keeps it."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..unix.mail import Inbox, Outbox, Posted
from ..wire.mail import PROBE
from ..wire.rows import TAKEN_MAILBOXES, TAKEN_NS
from .handed import BoxState

if TYPE_CHECKING:
    from .newconn import Newconn

REMEMBERED: Final = 16
"""Times kept of what was posted to a box; it holds about six messages, so what falls out has been taken long since."""

_SILENT: Final = (0,)
"""The words of one who tells nothing."""


class Box:
    """One worker's mailbox of one listener, as the rotation sees it.

    Attributes:
        fd: the outbox's descriptor; -1 for what is no mailbox.
        handed: connections put into it so far.
        last_ns: when the connection was accepted that was put into it last; -1 is not known.
        words, word: where its worker writes that of the mail it has taken last. While ``words[word] == last_ns`` the
            box is empty, and the kernel need not be asked, which is a tenth of what a connection costs. To say so of
            mail that it has not taken a worker would have to read it first, and would gain what it gets by taking all
            and serving none: it is handed the few that a box holds, which can be taken back from it as ever. What is no
            mailbox tells in one word of its own (:attr:`.newconn.Newconn.emptied`).
        number: of the word; -1 is none.
        posted: when each message that may still lie in it was posted, on the loop's clock; oldest first.
        taken_at: when it was last seen that one had been taken.
        robbed: out of the rotation until it has taken a probe.
        steal_after: seconds that mail may lie in it before it may go to others; 0 is for ever.
    """

    __slots__ = (
        "fd",
        "handed",
        "inbox",
        "last_ns",
        "number",
        "outbox",
        "posted",
        "queued",
        "robbed",
        "steal_after",
        "taken_at",
        "word",
        "words",
        "worker",
    )

    def __init__(
        self, worker: int, outbox: "Outbox | Newconn", inbox: Inbox | None = None, steal_after: float = 0.0
    ) -> None:
        self.worker = worker
        self.outbox = outbox
        self.inbox = inbox
        self.fd = outbox.fileno()
        self.queued = outbox.queued
        self.handed, self.last_ns = 0, -1
        self.words: Sequence[int] | memoryview = _SILENT if isinstance(outbox, Outbox) else outbox.emptied
        self.word, self.number = 0, -1
        self.posted: deque[float] = deque(maxlen=REMEMBERED)
        self.taken_at = 0.0
        self.robbed = False
        self.steal_after = steal_after if inbox is not None else 0.0

    def knock(self, now: float) -> None:
        """Have its worker look: a server that waits for mail and nothing else has got something by another way.

        If it is full, or the worker is to end, it looks without that, or it does not matter any more.
        """
        if isinstance(self.outbox, Outbox) and self.outbox.fileno() >= 0 and self.outbox.post(PROBE) is Posted.SENT:
            self.posted.append(now)
            self.last_ns = -1

    def believe(self, words: memoryview, number: int) -> None:
        """Its worker tells in ``words``, its row of the scoreboard, what it takes; it is its mailbox ``number``."""
        if 0 <= number < TAKEN_MAILBOXES:
            self.words, self.word, self.number = words, TAKEN_NS + number, number

    def doubt(self) -> None:
        """Ask the kernel for what is in it from now on: its worker's row ends, or was found to lie."""
        self.words, self.word = _SILENT, 0

    def describe(self, turn: int) -> BoxState:
        """For a successor of this process; ``turn``: its place in the rotation, -1 is none."""
        return BoxState(
            writing=self.outbox.fileno(),
            reading=-1 if self.inbox is None else self.inbox.fileno(),
            handed=self.handed,
            turn=turn,
            steal_after=self.steal_after,
            posted=tuple(self.posted),
            taken_at=self.taken_at,
            robbed=self.robbed,
            number=self.number,
        )

    def take_up(self, left: BoxState) -> None:
        """Be what it was."""
        self.handed, self.taken_at, self.robbed = left.handed, left.taken_at, left.robbed
        self.posted.extend(left.posted)
