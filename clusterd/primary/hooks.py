"""What the workers of a pool say goes to a function of the service's own (``on_message``), in a process of its own.

The primary runs none of the service's code: it passes messages on, and what the function answers back. The process is
started with the pool's user, environment and directory when the first message comes, and again, ever more slowly, when
it dies; while it is not there, messages are dropped and that is said.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from ..config.schema import Pool
from ..errors import HostError, PeerError
from ..spawner.client import Plan
from ..unix import pidfd, spawn
from ..unix.stream import FdStream
from ..wire.channel import Channel, Received
from ..wire.conversation import Conversation
from ..wire.suspended import Suspended, suspend
from . import resuming
from .handover import HookState

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
"""Seconds until a hook that died is started again: twice as many each time, from the first to the longest; a hook that
has lived that long begins anew."""

MAX_LINE: Final = 2 * 1024 * 1024
MAX_QUEUED: Final = 8 * 1024 * 1024

Answer = Callable[[int, Any], None]
"""Takes a worker's number, and a message for it."""


class Hook:
    """One pool's.

    Args:
        loop: the primary's.
        target: ``module:function``.
        plan: gives how the pool's processes are started now.
        answer: sends a worker a message.
        warn: called with a sentence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: str,
        plan: Callable[[], Plan],
        answer: Answer,
        warn: Callable[[str], None],
    ) -> None:
        self.target = target
        self.pid = 0
        self._loop = loop
        self._plan = plan
        self._answer = answer
        self._warn = warn
        self._pidfd = -1
        self._talk: Conversation | None = None
        self._stream: FdStream | None = None
        self._delay = FIRST_DELAY
        self._began = 0.0
        self._not_before = 0.0
        self._dropped = False

    def give(self, worker: int, pool: str, slot: int, message: Any) -> None:
        """Pass a worker's message on."""
        if self._talk is None and self._pidfd < 0 and self._loop.time() >= self._not_before:
            self._start()
        if self._talk is None or self._talk.channel.broken is not None:
            if not self._dropped:
                self._dropped = True
                self._warn(f"on_message {self.target} does not run: messages of pool {pool} are dropped until it does")
            return
        self._dropped = False
        self._talk.send({"worker": worker, "pool": pool, "slot": slot, "message": message})

    def describe(self) -> HookState:
        """For a successor of this process."""
        left = HookState(
            self.target,
            delay=self._delay,
            began=self._began,
            not_before=self._not_before,
            dropped=self._dropped,
        )
        if self._talk is not None and self._stream is not None:
            left.pid, left.pidfd, left.channel = self.pid, self._pidfd, self._stream.fileno()
            left.talk = suspend(self._talk, self._stream.unsent())
        return left

    def take_up(self, left: HookState) -> None:
        """Its process lives already, if it has one."""
        self._delay, self._began = left.delay, left.began
        self._not_before, self._dropped = left.not_before, left.dropped
        if left.talk is not None:
            self._listen(left.pid, left.pidfd, socket.socket(fileno=left.channel), left.talk)

    def _start(self) -> None:
        plan = self._plan()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with far:
            try:
                child = spawn.spawn(
                    [sys.executable, "-m", "clusterd.worker.hooks", self.target, str(far.fileno()), str(os.getpid())],
                    env=plan.environment,
                    cwd=plan.cwd,
                    user=plan.user,
                    group=plan.group,
                    umask=plan.umask,
                    pass_fds=(far.fileno(),),
                )
            except HostError as error:
                near.close()
                self._warn(f"on_message {self.target} cannot be started: {error}")
                self._wait()
                return
        self._began = self._loop.time()
        self._listen(*child, near)

    def _listen(self, pid: int, fd: int, near: socket.socket, left: Suspended | None = None) -> None:
        self.pid, self._pidfd = pid, fd
        talk = self._talk = Conversation(
            Channel(max_line=MAX_LINE, max_queued=MAX_QUEUED), self._heard, lambda error: self._kill()
        )
        stream = self._stream = FdStream(self._loop, near, talk.data, self._kill, limit=MAX_QUEUED)
        if left is not None:
            resuming.take_up(talk, stream, left)
        talk.attach(stream)
        self._loop.add_reader(self._pidfd, self._ended)

    def _heard(self, received: Received) -> None:
        """The function's answer to a worker; it is the service's code, and not believed."""
        if received.fd is not None:
            os.close(received.fd)
        answer = received.message
        if isinstance(answer, dict) and type(answer.get("worker")) is int:
            try:
                self._answer(answer["worker"], answer.get("message"))
            except (PeerError, TypeError, ValueError):
                return

    def _kill(self) -> None:
        if self._pidfd >= 0:
            pidfd.send_signal(self._pidfd, signal.SIGKILL)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        try:
            if pidfd.peek(self._pidfd):
                pidfd.kill_group(self.pid)
            status = str(pidfd.wait(self._pidfd))
        except ChildProcessError:
            status = "a status that somebody else took"
        os.close(self._pidfd)
        self._pidfd, self.pid = -1, 0
        if self._talk is not None:
            self._talk.close()
            self._talk = None
        self._warn(f"on_message {self.target} ended with {status}; it is started again by a message")
        self._wait()

    def _wait(self) -> None:
        now = self._loop.time()
        if self._began and now - self._began > LONGEST_DELAY:
            self._delay = FIRST_DELAY
        self._not_before = now + self._delay
        self._delay = min(self._delay * 2, LONGEST_DELAY)

    def close(self) -> None:
        """End it: at the end of the service."""
        if self._talk is not None:
            self._talk.close()
            self._talk = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            self._kill()
            os.close(self._pidfd)  # whoever reaps orphans at the end finds it
            self._pidfd, self.pid = -1, 0


class Hooks:
    """Those of all pools.

    Args:
        loop: the primary's.
        plan: gives a pool's plan.
        answer: sends a worker a message.
        warn: called with a sentence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plan: Callable[[str], Plan],
        answer: Answer,
        warn: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._plan = plan
        self._answer = answer
        self._warn = warn
        self._hooks: dict[str, Hook] = {}

    def adopt(self, pools: Mapping[str, Pool]) -> None:
        """What the configuration says now."""
        for name in list(self._hooks):
            if name not in pools or pools[name].on_message != self._hooks[name].target:
                self._hooks.pop(name).close()
        for name, pool in pools.items():
            if pool.on_message and name not in self._hooks:
                plan = partial(self._plan, name)
                self._hooks[name] = Hook(self._loop, pool.on_message, plan, self._answer, self._warn)

    def give(self, worker: int, pool: str, slot: int, message: Any) -> None:
        """A worker of that pool has said something."""
        hook = self._hooks.get(pool)
        if hook is not None:
            hook.give(worker, pool, slot, message)

    def describe(self) -> dict[str, HookState]:
        """All of them, for a successor of this process."""
        return {pool: hook.describe() for pool, hook in self._hooks.items()}

    def take_up(self, left: Mapping[str, HookState]) -> None:
        """Those of a predecessor go on."""
        for pool, state in left.items():
            if pool in self._hooks:
                self._hooks[pool].take_up(state)

    def pids(self) -> set[int]:
        """The pids of those that run."""
        return {hook.pid for hook in self._hooks.values() if hook.pid}

    def close(self) -> None:
        """End all of them."""
        for hook in self._hooks.values():
            hook.close()
