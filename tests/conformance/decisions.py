"""Node's own cluster tests, by the numbers of the list that this suite was made from: what we decided of each.

The files are ``test/parallel/test-cluster-*.js`` and ``test/sequential/test-cluster-*.js`` of Node 25.8.1, in
alphabetical order, and one newer one. From 201 on: its other tests that use cluster; from 301 on: those of the channel
(``child_process``). The README's table counts them.
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


GROUPS: Final = {"cluster": range(1, 90), "others that use it": range(201, 226), "of the channel": range(301, 315)}
"""The numbers, by what the tests are of."""

NUMBERS: Final = [number for group in GROUPS.values() for number in group]

_USE_IT: Final = [
    "dgram-bind-socket-close-before-cluster-reply",
    "dgram-cluster-bind-error",
    "dgram-cluster-close-during-bind",
    "dgram-cluster-close-in-listening",
    "dgram-unref-in-cluster",
    "http-server-drop-connections-in-cluster",
    "inspector-port-zero-cluster",
    "listen-fd-cluster",
    "net-listen-handle-in-cluster-1",
    "net-listen-handle-in-cluster-2",
    "tls-ticket-cluster",
    "inspector-port-cluster",
    "inspector-cluster-port-clash",
    "dgram-bind-shared-ports-after-port-0",
    "child-process-fork-closed-channel-segfault",
    "dgram-exclusive-implicit-bind",
    "net-listen-exclusive-random-ports",
    "net-listen-twice",
    "net-server-close-before-ipc-response",
    "net-socket-constructor",
    "dgram-bind-shared-ports",
    "net-listen-shared-ports",
    "diagnostics-channel-process",
    "inspect-support-for-node_options",
    "cluster-rr-distribute",
]

_CHANNEL: Final = [
    "send-returns-boolean",
    "recv-handle",
    "disconnect",
    "send-after-close",
    "send-cb",
    "send-keep-open",
    "send-type-error",
    "send-utf8",
    "fork-net",
    "fork-getconnections",
    "fork-net-server",
    "advanced-serialization",
    "pass-fd",
    "ipc-next-tick",
]

NAMES: Final = {
    **dict(zip(GROUPS["others that use it"], _USE_IT, strict=True)),
    **{number: f"child-process-{name}" for number, name in zip(GROUPS["of the channel"], _CHANNEL, strict=True)},
}
"""What those from 201 on are called; that of 311 stands for ``fork-net-socket`` and ``fork-dgram`` too."""

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
    201: "whoever waits for a socket may be cancelled, and what the primary answers then is given back",
    202: "as 201; that it cannot be had is an `OSError` of the call",
    203: "as 201",
    206: "there is no `dropMaxConnection`: a full worker is left out, and others or the backlog have the client",
    211: "Python's `ssl` has no ticket keys; Node's workers share theirs through this primary too",
    214: "a port that one worker got from port 0 can be shared by its number",
    218: "`listen` is a coroutine: one that is called off is given back, and the second is served",
    219: "as 218",
    225: "Node leaves that connection open for ever; here it ends",
    312: "as 2",
}

_NOT_APPLICABLE: Final = {
    30: "hides a console window of Windows",
    49: "Node's `domain` module",
    84: "V8's inspector",
    205: "asyncio's sockets hold no loop alive, so there is nothing to unref",
    207: "V8's inspector",
    212: "V8's inspector",
    213: "V8's inspector",
    223: "Node's diagnostics channels",
    224: "V8's inspector",
    310: "a socket that was sent is its receiver's, so the sender has nothing to count",
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
    (
        "a program that is not there",
        "comes online, and exits with 1",
        "never does: a Python worker is online when it imports `cluster`",
    ),
    ("a stale unix socket file of a dead primary", "is in use", "is taken over, if nobody serves it"),
)
"""Where Node's own behaviour is a defect: what, in Node, here."""
