"""Both ends of a handover: what a running primary writes down of itself, and a new one made of that.

Only a quiet primary is written down: with no fork on its way, nothing said to a worker and not yet written, nothing
accepted and not yet handed on. It is quiet nearly always; what is under way takes milliseconds.
"""

import itertools
import os
import socket
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..config.schema import Config
from ..core.commands import Spawn
from ..core.facts import View
from ..core.supervisor import Supervisor
from ..unix import mail, scoreboard
from ..unix.notified import Notified
from ..wire import series
from .child import Child
from .children import Children
from .dispatch import Box, Dispatch
from .handover import BoxState, ChildState, Handover, HandoverError, OutputState, SocketState
from .listeners import Opened, Standing
from .stacks import Stacks
from .state import freeze, thaw

if TYPE_CHECKING:
    from .executor import Executor
    from .listeners import Listeners

UNBORN = ("spawning", "cancelled")


def why_not(config: Config, view: View) -> str:
    """Why this primary cannot be replaced now, a sentence; empty if it can."""
    if view.phase != "running":
        return "the service is stopping"
    if view.reload is not None:
        return "a reload is under way; wait for its verdict"
    other = [name for name, pool in config.pools.items() if not pool.app or pool.on_message]
    if other:
        named = ", ".join(other)
        return f"pools of programs, or with one for their messages, cannot be handed on ({named}); restart the service"
    return ""


def is_quiet(view: View, executor: "Executor", children: Children, listeners: "Listeners") -> bool:
    """Nothing is under way that could not be written down."""
    workers = [worker for pool in view.pools for worker in pool.workers]
    return (
        executor.quiet
        and all(worker.state not in UNBORN for worker in workers)
        and all(child.pid and child.talk.quiet and child.stacks.quiet for child in children.by_id.values())
        and all(one.quiet for one in listeners.dispatch.values() if isinstance(one, Dispatch))
    )


# -- the one that leaves -----------------------------------------------------------------------------------------------


def collect(supervisor: Supervisor, children: Children, listeners: "Listeners", generation: int) -> Handover:
    """What there is to hand on of a primary that is quiet."""
    turns = {
        (name, box.worker): place
        for name, dispatch in listeners.dispatch.items()
        if isinstance(dispatch, Dispatch)
        for place, box in enumerate(dispatch.in_turn())
    }
    return Handover(
        core=freeze(supervisor),
        children=tuple(_child(child, turns) for child in children.by_id.values()),
        listeners={name: _socket(one.opened) for name, one in listeners.standing.items()},
        seq=next(children.seq),
        generation=generation,
        reclaimed=tuple((*key, count) for key, count in children.reclaimed.items()),
    )


def _child(child: Child, turns: Mapping[tuple[str, int], int]) -> ChildState:
    boxes = {
        name: BoxState(
            writing=box.outbox.fileno(),
            reading=child.inboxes[name].fileno(),
            handed=box.handed,
            turn=turns.get((name, child.id), -1),
            steal_after=box.steal_after,
        )
        for name, box in child.boxes.items()
    }
    shared = [child.queues[name] for name in child.shared]
    return ChildState(
        id=child.id,
        pool=child.pool,
        slot=child.slot,
        generation=child.generation,
        pid=child.pid,
        pidfd=child.pidfd,
        channel=child.stream.fileno(),
        unread=child.talk.channel.unread,
        board=child.board.fd,
        stacks=child.stacks.fileno(),
        boxes=boxes,
        shared=child.shared,
        admitted=any(child.id in queue.workers for queue in shared if not isinstance(queue, Dispatch)),
        notified=-1 if child.notified is None else child.notified.fileno(),
        online=child.online,
        ready=child.ready,
        draining=child.draining,
        outputs=tuple(
            OutputState(fd=one.fileno(), stream=one.stream, partial=one.untold())
            for one in child.outputs
            if one.fileno() >= 0
        ),
        last_lines=tuple(child.last_lines),
    )


def _socket(opened: Opened) -> SocketState:
    bound = opened.bound
    device, inode = (bound.file if bound is not None else None) or (0, 0)
    return SocketState(
        fd=opened.sock.fileno(),
        path=bound.path if bound is not None else "",
        device=device,
        inode=inode,
        inherited=opened.inherited,
    )


# -- the one that comes ------------------------------------------------------------------------------------------------


def rules(left: Handover, fresh: Supervisor) -> Supervisor:
    """The rules where they stood; their zygotes are to be built anew.

    Raises:
        StateError: this version does not understand them.
    """
    found = thaw(left.core, fresh)
    if not isinstance(found, Supervisor):
        raise HandoverError("the state of the running primary has no rules in it")
    found.bereave()
    return found


def adopt(left: Handover, children: Children, standing: Mapping[str, Standing]) -> None:
    """Make the children of what was left; they are listened to from now on."""
    children.seq = itertools.count(left.seq)
    children.reclaimed.update({(pool, reason): count for pool, reason, count in left.reclaimed})
    rotations: dict[str, list[tuple[int, Box]]] = {}
    for one in left.children:
        child = _adopted(one, children, standing)
        for name, state in one.boxes.items():
            if state.turn >= 0 and name in child.queues:
                rotations.setdefault(name, []).append((state.turn, child.boxes[name]))
        for name in one.shared:
            queue = child.queues.get(name)
            if one.admitted and queue is not None and not isinstance(queue, Dispatch):
                queue.add(one.id)
    for name, rotation in rotations.items():
        dispatch = standing[name].queue
        assert isinstance(dispatch, Dispatch)
        for _, box in sorted(rotation, key=lambda entry: entry[0]):
            dispatch.add(box)


def _adopted(one: ChildState, children: Children, standing: Mapping[str, Standing]) -> Child:
    words = series.SIZE // scoreboard.WORD
    board = scoreboard.Board.attach(one.board, words, writable=False, keep=True)
    os.close(one.board)
    boxes, inboxes = {}, {}
    for name, state in one.boxes.items():
        inboxes[name] = mail.Inbox(state.reading)
        boxes[name] = Box(one.id, _outbox(state), inboxes[name], state.steal_after)
        boxes[name].handed = state.handed
    queues = {name: standing[name].queue for name in (*one.boxes, *one.shared) if name in standing}
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
    )
    child.shared = one.shared
    child.notified = Notified(one.notified) if one.notified >= 0 else None
    child.online, child.ready, child.draining = one.online, one.ready, one.draining
    for output in one.outputs:
        children.listen(child, output.fd, output.stream, output.partial)
    child.talk.channel.feed(one.unread)
    children.adopt(child, one.pid, one.pidfd)
    return child


def _outbox(state: BoxState) -> mail.Outbox:
    if state.writing >= 0:
        return mail.Outbox(state.writing)
    closed = mail.Outbox(os.dup(state.reading))  # of a worker that drains: it gets no mail any more
    closed.close()
    return closed
