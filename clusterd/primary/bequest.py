"""Both ends of a handover: what a running primary writes down of itself, and a new one made of that.

Only a quiet primary is written down: with no fork on its way and no stacks being taken. It is quiet nearly always; what
is under way takes milliseconds. What hangs on a worker may take for ever, and is written down as it stands: messages
half sent, questions not answered, connections on their way.
"""

import itertools
import os
import socket
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..core.commands import Spawn
from ..core.facts import View
from ..core.supervisor import Supervisor
from ..unix import mail, scoreboard
from ..unix.lifeline import Lifeline
from ..unix.notified import Notified
from ..wire import series
from ..wire.suspended import Suspended, suspend
from . import caretaker, resuming, trials
from .child import Child
from .children import Children
from .dispatch import Box, Dispatch
from .handed import BoxState, OutputState
from .handover import ChildState, Handover, HandoverError
from .hooks import Hooks
from .listeners import Standing
from .stacks import Stacks
from .state import freeze, thaw

if TYPE_CHECKING:
    from .executor import Executor
    from .listeners import Listeners

UNBORN = ("spawning", "cancelled")


def why_not(view: View) -> str:
    """Why this primary cannot be replaced now, a sentence; empty if it can."""
    return "" if view.phase == "running" else "the service is stopping"


def is_quiet(view: View, executor: "Executor", children: Children, listeners: "Listeners") -> bool:
    """Nothing is under way that could not be written down."""
    workers = [worker for pool in view.pools for worker in pool.workers]
    return (
        executor.quiet
        and listeners.quiet
        and all(worker.state not in UNBORN for worker in workers)
        and all(child.pid and child.stacks.quiet for child in children.by_id.values())
    )


# -- the one that leaves -----------------------------------------------------------------------------------------------


def collect(
    supervisor: Supervisor,
    executor: "Executor",
    children: Children,
    listeners: "Listeners",
    hooks: Hooks,
    generation: int,
) -> Handover:
    """What there is to hand on of a primary that is quiet."""
    left = Handover(core=freeze(supervisor), seq=next(children.seq), generation=generation)
    named = trials.sockets(left, listeners)
    turns = {
        (key, worker): place
        for key, one in listeners.keys().items()
        if isinstance(one.queue, Dispatch)
        for worker, place in resuming.turns(one.queue).items()
    }
    left.children = tuple(_child(child, named, turns) for child in children.by_id.values())
    left.zygotes, left.scripts, left.hooks = executor.describe(), children.scripts.describe(), hooks.describe()
    left.lifeline = children.lifeline.fileno()
    left.reclaimed = tuple((*key, count) for key, count in children.reclaimed.items())
    return left


def _child(child: Child, keys: Mapping[int, str], turns: Mapping[tuple[str, int], int]) -> ChildState:
    queues = {name: keys.get(id(queue), "") for name, queue in child.queues.items()}
    own = {name: box for name, box in child.boxes.items() if name in child.inboxes}
    shared = [child.queues[name] for name in child.shared]
    return ChildState(
        id=child.id,
        pool=child.pool,
        slot=child.slot,
        generation=child.generation,
        pid=child.pid,
        pidfd=child.pidfd,
        channel=child.stream.fileno(),
        talk=suspend(child.talk, child.stream.unsent()),
        board=child.board.fd,
        stacks=child.stacks.fileno(),
        boxes={name: box.describe(turns.get((queues[name], child.id), -1)) for name, box in own.items()},
        past=child.past | {name: box.handed for name, box in child.boxes.items() if name not in own},
        queues={name: key for name, key in queues.items() if key != name},
        shared=child.shared,
        admitted=any(child.id in queue.workers for queue in shared if not isinstance(queue, Dispatch)),
        notified=-1 if child.notified is None else child.notified.fileno(),
        online=child.online,
        ready=child.ready,
        draining=child.draining,
        killed=child.killed,
        turned_ns=child.turned_ns,
        outputs=tuple(
            OutputState(fd=one.fileno(), stream=one.stream, partial=one.untold())
            for one in child.outputs
            if one.fileno() >= 0
        ),
        last_lines=tuple(child.last_lines),
    )


