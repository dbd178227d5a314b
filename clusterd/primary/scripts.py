"""Pools of programs that use ``cluster`` themselves, Python's and Node's: this primary is theirs.

They ask for their servers (:mod:`.sharing`, one for each pool, which outlives its workers), say when they are ready, in
one of the ways that programs have for it, and are asked to end in one of the ways that they know.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath
from typing import Final, Protocol

from ..config.schema import Pool
from ..errors import PeerError
from ..unix.notified import Notified
from ..wire import messages
from ..wire.channel import Received
from ..wire.conversation import Conversation
from . import resuming
from .dispatch import Box, Dispatch
from .handover import ScriptsState
from .readiness import Readiness
from .sharing import Member, Sharing

NODE_PROGRAMS: Final = (".js", ".mjs", ".cjs")
"""Endings of programs that Node runs."""

PULSE: Final = 2.0
"""Seconds between two questions whether a Node worker's event loop turns."""

NOBODY: Final = "clusterd:pulse"
"""A key that no server has: its ``newconn`` is refused by the event loop itself, before any code of the program."""


def is_node(pool: Pool) -> bool:
    """Whether Node runs the pool's script."""
    return PurePath(pool.script).suffix in NODE_PROGRAMS


def argv(pool: Pool, python: str) -> list[str]:
    """The command of a script pool's workers; empty for pools of another kind."""
    if not pool.script:
        return []
    return [pool.interpreter or ("node" if is_node(pool) else python), pool.script, *pool.args]


class Worker(Protocol):
    """A worker, as far as this is concerned with it.

    Attributes:
        notified: where it says that it is ready, if it says it so.
        boxes: how it is handed connections, by listener: for the figures.
        turned_ns: when its event loop was last seen to turn, ``CLOCK_MONOTONIC``, if it does not say so itself.
    """

    id: int
    pool: str
    ready: bool
    notified: Notified | None
    talk: Conversation
    boxes: dict[str, Box]
    turned_ns: int


