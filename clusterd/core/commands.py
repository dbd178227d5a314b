"""What the shell is to do. Each command is answered by exactly one event, whatever becomes of it.

What ends once is answered once: ``Admit``, ``Drain`` and ``Kill`` by the worker's one ``Exited``, ``StopZygote`` by the
zygote's one ``ZygoteFailed`` or ``ZygoteGone`` (if that is on its way already, the command adds none), and a second
``CloseListeners``, which only takes away the leave to hand on, by the one ``ListenersClosed``. For a process that was
lost the shell makes the answer up, so that no command can be waited for in vain.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartZygote:
    """Answered by ``ZygoteReady`` or ``ZygoteFailed``; by ``ZygoteGone`` if ``StopZygote`` comes between."""

    pool: str
    generation: int


@dataclass(frozen=True, slots=True)
class StopZygote:
    """At once and by force: it serves nothing. What was spawned and not yet answered for becomes ``SpawnFailed`` first.

    ``ZygoteGone`` answers, or the ``ZygoteFailed`` that was on its way.
    """

    pool: str
    generation: int


@dataclass(frozen=True, slots=True)
class Spawn:
    """Answered by ``Spawned`` or ``SpawnFailed``.

    Attributes:
        slot: the worker's place; ``SPARE`` for one that waits for a place.
    """

    worker: int
    pool: str
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Admit:
    """The worker is ready and has a place: hand it its share from now on. ``Exited`` answers.

    Attributes:
        slot: its place; news to one that was a spare.
    """

    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class TakeStacks:
    """Have the worker's stacks taken, for the crash report: its event loop does not turn. ``StacksTaken`` answers."""

    worker: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Hand the worker nothing more and let it finish what it has. ``Exited`` answers.

    Attributes:
        within: seconds after which it will be killed, ``None`` if never; told to the worker.
    """

    worker: int
    within: float | None


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the worker and its process group. ``Exited`` answers."""

    worker: int


@dataclass(frozen=True, slots=True)
class Settle:
    """A reload has its verdict: dispose of what served the other outcome only. ``Settled`` answers.

    Promoted: listeners that the new generation does not have are closed, what the kernel has accepted on them so far
    handed on to the old workers, of which each pool keeps one until the answer. Else: listeners that only the new
    generation had are closed.
    """

    generation: int
    promoted: bool


@dataclass(frozen=True, slots=True)
class CloseListeners:
    """Hand on what the kernel has accepted so far, then close. ``ListenersClosed`` answers.

    Attributes:
        hand_on: false: nobody is there to take it, or there is no time.
    """

    hand_on: bool


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything has ended; end the primary. The last command, not answered.

    Attributes:
        code: the exit code.
        reason: one sentence for people.
    """

    code: int
    reason: str


Command = StartZygote | StopZygote | Spawn | Admit | TakeStacks | Drain | Kill | Settle | CloseListeners | Exit
