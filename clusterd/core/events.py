"""What happened, and what an operator asks: the core's only inputs.

Workers are named by ``worker.id``, which is never used twice, and zygotes by pool and generation; pids are the
shell's affair. Who observed an event is unknown here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """The service is to begin. The first event, once."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened, but :meth:`Supervisor.deadline` is due. Harmless at any time."""


@dataclass(frozen=True, slots=True)
class ZygoteReady:
    """The zygote has imported the app and can fork. Answers ``StartZygote``.

    Attributes:
        preloaded: false where forking was found unsafe and each worker imports the app itself.
    """

    pool: str
    generation: int
    preloaded: bool = True


@dataclass(frozen=True, slots=True)
class ZygoteFailed:
    """There is no zygote: it could not be started or ended before it was ready. Answers ``StartZygote``.

    Attributes:
        report: why, for people; a traceback as a rule.
    """

    pool: str
    generation: int
    report: str = ""


@dataclass(frozen=True, slots=True)
class ZygoteGone:
    """A zygote that had been ready has ended; also the answer to ``StopZygote``, whatever it had been.

    Every ``Spawn`` that it owed an answer has been answered before, by ``SpawnFailed`` with ``zygote_gone`` at the
    latest.
    """

    pool: str
    generation: int
    report: str = ""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The worker's process exists. Answers ``Spawn``; exactly one ``Exited`` will follow."""

    worker: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """There is no process. Answers ``Spawn``; no ``Exited`` follows.

    Attributes:
        report: why, for people.
        zygote_gone: the zygote is to blame, not the machine or the slot.
    """

    worker: int
    report: str = ""
    zygote_gone: bool = False


@dataclass(frozen=True, slots=True)
class Online:
    """The worker speaks on its channel (Node's ``online``)."""

    worker: int


@dataclass(frozen=True, slots=True)
class BootFailed:
    """The worker told why it cannot become ready; its end will follow by itself.

    Attributes:
        stage: where it failed: ``import``, ``lifespan`` …
        report: why, for people; a traceback as a rule.
    """

    worker: int
    stage: str
    report: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker serves."""

    worker: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """The worker ends by its own will: it said so (Node's ``exitedAfterDisconnect``) or closed its channel."""

    worker: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker's process has been reaped. Once for each ``Spawned``; it answers ``Drain`` and ``Kill`` too.

    Attributes:
        code: the exit code, ``None`` if by a signal.
        signal: the signal's number, ``None`` if by itself.
    """

    worker: int
    code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class ListenersClosed:
    """No connection can arrive any more and none waits in a kernel queue. Answers ``CloseListeners``."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An operator wants more or fewer workers in a pool; one is the least.

    Attributes:
        by: how many more (or, negative, fewer).
    """

    pool: str
    by: int


@dataclass(frozen=True, slots=True)
class Stop:
    """An operator wants the service to end.

    Attributes:
        now: without a drain. Asked while a drain is under way, it ends that at once.
    """

    now: bool = False


Event = (
    Start
    | Tick
    | ZygoteReady
    | ZygoteFailed
    | ZygoteGone
    | Spawned
    | SpawnFailed
    | Online
    | BootFailed
    | Ready
    | Leaving
    | Exited
    | ListenersClosed
    | Scale
    | Stop
)