# -- the one that comes ------------------------------------------------------------------------------------------------


def rules(left: Handover, fresh: Supervisor) -> Supervisor:
    """The rules where they stood; zygotes that were not left are to be built anew.

    Raises:
        StateError: this version does not understand them.
    """
    found = thaw(left.core, fresh)
    if not isinstance(found, Supervisor):
        raise HandoverError("the state of the running primary has no rules in it")
    found.bereave({(one.pool, one.generation) for one in left.zygotes})
    return found


def adopt(left: Handover, children: Children, standing: Mapping[str, Standing]) -> None:
    """Make the children of what was left; they are listened to from now on.

    Args:
        standing: the listening sockets by key.
    """
    children.seq = itertools.count(left.seq)
    if left.lifeline >= 0:
        children.lifeline.close()
        children.lifeline = Lifeline(left.lifeline)
    children.reclaimed.update({(pool, reason): count for pool, reason, count in left.reclaimed})
    children.scripts.adopt(left.scripts.pools)
    rotations: dict[str, list[tuple[int, Box]]] = {}
    for one in left.children:
        child = _adopted(one, children, standing)
        for name, state in one.boxes.items():
            if name in child.queues:
                rotations.setdefault(one.queues.get(name, name), []).append((state.turn, child.boxes[name]))
        for name in one.shared:
            queue = child.queues.get(name)
            if one.admitted and queue is not None and not isinstance(queue, Dispatch):
                queue.add(one.id)
    for key, rotation in rotations.items():
        dispatch = standing[key].queue
        assert isinstance(dispatch, Dispatch)
        resuming.rejoin(dispatch, rotation)
    children.scripts.take_up(left.scripts, children.by_id)


def begin(left: Handover, children: Children, standing: Mapping[str, Standing]) -> None:
    """There is no way back any more: what was held is handed on, and what the caretaker does in our place is told."""
    for key, state in {**left.listeners, **left.further}.items():
        queue = standing[key].queue if key in standing else None
        if isinstance(queue, Dispatch):
            resuming.hand_on(queue, state)
    children.scripts.proceed(left.scripts, children.by_id)
    if left.counted >= 0:
        boxes = [box for child in children.by_id.values() for box in child.boxes.values() if box.fd >= 0]
        caretaker.hear(children.loop, left.counted, {box.fd: box for box in boxes})


def _adopted(one: ChildState, children: Children, standing: Mapping[str, Standing]) -> Child:
    words = series.SIZE // scoreboard.WORD
    board = scoreboard.Board.attach(one.board, words, writable=False, keep=True)
    os.close(one.board)
    boxes, inboxes = {}, {}
    for name, state in one.boxes.items():
        inboxes[name] = mail.Inbox(state.reading)
        boxes[name] = Box(one.id, _outbox(state), inboxes[name], state.steal_after)
        boxes[name].take_up(state)
        boxes[name].believe(board.words, state.number)
    keys = {name: one.queues.get(name, name) for name in (*one.boxes, *one.shared)}
    queues = {name: standing[key].queue for name, key in keys.items() if key in standing}
    for queue in queues.values():
        if isinstance(queue, Dispatch):
            queue.thief.on_steal = children.stolen
    child = children.make(
        Spawn(one.id, one.pool, one.slot, one.generation),
        socket.socket(fileno=one.channel),
        board,
        boxes,
        inboxes,
        deque(one.last_lines, maxlen=children.crash_lines),
        Stacks(children.loop, one.stacks),
        queues,
        one.talk or Suspended(unread=one.unread),
    )
    child.shared, child.past = one.shared, one.past
    child.notified = Notified(one.notified) if one.notified >= 0 else None
    child.online, child.ready, child.draining = one.online, one.ready, one.draining
    child.killed, child.turned_ns = one.killed, one.turned_ns
    for output in one.outputs:
        children.listen(child, output.fd, output.stream, output.partial)
    children.adopt(child, one.pid, one.pidfd)
    return child


def _outbox(state: BoxState) -> mail.Outbox:
    if state.writing >= 0:
        return mail.Outbox(state.writing)
    closed = mail.Outbox(os.dup(state.reading))  # of a worker that drains: it gets no mail any more
    closed.close()
    return closed
