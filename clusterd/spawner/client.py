"""The primary's end of a zygote: start it, have it fork, learn of its end. Every request gets exactly one answer.

The zygote is not trusted: an answer that breaks the rules ends it, and what it still owed is answered here.
"""

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..errors import HostError, PeerError
from ..unix import packets, pidfd, spawn
from ..wire import zygote as wire

#: Room for process titles: they are written over the arguments, so there must be some to write over.
TITLE_ROOM = " " * 160

#: Forks asked for and not answered, at most; more wait here. The zygote does one at a time anyway, and the packets
#: of hundreds would fill the socket.
IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How a zygote is started: what must be in force before its first instruction, and what it is told then."""

    load: wire.Load
    env: dict[str, str]
    cwd: str | None = None
    user: str | int | None = None
    group: str | int | None = None
    umask: int = -1


@dataclass(frozen=True, slots=True)
class Parts:
    """What one worker is born with. ``fds`` are closed here once they were sent."""

    request: wire.Spawn
    fds: tuple[int, ...]


class Owner(Protocol):
    """Who is told. ``zygote_ready`` or ``zygote_failed`` once, then ``zygote_gone`` once after a ``zygote_ready``."""

    def zygote_ready(self, client: "ZygoteClient", preloaded: bool, warning: str) -> None: ...
    def zygote_failed(self, client: "ZygoteClient", report: str) -> None: ...
    def zygote_gone(self, client: "ZygoteClient", report: str) -> None: ...
    def spawned(self, worker: int, pid: int, fd: int) -> None: ...
    def spawn_failed(self, worker: int, report: str, zygote_gone: bool) -> None: ...


class ZygoteClient:
    """One zygote, from its start to its reaping; a second process takes its place if forking proves unsafe.

    Args:
        loop: the primary's loop; everything here runs on its thread.
        plan: see :class:`Plan`.
        owner: see :class:`Owner`.
        output: called before each process is started; gives the descriptors for its standard output and error,
            which are closed here afterwards.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plan: Plan,
        owner: Owner,
        output: Callable[[], tuple[int, int]],
    ) -> None:
        self.plan = plan
        self.pid = 0
        self._loop = loop
        self._owner = owner
        self._output = output
        self._pidfd = -1
        self._control: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._unsafe = ""
        self._report = ""
        self._waiting: deque[tuple[int, Callable[[], Parts]]] = deque()
        self._flying: set[int] = set()

    @property
    def told(self) -> bool:
        """It has said itself why it ends."""
        return bool(self._report)

    @property
    def busy(self) -> bool:
        """A fork is on its way: a child of ours may exist that nobody has told us of yet."""
        return bool(self._flying)

    def start(self) -> None:
        """Start the process; the owner hears of it, also of a failure, later or at once."""
        near, far = packets.pair()
        stdout, stderr = self._output()
        # The service's own streams travel along for workers that outlive the primary, whose pipes then have no reader.
        ours = (os.dup(1), os.dup(2))
        argv = [sys.executable, "-m", "clusterd.spawner", *map(str, (far.fileno(), *ours)), TITLE_ROOM]
        plan = self.plan
        try:
            self.pid, self._pidfd = spawn.spawn(
                argv,
                env=plan.env,
                cwd=plan.cwd,
                user=plan.user,
                group=plan.group,
                umask=plan.umask,
                pass_fds=(far.fileno(), *ours),
                stdout=stdout,
                stderr=stderr,
            )
        except HostError as error:
            near.close()
            self._loop.call_soon(self._end, str(error))
            return
        finally:
            far.close()
            for fd in (stdout, stderr, *ours):
                os.close(fd)
        self._control = near
        self._loop.add_reader(self._pidfd, self._ended)
        self._loop.add_reader(near, self._readable)
        self._tell(plan.load, ())

    def spawn(self, worker: int, prepare: Callable[[], Parts]) -> None:
        """Have a worker forked. ``prepare`` is called when its turn comes; the owner gets the one answer.

        ``prepare`` may raise OSError (no descriptors left), which becomes a failed spawn.
        """
        self._waiting.append((worker, prepare))
        self._send_next()

    def stop(self) -> None:
        """End it by force; it serves nothing. The owner hears ``zygote_gone`` or ``zygote_failed``."""
        self._stopping = True
        if self._pidfd >= 0:
            pidfd.send_signal(self._pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Close the control socket without a word: the zygote takes that for the primary's death."""
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._control.close()
            self._control = None

    # -- sending -------------------------------------------------------------------------------------------------

    def _send_next(self) -> None:
        while self._waiting and len(self._flying) < IN_FLIGHT and self._control is not None:
            worker, prepare = self._waiting.popleft()
            try:
                parts = prepare()
            except OSError as error:
                self._owner.spawn_failed(worker, f"no descriptors for a new worker: {error.strerror}", False)
                continue
            self._flying.add(worker)
            if not self._tell(parts.request, parts.fds):
                self._flying.discard(worker)
                self._owner.spawn_failed(worker, "the zygote does not take requests", True)
            for fd in parts.fds:
                os.close(fd)

    def _tell(self, request: wire.Request, fds: Sequence[int]) -> bool:
        assert self._control is not None
        try:
            packets.send(self._control, wire.encode(request), fds)
        except OSError:
            return False  # it is gone or stuck; its pidfd or the start timeout says which
        return True

    # -- receiving -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        assert self._control is not None
        while self._control is not None:
            try:
                packet = packets.receive(self._control)
            except (EOFError, OSError):
                self._loop.remove_reader(self._control)
                return  # its end is told by the pidfd, with the status
            if packet is None:
                return
            try:
                self._answer(wire.read_answer(packet.data), packet.fds)
            except PeerError as error:
                for fd in packet.fds:
                    os.close(fd)
                self._report = str(error)
                self._loop.remove_reader(self._control)
                pidfd.send_signal(self._pidfd, signal.SIGKILL)
                return

    def _answer(self, answer: wire.Answer, fds: tuple[int, ...]) -> None:
        match answer:
            case wire.Spawned(worker, pid) if worker in self._flying and len(fds) == 1:
                self._flying.discard(worker)
                self._owner.spawned(worker, pid, fds[0])
                self._send_next()
                return
            case wire.SpawnFailed(worker, report) if worker in self._flying and not fds:
                self._flying.discard(worker)
                self._owner.spawn_failed(worker, report, False)
                self._send_next()
            case wire.Loaded(preloaded, unsafe) if not self._ready and not fds:
                self._ready = True
                self._owner.zygote_ready(self, preloaded, self._unsafe or unsafe)
            case wire.Unsafe(why) if not self._ready and not fds and self.plan.load.preload == "auto":
                self._unsafe = why
            case wire.Failed(_, report) if not self._ready and not fds:
                self._report = report
            case _:
                raise PeerError(f"the zygote answered {answer!r}, which nobody had asked for")

    # -- its end -------------------------------------------------------------------------------------------------

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._control is not None:
            self._readable()  # what it said last
        if pidfd.peek(self._pidfd):
            pidfd.kill_group(self.pid)
        status = pidfd.wait(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.release()
        if self._unsafe and not self._ready and not self._stopping and self.plan.load.preload == "auto":
            # Forking from there was unsafe. From one that imports nothing it is not: workers import for themselves.
            self.plan = replace(self.plan, load=replace(self.plan.load, preload="false"))
            self.start()
            return
        self._end(self._report or f"the zygote ended with {status}")

    def _end(self, report: str) -> None:
        flying, self._flying = self._flying, set()
        waiting, self._waiting = self._waiting, deque()
        for worker in [*flying, *(worker for worker, _ in waiting)]:
            self._owner.spawn_failed(worker, report, True)
        if self._ready or self._stopping:
            self._owner.zygote_gone(self, report)
        else:
            self._owner.zygote_failed(self, report)
