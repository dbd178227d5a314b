"""Edge rules: one worker, one input, what follows. The rules are the table :data:`TRANSITIONS`, and nothing else.

A worker is one process in one slot, or the attempt to have one. What should exist at all is decided in
:mod:`clusterd.core.converge`; here stands only what one worker does next.
"""

from dataclasses import dataclass
from enum import StrEnum

from .events import Vital
from .facts import ExitReason, KillReason


class State(StrEnum):
    """Where a worker is in its life."""

    SPAWNING = "spawning"  # Spawn is out, no process is known
    CANCELLED = "cancelled"  # as before, but nobody wants it any more
    BOOTING = "booting"  # the process exists
    READY = "ready"  # it serves
    HUNG = "hung"  # it does not answer: its stacks are being taken
    DRAINING = "draining"  # it takes nothing more and ends what it has
    KILLING = "killing"  # SIGKILL has been sent
    GONE = "gone"  # reaped, or never was


class Input(StrEnum):
    """What can happen to a worker: the first six by itself, the others by us."""

    SPAWNED = "spawned"
    SPAWN_FAILED = "spawn_failed"
    READY = "ready"
    LEAVING = "leaving"
    EXITED = "exited"
    HANG = "hang"
    STACKS_TAKEN = "stacks_taken"
    DRAIN = "drain"
    KILL = "kill"
    TIMEOUT = "timeout"


class Do(StrEnum):
    """What a transition asks of the supervisor."""

    NOTHING = "nothing"
    CANCEL = "cancel"  # there is nobody yet who could be told
    TAKE_STACKS = "take_stacks"
    DRAIN = "drain"
    KILL = "kill"
    STOP_ZYGOTE = "stop_zygote"  # the one way to end a fork that is not answered
    ABANDON = "abandon"  # SIGKILL did not end it; nobody waits for it any longer


_S, _I, _D = State, Input, Do

TRANSITIONS: dict[State, dict[Input, tuple[State, Do]]] = {
    _S.SPAWNING: {
        _I.SPAWNED: (_S.BOOTING, _D.NOTHING),
        _I.SPAWN_FAILED: (_S.GONE, _D.NOTHING),
        _I.READY: (_S.SPAWNING, _D.NOTHING),
        _I.LEAVING: (_S.SPAWNING, _D.NOTHING),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.SPAWNING, _D.NOTHING),
        _I.STACKS_TAKEN: (_S.SPAWNING, _D.NOTHING),
        _I.DRAIN: (_S.CANCELLED, _D.CANCEL),
        _I.KILL: (_S.CANCELLED, _D.STOP_ZYGOTE),
        _I.TIMEOUT: (_S.CANCELLED, _D.STOP_ZYGOTE),
    },
    _S.CANCELLED: {
        _I.SPAWNED: (_S.KILLING, _D.KILL),
        _I.SPAWN_FAILED: (_S.GONE, _D.NOTHING),
        _I.READY: (_S.CANCELLED, _D.NOTHING),
        _I.LEAVING: (_S.CANCELLED, _D.NOTHING),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.CANCELLED, _D.NOTHING),
        _I.STACKS_TAKEN: (_S.CANCELLED, _D.NOTHING),
        _I.DRAIN: (_S.CANCELLED, _D.NOTHING),
        _I.KILL: (_S.CANCELLED, _D.STOP_ZYGOTE),
        _I.TIMEOUT: (_S.CANCELLED, _D.STOP_ZYGOTE),
    },
    _S.BOOTING: {
        _I.SPAWNED: (_S.BOOTING, _D.NOTHING),
        _I.SPAWN_FAILED: (_S.BOOTING, _D.NOTHING),
        _I.READY: (_S.READY, _D.NOTHING),
        _I.LEAVING: (_S.DRAINING, _D.DRAIN),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.BOOTING, _D.NOTHING),
        _I.STACKS_TAKEN: (_S.BOOTING, _D.NOTHING),
        _I.DRAIN: (_S.DRAINING, _D.DRAIN),
        _I.KILL: (_S.KILLING, _D.KILL),
        _I.TIMEOUT: (_S.KILLING, _D.KILL),
    },
    _S.READY: {
        _I.SPAWNED: (_S.READY, _D.NOTHING),
        _I.SPAWN_FAILED: (_S.READY, _D.NOTHING),
        _I.READY: (_S.READY, _D.NOTHING),
        _I.LEAVING: (_S.DRAINING, _D.DRAIN),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.HUNG, _D.TAKE_STACKS),
        _I.STACKS_TAKEN: (_S.READY, _D.NOTHING),
        _I.DRAIN: (_S.DRAINING, _D.DRAIN),
        _I.KILL: (_S.KILLING, _D.KILL),
        _I.TIMEOUT: (_S.READY, _D.NOTHING),
    },
    _S.HUNG: {
        _I.SPAWNED: (_S.HUNG, _D.NOTHING),
        _I.SPAWN_FAILED: (_S.HUNG, _D.NOTHING),
        _I.READY: (_S.HUNG, _D.NOTHING),
        _I.LEAVING: (_S.HUNG, _D.NOTHING),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.HUNG, _D.NOTHING),
        _I.STACKS_TAKEN: (_S.KILLING, _D.KILL),
        _I.DRAIN: (_S.KILLING, _D.KILL),
        _I.KILL: (_S.KILLING, _D.KILL),
        _I.TIMEOUT: (_S.KILLING, _D.KILL),
    },
    _S.DRAINING: {
        _I.SPAWNED: (_S.DRAINING, _D.NOTHING),
        _I.SPAWN_FAILED: (_S.DRAINING, _D.NOTHING),
        _I.READY: (_S.DRAINING, _D.NOTHING),
        _I.LEAVING: (_S.DRAINING, _D.NOTHING),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.DRAINING, _D.NOTHING),
        _I.STACKS_TAKEN: (_S.DRAINING, _D.NOTHING),
        _I.DRAIN: (_S.DRAINING, _D.NOTHING),
        _I.KILL: (_S.KILLING, _D.KILL),
        _I.TIMEOUT: (_S.KILLING, _D.KILL),
    },
    _S.KILLING: {
        _I.SPAWNED: (_S.KILLING, _D.NOTHING),
        _I.SPAWN_FAILED: (_S.KILLING, _D.NOTHING),
        _I.READY: (_S.KILLING, _D.NOTHING),
        _I.LEAVING: (_S.KILLING, _D.NOTHING),
        _I.EXITED: (_S.GONE, _D.NOTHING),
        _I.HANG: (_S.KILLING, _D.NOTHING),
        _I.STACKS_TAKEN: (_S.KILLING, _D.NOTHING),
        _I.DRAIN: (_S.KILLING, _D.NOTHING),
        _I.KILL: (_S.KILLING, _D.NOTHING),
        _I.TIMEOUT: (_S.KILLING, _D.ABANDON),
    },
    _S.GONE: dict.fromkeys(Input, (_S.GONE, _D.NOTHING)),
}

