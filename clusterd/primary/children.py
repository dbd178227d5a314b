"""The only map that holds pids: worker id to process, channel, mailboxes, scoreboard and output."""

import asyncio
import itertools
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from ..core import events as e
from ..core.commands import Spawn
from ..errors import PeerError
from ..spawner.client import Parts
from ..unix import cgroup, lifeline, mail, pidfd, scoreboard
from ..unix.stream import FdStream
from ..wire import messages, reports, series
from ..wire import zygote as wire
from ..wire.channel import Channel, Received
from ..wire.conversation import Conversation
from ..wire.suspended import Suspended
from . import output, resuming
from . import stacks as stack_files
from .child import Child
from .dispatch import Box, Dispatch
from .editions import Edition
from .memory import Weight
from .oom import OomKills
from .scripts import Scripts
from .shared import Shared

#: The longest line a worker may send, and what it may leave unread, in bytes. A line of empty arrays becomes twenty
#: times its size in memory, so the bound is well below what a channel would take; the second is below the stream's own.
MAX_LINE = 2 * 1024 * 1024
MAX_QUEUED = 8 * 1024 * 1024

#: Bytes read from one worker in one turn: a worker that sends nothing but tiny messages delays the others by a few
#: milliseconds a turn then, and not by a tenth of a second.
READ_SIZE = 4 * 1024

#: Seconds from the end of a channel until a worker that still lives counts as leaving by its own will.
HANG_UP = 0.2


