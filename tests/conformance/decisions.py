"""Node's own cluster tests, by the numbers of the list that this suite was made from: what we decided of each.

The files are ``test/parallel/test-cluster-*.js`` and ``test/sequential/test-cluster-*.js`` of Node 25.8.1, in
alphabetical order, and one newer one. The README's table counts them.
"""

from enum import Enum
from typing import Final, NamedTuple


class Decision(Enum):
    """What became of one of Node's tests."""

    PASSES = "passes"
    DIFFERENT = "deliberately different"
    NOT_APPLICABLE = "not applicable"


class Decided(NamedTuple):
    """A decision.

    Attributes:
        reason: why it is not simply the same, and what there is instead.
    """

    kind: Decision
    reason: str = ""


NUMBERS: Final = range(1, 90)

_DIFFERENT: Final = {
    1: "an accept that fails loses its connection in Node; here it is tried again, and the client is served",
    2: "V8's format is V8's: `advanced` is a codec of our own, between Python processes",
    33: "Python knows no `uncaughtException`: what a listener raises goes to the event loop's exception handler",
    45: "a full worker says so once and is left out until it has room; in Node it and the primary toss one connection"
    " to and fro, thousands of times a second",
    46: "what an event's listener raises does not end the process, as in asyncio; what the main coroutine raises does",
    75: "when the channel has closed the main coroutine is cancelled; one that wants to finish something catches that",
    76: "what a worker has not taken when it closes its server never reaches it: the primary reads it back",
    82: "as 75",
    87: "as Node from 24.12 on; Node 20 fails its own test",
    89: "as Node's newest: the second listen of a worker on its own port is refused",
}

_NOT_APPLICABLE: Final = {
    30: "hides a console window of Windows",
    49: "Node's `domain` module",
    84: "V8's inspector",
}


def decisions() -> dict[int, Decided]:
    """Number to decision, for all of them."""
    table = {}
    for number in NUMBERS:
        if number in _DIFFERENT:
            table[number] = Decided(Decision.DIFFERENT, _DIFFERENT[number])
        elif number in _NOT_APPLICABLE:
            table[number] = Decided(Decision.NOT_APPLICABLE, _NOT_APPLICABLE[number])
        else:
            table[number] = Decided(Decision.PASSES)
    return table


IMPROVED: Final = (
    ("a connection on its way to a worker that dies", "hangs for ever", "is served by another worker"),
    ("the callback of `cluster.disconnect`", "is called when the first worker has gone", "when the last has"),
    ("the second `worker.disconnect()`", "crashes a worker that has connections", "does nothing"),
    ("a listen by a worker that was asked to end", "is never answered", "fails with `ECANCELED`"),
    ("the accept queue of the primary", "has no bound", "is the kernel's, bounded by the backlog"),
    ("`disconnect` of a worker that died", "may be missing", "is told exactly once, before `exit`"),
    ("an `error` that nobody listens to", "ends the primary", "is logged"),
    ("a garbled line on the channel", "ends the process that reads it", "ends that channel"),
    ("a fixed port that was in use (`SCHED_NONE`)", "stays in use for all later workers", "can be had when it is free"),
    ("a stale unix socket file of a dead primary", "is in use", "is taken over, if nobody serves it"),
)
"""Where Node's own behaviour is a defect: what, in Node, here."""
