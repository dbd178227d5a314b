"""What happened, and what an operator asks: the core's only inputs.

Workers are named by ``worker.id``, which is never used twice, and zygotes by pool and generation; pids are the
shell's affair. Who observed an event is unknown here.
"""

from dataclasses import dataclass

from .policy import ServicePolicy


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
        oom: the kernel killed it because memory had run out.
    """

    worker: int
    code: int | None = None
    signal: int | None = None
    oom: bool = False


@dataclass(frozen=True, slots=True)
class Vital:
    """What one worker says of itself. Untrusted: a worker that lies here harms only itself.

    Attributes:
        beat: changes whenever its event loop turns its one-second beat; 0: it has none.
        responses: begun so far.
        errors: those of them with a status of 500 or more.
        memory: its proportional memory in bytes (PSS), 0 if unknown.
    """

    worker: int
    beat: int
    responses: int = 0
    errors: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """All workers were looked at, as they are about once a second."""

    of: tuple[Vital, ...]


@dataclass(frozen=True, slots=True)
class StacksTaken:
    """The stacks of a worker that hangs have been taken, or cannot be had. Answers ``TakeStacks``.

    Attributes:
        report: the stacks, for people.
    """

    worker: int
    report: str = ""


@dataclass(frozen=True, slots=True)
class Unwell:
    """A worker was asked, from outside, whether it works, and does not: it is dealt with as one that hangs.

    Attributes:
        why: for people.
    """

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class Recycle:
    """The worker is to be replaced: its successor becomes ready first, then it drains.

    Attributes:
        why: for people.
    """

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class MemoryKill:
    """Memory is about to run out for all, and this worker is to be given up for it."""

    worker: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Answers ``Settle``."""

    generation: int


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
class ScaleTo:
    """The pool is to have so many workers; one is the least."""

    pool: str
    wanted: int


@dataclass(frozen=True, slots=True)
class StartPool:
    """An operator wants a pool that was stopped, or has given up, to work again."""

    pool: str


@dataclass(frozen=True, slots=True)
class StopPool:
    """An operator wants all workers of a pool to drain, and none to follow."""

    pool: str


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator wants the worker of a slot to drain, and the slot to stay empty until it is released.

    Attributes:
        slot: its index; one that the pool does not want is left as it is.
    """

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class Release:
    """An operator wants a slot that is held to have a worker again. ``StartPool`` releases all that are."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class Restart:
    """An operator wants workers replaced, rolling, by new ones with the same code.

    Attributes:
        worker: this one alone; ``None`` for all of the pool.
    """

    pool: str
    worker: int | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """A new generation is to take over, if it proves itself. One that is being tried out is superseded.

    Attributes:
        generation: its number, above all before it.
        policy: what the service is to be then.
        pools: those that get the new generation; the others are left alone, but those that ``policy`` lacks go.
    """

    generation: int
    policy: ServicePolicy
    pools: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """A reload was asked for and cannot even be tried: the configuration is bad, or a listener cannot be had.

    Attributes:
        reason: one sentence for people.
        report: all of it.
    """

    reason: str
    report: str = ""


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
    | Vitals
    | StacksTaken
    | Unwell
    | Recycle
    | MemoryKill
    | ListenersClosed
    | Settled
    | Scale
    | ScaleTo
    | StartPool
    | StopPool
    | Hold
    | Release
    | Restart
    | Reload
    | ReloadRefused
    | Stop
)