class Children:
    """Makes the parts of new workers, hears what they say, learns of their end.

    Args:
        loop: the primary's loop.
        report: takes events for the core.
        on_line: called with pool, slot, worker, stream and text of every line of output.
        on_message: called with worker, message and descriptor of every message of the app's; the descriptor is the
            callee's.
        on_report: called with worker and what it tells for eyes alone.
        on_broken: called with worker and sentence when a worker breaks the rules; it is killed then.
        capture: whether output is captured.
        crash_lines: how many of its last lines are kept.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[e.Event], None],
        *,
        on_line: Callable[[str, int | None, int | None, str, str], None],
        on_message: Callable[[int, Any, int | None], None],
        on_report: Callable[[int, reports.Collected | reports.SlowRequest], None],
        on_broken: Callable[[int, str], None],
        capture: bool,
        crash_lines: int,
    ) -> None:
        self.by_id: dict[int, Child] = {}
        self.lifeline = lifeline.Lifeline()
        self.oom_kills = OomKills(cgroup.Counters().oom_kills)
        self.scripts = Scripts(loop, {})
        self.reclaimed: dict[tuple[str, str], int] = {}
        self.loop = loop
        self._report = report
        self._on_line = on_line
        self._on_message = on_message
        self._on_report = on_report
        self._on_broken = on_broken
        self._capture = capture
        self.crash_lines = crash_lines or 1
        self.budget = output.Budget(loop.time)
        self.seq = itertools.count()  # Node counts its messages per process

    # -- birth ---------------------------------------------------------------------------------------------------

    def prepare(self, command: Spawn, edition: Edition) -> Parts:
        """Make channel, scoreboard, output and mailboxes of a worker to be.

        Raises:
            OSError: this process is out of descriptors or memory; nothing is left open.
        """
        theirs: list[int] = []
        ours: list[Callable[[], None]] = []
        try:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.append(near.close)
            theirs.append(far.detach())
            board_fd = scoreboard.create(series.SIZE // scoreboard.WORD)
            theirs.append(board_fd)
            board = scoreboard.Board.attach(board_fd, series.SIZE // scoreboard.WORD, writable=False, keep=True)
            ours.append(board.close)
            stacks_fd = stack_files.create()
            theirs.append(stacks_fd)
            stacks = stack_files.Stacks(self.loop, os.dup(stacks_fd))
            ours.append(stacks.close)
            theirs.append(self.lifeline.lend())
            last_lines: deque[str] = deque(maxlen=self.crash_lines)
            pipes = []
            for stream in ("stdout", "stderr") if self._capture else ():
                reading, kept, writing = output.pipe()
                ours.append(lambda fd=reading: os.close(fd))  # type: ignore[misc]
                theirs += [writing, kept]
                pipes.append((reading, stream))
            notified = self.scripts.notified(command.pool)
            if notified is not None:
                ours.append(notified.close)
            boxes: dict[str, Box] = {}
            inboxes: dict[str, mail.Inbox] = {}
            queues = {name: one.queue for name, one in edition.listeners.items()}
            for name, dispatch in queues.items():
                if isinstance(dispatch, Shared):
                    theirs.append(dispatch.lend())
                    continue
                writing, reading = mail.pair()
                outbox, inbox = mail.Outbox(writing), mail.Inbox(reading)
                ours += [outbox.close, inbox.close]
                box = Box(command.worker, outbox, inbox, edition.steal_after)
                box.believe(board.words, len(boxes))
                dispatch.thief.on_steal = self.stolen
                boxes[name], inboxes[name] = box, inbox
                theirs.append(os.dup(reading))
        except BaseException:
            for close in ours:
                close()
            for fd in theirs:
                os.close(fd)
            raise
        child = self.make(command, near, board, boxes, inboxes, last_lines, stacks, queues)
        child.shared = tuple(name for name in queues if name not in boxes)
        child.notified = notified
        for reading, stream in pipes:
            self.listen(child, reading, stream)
        addresses = [[name, *one.sockname] for name, one in edition.listeners.items()]
        notify = "" if notified is None else notified.address
        return Parts(wire.Spawn(command.worker, command.slot, self._capture, addresses, notify), tuple(theirs))

    def make(
        self,
        command: Spawn,
        near: socket.socket,
        board: scoreboard.Board,
        boxes: dict[str, Box],
        inboxes: dict[str, mail.Inbox],
        last_lines: deque[str],
        stacks: stack_files.Stacks,
        queues: dict[str, Dispatch | Shared],
        left: Suspended | None = None,
    ) -> Child:
        """A worker's record, with its channel open (``left``: or taken up); the descriptors are its own from now on."""
        worker = command.worker
        talk = Conversation(
            Channel(seq=self.seq, max_line=MAX_LINE, max_queued=MAX_QUEUED),
            lambda received: self._heard(worker, received),
            lambda error: self._broken(worker, str(error)),
        )
        stream = FdStream(
            self.loop, near, talk.data, lambda: self._hung_up(worker), limit=MAX_QUEUED, read_size=READ_SIZE
        )
        if left is not None:
            resuming.take_up(talk, stream, left)
        talk.attach(stream)
        child = Child(
            worker,
            command.pool,
            command.slot,
            command.generation,
            talk,
            stream,
            board,
            boxes,
            inboxes,
            last_lines,
            stacks,
            series.Reader(board.bytes),
            queues,
        )
        self.by_id[worker] = child
        return child

    def listen(self, child: Child, fd: int, stream: str, untold: bytes = b"") -> None:
        """Read what it prints to a pipe."""

        def sink(stream: str, text: str) -> None:
            self._on_line(child.pool, child.slot, child.id, stream, text)

        child.outputs.append(output.Output(self.loop, fd, stream, sink, child.last_lines, self.budget, untold))

    def adopt(self, child: Child, pid: int, fd: int) -> None:
        """It lives already: learn of its end."""
        child.pid, child.pidfd = pid, fd
        self.loop.add_reader(fd, self._ended, child)
        self.scripts.begin(child)

    def born(self, worker: int, pid: int, fd: int) -> None:
        """The zygote has forked it: it may go, now that its end cannot escape us."""
        if (child := self.by_id.get(worker)) is None:
            os.close(fd)
            return
        self.adopt(child, pid, fd)
        child.talk.send(messages.go())
        self._report(e.Spawned(worker))
        if child.talk.channel.broken is not None:  # by whom, before there was a worker? It cannot be told to go
            self.kill(worker)

    def unborn(self, worker: int) -> None:
        """It was not forked: what was made for it is closed."""
        if (child := self.by_id.pop(worker, None)) is not None:
            child.release()

    # -- life ----------------------------------------------------------------------------------------------------

    def _heard(self, worker: int, received: Received) -> None:
        if not received.internal:
            self.scripts.said(self.by_id.get(worker), received.message)
            self._on_message(worker, received.message, received.fd)
            return
        if received.fd is not None:
            os.close(received.fd)  # no message of ours from a worker carries one
        try:
            message = messages.read(received.message) or reports.read(received.message)
        except PeerError as error:
            self._broken(worker, str(error))
            return
        child = self.by_id.get(worker)
        match message:
            case messages.Online():
                if child is not None:
                    child.online = True
                self._report(e.Online(worker))
                self.scripts.heard(child, message)
            case messages.Ready() if child is not None and not child.ready and not child.draining:
                child.ready = True
                self._report(e.Ready(worker))
            case messages.Failed(stage, report):
                self._report(e.BootFailed(worker, stage, report))
            case reports.Collected() | reports.SlowRequest():
                self._on_report(worker, message)
            case messages.ExitedAfterDisconnect(seq):
                if child is not None:
                    child.talk.send(messages.acknowledgement(seq))
                self._report(e.Leaving(worker))
            case _:
                self.scripts.heard(child, message)

    def script_ready(self, worker: int) -> None:
        """A worker of a script pool has said in some way that it is ready."""
        if (child := self.by_id.get(worker)) is not None and not child.ready and not child.draining:
            child.ready = True
            self._report(e.Ready(worker))

    def _hung_up(self, worker: int) -> None:
        """Its channel is at its end. A dying process closes that before its pidfd tells, so death gets a moment."""
        self.loop.call_later(HANG_UP, self._left, worker)

    def _left(self, worker: int) -> None:
        if worker in self.by_id:
            self._report(e.Leaving(worker))

    def _broken(self, worker: int, why: str) -> None:
        self._on_broken(worker, why)
        self.kill(worker)

    def admit(self, worker: int, slot: int) -> None:
        """Hand it its share from now on. A spare is told the place that it has got."""
        child = self.by_id[worker]
        if child.slot != slot:
            child.slot = slot
            child.talk.send(messages.admit(slot))
        for name, queue in child.queues.items():
            if isinstance(queue, Shared):
                queue.add(worker)
            else:
                queue.add(child.boxes[name])

    def say(self, worker: int, message: Any) -> None:
        """Send a message of the service's own; of a worker that is gone it is dropped.

        Raises:
            TypeError, ValueError: it is nothing JSON can say, or too long.
        """
        if (child := self.by_id.get(worker)) is not None:
            child.talk.send(message)

    def drain(self, worker: int) -> None:
        """Hand it nothing more, and ask it to end."""
        child = self.by_id[worker]
        child.draining = True
        for queue in child.queues.values():
            queue.remove(worker)
        if not self.scripts.drain(child):
            child.talk.send(messages.disconnect())
            child.close_mail()
        if not (child.ready and child.online) and child.pidfd >= 0:
            # It may be importing and deaf to its channel, or a program that knows of none. SIGTERM ends an import, and
            # asks the others politely.
            self._signal(child, signal.SIGTERM)

    def vitals(self) -> e.Vitals:
        """What all that are ready say of themselves. Untrusted."""
        return e.Vitals(tuple(child.vital() for child in self.by_id.values() if child.ready and not child.draining))

    def weights(self) -> list[Weight]:
        """What each that is born holds of the memory."""
        return [child.weight() for child in self.by_id.values() if child.pid]

    def kill(self, worker: int) -> bool:
        """SIGKILL to it and its process group; false if it is not known or not born."""
        if (child := self.by_id.get(worker)) is None or child.pidfd < 0:
            return False
        child.killed = True
        pidfd.kill_group(child.pid)  # not reaped yet, so the number is still its own
        self._signal(child, signal.SIGKILL)
        return True

    def visit(self, worker: int, refused: Callable[[], None], *, starting: bool = False) -> socket.socket | None:
        """A connection to this worker alone, through no queue: over its channel, as Node hands over connections.

        Args:
            refused: called if the worker will not have it.
            starting: it is one that is not ready yet.
        """
        child = self.by_id.get(worker)
        door = None if child is None else self.scripts.door(child)
        if child is None or door is None or child.ready is starting or child.draining:
            return None
        return child.visit(*door, refused)

    def stacks(self, worker: int, done: Callable[[str], None]) -> bool:
        """Have ``done`` called, later and once, with a worker's stacks as text; false if it is not known or not born.

        It stops nothing, and takes a second where the interpreter cannot be had (:mod:`.stacks`).
        """
        if (child := self.by_id.get(worker)) is None or child.pidfd < 0:
            return False
        child.stacks.ask(child.pidfd, done)
        return True

    def _signal(self, child: Child, number: signal.Signals) -> None:
        try:
            pidfd.send_signal(child.pidfd, number)
        except PermissionError:
            why = f"{number.name} is not permitted; a primary whose pool has another user needs CAP_KILL"
            self._on_broken(child.id, why)

    # -- death ---------------------------------------------------------------------------------------------------

    def _ended(self, child: Child) -> None:
        self.loop.remove_reader(child.pidfd)
        try:
            if pidfd.peek(child.pidfd):
                pidfd.kill_group(child.pid)  # first: once the leader is reaped the number may be a stranger's
            status = pidfd.wait(child.pidfd)
        except ChildProcessError:
            status = None  # its parent is not us: the zygote and its middle were killed between two forks
        child.stream.read_now()  # why it failed, perhaps
        for reader in child.outputs:
            reader.finish()
        for name, queue in child.queues.items():
            queue.remove(child.id)
            if isinstance(queue, Dispatch):
                child.boxes[name].outbox.close()
                self._reclaim(child.pool, child.inboxes[name], queue)
        self.scripts.ended(child)
        code, number = (None, int(signal.SIGKILL)) if status is None else (status.code, status.signal)
        oom = number == signal.SIGKILL and not child.killed and self.oom_kills.blame()
        self._report(e.Exited(child.id, code, number, oom))
        del self.by_id[child.id]
        child.release()

    def _reclaim(self, pool: str, inbox: mail.Inbox, dispatch: Dispatch) -> None:
        """One at a time, each handed on before the next is taken: with no descriptor free, what is taken is lost."""
        try:
            while (got := inbox.take()) is not None:
                self.count(pool, "dead", dispatch.reclaim([got]))
        except (EOFError, OSError):
            return  # that was all

    def stolen(self, worker: int) -> None:
        """A connection of this worker's went to another, which was faster."""
        self.count(self.by_id[worker].pool, "blocked", 1)

    def count(self, pool: str, reason: str, count: int) -> None:
        if count:  # connections of a pool's workers that went to others
            self.reclaimed[pool, reason] = self.reclaimed.get((pool, reason), 0) + count