class Scripts:
    """What the primary does for script pools.

    Args:
        loop: the primary's.
        pools: the configuration's; those without a script are none of its business.
        on_ready: called with a worker that is ready; may be called again.
        on_short: called with a sentence when the kernel is short of something.
        on_broken: called with a worker that takes no mail any more.
        on_reclaimed: called with pool, reason and number of connections that others get.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pools: Mapping[str, Pool],
        *,
        on_ready: Callable[[int], None] = lambda worker: None,
        on_short: Callable[[str], None] = lambda sentence: None,
        on_broken: Callable[[int], None] = lambda worker: None,
        on_reclaimed: Callable[[str, str, int], None] = lambda pool, reason, count: None,
    ) -> None:
        self._loop = loop
        self._pools: dict[str, Pool] = {}
        self._sharing: dict[str, Sharing] = {}
        self._on_ready = on_ready
        self._on_short = on_short
        self._on_broken = on_broken
        self._on_reclaimed = on_reclaimed
        self._asked: set[int] = set()
        self._pulses: dict[int, asyncio.TimerHandle] = {}
        self._readiness = Readiness(loop, on_ready)
        self._felt_workers: set[int] = set()
        self.adopt(pools)

    def adopt(self, pools: Mapping[str, Pool]) -> None:
        """What the configuration says now, or may come to say: also of pools that a reload adds."""
        for name, pool in pools.items():
            if pool.script:
                self._pools[name] = pool
                if name not in self._sharing:
                    self._sharing[name] = self._share(name)

    def _share(self, pool: str) -> Sharing:
        return Sharing(
            self._loop,
            self._on_short,
            self._on_broken,
            keep=True,
            may_share=_is_listening,
            on_steal=lambda worker: self._on_reclaimed(pool, "blocked", 1),
            on_reclaimed=lambda worker, count: self._on_reclaimed(pool, "dead", count),
        )

    # -- when they are ready -------------------------------------------------------------------------------------

    def notified(self, pool: str) -> Notified | None:
        """Where a new worker of this pool is to say that it is ready, if that is how its workers say it.

        Raises:
            OSError: this process is out of descriptors or memory.
        """
        return Notified() if pool in self._pools and self._pools[pool].ready_when == "notify" else None

    def begin(self, worker: Worker) -> None:
        """It exists."""
        if worker.pool in self._pools:
            self._readiness.begin(worker, self._pools[worker.pool])

    # -- what workers say ----------------------------------------------------------------------------------------

    def said(self, worker: Worker | None, message: object) -> None:
        """A message of the program's own. Some of them say that it is ready: PM2's, and that of many tutorials."""
        if worker is None or worker.pool not in self._pools:
            return
        how = self._pools[worker.pool].ready_when
        is_it = message == "ready" or (isinstance(message, dict) and message.get("type") == "READY")
        if is_it and how in ("auto", "message"):
            self._on_ready(worker.id)

    def heard(self, worker: Worker | None, message: object) -> None:
        """A message of the cluster."""
        if worker is None or worker.pool not in self._pools:
            return
        pool, sharing = self._pools[worker.pool], self._sharing[worker.pool]
        match message:
            case messages.Online():
                if is_node(pool):
                    self._feel(worker)
            case messages.QueryServer():
                if worker.id in self._asked:  # Node's own primary would leave it without an answer
                    worker.talk.send(messages.query_reply(message.seq, "", errno=-errno.ECANCELED))
                    return
                member = Member(worker.id, worker.talk, pool.scheduling != "none", pool.steal_after)
                seat = sharing.query(member, message)
                if seat is not None:
                    worker.boxes[seat[0]] = seat[1]
            case messages.Listening():
                if pool.ready_when in ("auto", "listening"):
                    self._on_ready(worker.id)
            case messages.Close(key):
                sharing.close(worker.id, key)
            case messages.Gate(key, is_open):
                sharing.gate(worker.id, key, is_open)
            case _:
                pass

    def door(self, worker: Worker) -> tuple[str, Callable[[], None]] | None:
        """How it can be handed a connection of its own; ``None`` while it serves nothing.

        Returns:
            The key under which it goes by channel, and what to call when it was accepted.
        """
        if worker.pool not in self._pools:
            return messages.PROBE, lambda: None
        for server in self._sharing[worker.pool].servers.values():
            if worker.id in server.seats:
                return server.key, partial(self._knock, server.seats[worker.id].box)
        return None

    def _knock(self, box: Box | None) -> None:
        if box is not None:
            box.knock(self._loop.time())

    # -- a successor of this process -----------------------------------------------------------------------------

    def dispatches(self) -> list[Dispatch]:
        """All that hand connections over."""
        servers = [server for sharing in self._sharing.values() for server in sharing.servers.values()]
        return [server.dispatch for server in servers if server.dispatch is not None]

    def describe(self) -> ScriptsState:
        """All of it, for a successor."""
        return ScriptsState(
            dict(self._pools),
            {pool: sharing.describe() for pool, sharing in self._sharing.items()},
            tuple(self._asked),
            tuple(self._felt_workers),
        )

    def take_up(self, left: ScriptsState, workers: Mapping[int, Worker]) -> None:
        """Go on where a predecessor of this process has left it."""
        self.adopt(left.pools)
        self._asked.update(left.asked)
        for pool, servers in left.servers.items():
            talks = {worker.id: worker.talk for worker in workers.values() if worker.pool == pool}
            for worker, boxes in self._sharing[pool].take_up(servers, talks).items():
                workers[worker].boxes.update(boxes)

    def proceed(self, left: ScriptsState, workers: Mapping[int, Worker]) -> None:
        """The predecessor is gone for good: what it held is handed on, and workers are asked whether they turn."""
        for worker in left.felt:
            self._feel(workers[worker])
        for pool, servers in left.servers.items():
            for one in servers:
                dispatch = self._sharing[pool].servers[one.key].dispatch
                if dispatch is not None:
                    resuming.hand_on(dispatch, one.sock)

    # -- the end of one ------------------------------------------------------------------------------------------

    def drain(self, worker: Worker) -> bool:
        """It is handed nothing more, and is asked to end, once: a second ``disconnect`` crashes Node's workers.

        Returns:
            False, and nothing is done: it is of no script pool.
        """
        if worker.pool not in self._pools:
            return False
        self._sharing[worker.pool].leave(worker.id, gone=False)
        if worker.id not in self._asked:
            self._asked.add(worker.id)
            worker.talk.send(self._pools[worker.pool].stop_message or messages.disconnect())
        return True

    def ended(self, worker: Worker) -> None:
        """It is gone: what it had not taken goes to others."""
        if worker.pool not in self._pools:
            return
        self._sharing[worker.pool].leave(worker.id, gone=True)
        self._readiness.end(worker)
        self._asked.discard(worker.id)
        self._felt_workers.discard(worker.id)
        pulse = self._pulses.pop(worker.id, None)
        if pulse is not None:
            pulse.cancel()

    # -- the end of all ------------------------------------------------------------------------------------------

    def close(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Take no new connections; ``done`` is called when what waits has been handed on."""
        waiting = len(self._sharing)
        if not waiting:
            done()
            return

        def closed() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()

        for sharing in self._sharing.values():
            sharing.stop(hand_on, closed)

    def discard(self) -> None:
        """At the very end: close all."""
        for sharing in self._sharing.values():
            sharing.close_all()
        for pulse in self._pulses.values():
            pulse.cancel()
        self._pulses.clear()

    # -- does it turn? -------------------------------------------------------------------------------------------

    def _feel(self, worker: Worker) -> None:
        """Ask a Node worker for a sign of life; the next question comes with its answer."""
        self._pulses.pop(worker.id, None)
        self._felt_workers.add(worker.id)
        near, far = socket.socketpair()
        far.close()
        worker.talk.ask(messages.newconn(NOBODY), lambda answer: self._felt(worker, answer), near.detach())

    def _felt(self, worker: Worker, answer: Received) -> None:
        try:
            reply = messages.read(answer.message)
        except PeerError:
            reply = None
        if isinstance(reply, messages.Reply):
            worker.turned_ns = time.monotonic_ns()
        self._pulses[worker.id] = self._loop.call_later(PULSE, self._feel, worker)


def _is_listening(fd: int) -> bool:
    """Whether a worker may have this descriptor of ours: a listening socket, such as the service manager passes. Our
    own control socket is one too, so only what was inherited counts: that is not close-on-exec's, and low."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
    return listening and os.get_inheritable(fd)