#: Here it is not known whether there is a process.
UNBORN = frozenset({_S.SPAWNING, _S.CANCELLED})

#: Here there is one.
LIVING = frozenset({_S.BOOTING, _S.READY, _S.HUNG, _S.DRAINING, _S.KILLING})

#: The slot of a worker that has none yet: it waits to take the place of one that ends.
SPARE = -1


@dataclass(slots=True)
class Worker:
    """One worker, from ``Spawn`` to ``Exited``. Times in seconds on the core's clock.

    Attributes:
        until: when ``TIMEOUT`` is due in the present state, ``None`` for never.
        asked: why it is to end, where we asked it to.
        left: it goes by itself: it said so, or closed its channel.
        killed: why we killed it, where we did.
        abandoned: SIGKILL did not end it.
        recycle: why it is to be replaced, for people; ``None`` if it is not.
        report: why it could not become ready, in its own words.
        vital: what it last said of itself; ``silent``: for how many seconds it had not turned by then.
    """

    id: int
    pool: str
    slot: int
    generation: int
    started_at: float
    state: State = State.SPAWNING
    until: float | None = None
    ready_at: float | None = None
    drained_at: float | None = None
    asked: ExitReason | None = None
    online: bool = False
    left: bool = False
    killed: KillReason | None = None
    abandoned: bool = False
    recycle: str | None = None
    report: str = ""
    vital: Vital | None = None
    silent: float = 0.0

    def step(self, what: Input) -> Do:
        """Go where :data:`TRANSITIONS` leads; returns what is to be done."""
        self.state, do = TRANSITIONS[self.state][what]
        return do

    def exit_reason(self, code: int | None, oom: bool = False) -> ExitReason:
        """Why it ended, given the exit code (``None``: by a signal), and whether memory had run out.

        A channel that closes is not yet a will to leave: it also closes when a process dies.
        """
        if self.asked is not None:
            return self.asked
        if oom or self.killed is KillReason.MEMORY:
            return ExitReason.OOM
        if self.killed is KillReason.HANG:
            return ExitReason.HUNG
        if self.ready_at is None:
            return ExitReason.BOOT
        overstayed = self.left and self.killed is not None
        return ExitReason.VOLUNTARY if code == 0 or overstayed else ExitReason.CRASH
