"""The primary's end of a zygote: start it, have it fork, learn of its end. Every request gets exactly one answer.

The zygote is not trusted: an answer that breaks the rules ends it, and what it still owed is answered here.
"""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..errors import HostError, PeerError
from ..unix import memfile, packets, pidfd, process, spawn
from ..wire import zygote as wire
from ..wire.tls import Material, pack

#: Room for process titles: they are written over the arguments, so there must be some to write over.
TITLE_ROOM = " " * 160

#: Forks asked for and not answered, at most; more wait here. The zygote does one at a time anyway, and the packets
#: of hundreds would fill the socket.
IN_FLIGHT = 8

#: Answers taken in one turn of the loop: a zygote that speaks without end must not hold up the primary.
ANSWERS_A_TURN = 16

#: Workers whose pidfd and scoreboard go with one packet.
ADOPTED_AT_ONCE = packets.MAX_FDS // 2

#: The machine is short of something, and the zygote is not to blame.
_SHORT = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Plan:
    """How a zygote is started: what must be in force before its first instruction, and what it is told then."""

    load: wire.Load
    env: dict[str, str]
    cwd: str | None = None
    user: str | int | None = None
    group: str | int | None = None
    umask: int = -1
    tls: Mapping[str, Material] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """``env``, and the mark of what this process starts by the plan."""
        return self.env | {wire.ORIGIN: wire.origin(self.load, process.start_time())}


@dataclass(frozen=True, slots=True)
class Parts:
    """What one worker is born with. ``fds`` are closed here once they were sent."""

    request: wire.Spawn
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """A zygote's process, and what it has said so far, for another process to go on with.

    Attributes:
        control: our end of its socket.
        load: what it was told to load.
        speaks: the version of its protocol.
    """

    pid: int
    pidfd: int
    control: int
    ready: bool
    stopping: bool
    unsafe: str
    warning: str
    report: str
    load: wire.Load
    speaks: int = 1


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

    Attributes:
        taken_up: it was started by a predecessor of this process.
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
        self.taken_up, self._speaks = False, wire.VERSION
        self._loop = loop
        self._owner = owner
        self._output = output
        self._pidfd = -1
        self._control: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._unsafe = ""  # why this process cannot be forked from
        self._warning = ""  # why the one before it could not
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

    @property
    def ready(self) -> bool:
        """It can fork."""
        return self._ready and not self._stopping

    @property
    def idle(self) -> bool:
        """No fork is on its way or waits."""
        return not (self._flying or self._waiting)

    @property
    def quiet(self) -> bool:
        """It is idle, and a process: it can be described."""
        return self.idle and self._pidfd >= 0 and self._control is not None

    def describe(self) -> Left:
        """For a successor of the primary's process; of one that is quiet."""
        assert self._control is not None
        return Left(
            pid=self.pid,
            pidfd=self._pidfd,
            control=self._control.fileno(),
            ready=self._ready,
            stopping=self._stopping,
            unsafe=self._unsafe,
            warning=self._warning,
            report=self._report,
            load=self.plan.load,
            speaks=self._speaks,
        )

    def take_up(self, left: Left) -> None:
        """In the place of ``start``: it lives already, and a predecessor of this process has begun to hear it."""
        self.pid, self._pidfd, self.taken_up, self._speaks = left.pid, left.pidfd, True, left.speaks
        self._ready, self._stopping = left.ready, left.stopping
        self._unsafe, self._warning, self._report = left.unsafe, left.warning, left.report
        self._control = socket.socket(fileno=left.control)
        self._listen(self._control)

    def hand_to(self, owner: Owner) -> None:
        """Have somebody else told from now on."""
        self._owner = owner

    def adopt(self, workers: Sequence[tuple[int, int, int]]) -> None:
        """Make workers its own that another forked: pid, pidfd and scoreboard of each, which stay the caller's.

        It buries them if the primary dies, and looks what programs among them use. What it cannot be told now for want
        of room stays without; those of a thousand fit.
        """
        program = bool(self.plan.load.program)
        for start in range(0, len(workers), ADOPTED_AT_ONCE):
            some = workers[start : start + ADOPTED_AT_ONCE]
            boards = [board for _, _, board in some] if program else []
            self._tell(wire.Adopt([pid for pid, _, _ in some]), [*(fd for _, fd, _ in some), *boards])

    def start(self) -> None:
        """Start the process; the owner hears of it later, also of a failure."""
        try:
            self._control, self._speaks = self._exec(), wire.VERSION
        except (HostError, OSError) as error:
            self._loop.call_soon(self._end, f"cannot start a zygote: {error}")
            return
        self._listen(self._control)
        refused = self._tell_load()
        if refused is not None:
            self._report = f"the zygote cannot be told what to load: {refused}"
            pidfd.send_signal(self._pidfd, signal.SIGKILL)

    def _listen(self, control: socket.socket) -> None:
        self._loop.add_reader(self._pidfd, self._ended)
        self._loop.add_reader(control, self._readable)

    def _tell_load(self) -> Exception | None:
        if not self.plan.tls:
            return self._tell(self.plan.load, ())
        try:
            secrets = memfile.create("tls", pack(self.plan.tls))
        except OSError as error:
            return error
        try:
            return self._tell(self.plan.load, (secrets,))
        finally:
            os.close(secrets)

    def _exec(self) -> socket.socket:
        """Returns our end of the control socket."""
        plan = self.plan
        with ExitStack() as theirs, ExitStack() as if_it_fails:
            near, far = packets.pair()
            if_it_fails.enter_context(near)
            theirs.enter_context(far)
            stdout, stderr = self._output()
            for fd in (stdout, stderr):
                theirs.callback(os.close, fd)
            # The service's own streams travel along for workers that outlive the primary: their pipes have no reader.
            ours = []
            for fd in (1, 2):
                ours.append(os.dup(fd))
                theirs.callback(os.close, ours[-1])
            argv = [sys.executable, "-m", "clusterd.spawner", *map(str, (far.fileno(), *ours)), TITLE_ROOM]
            self.pid, self._pidfd = spawn.spawn(
                argv,
                env=plan.environment,
                cwd=plan.cwd,
                user=plan.user,
                group=plan.group,
                umask=plan.umask,
                pass_fds=(far.fileno(), *ours),
                stdout=stdout,
                stderr=stderr,
            )
            if_it_fails.pop_all()
            return near

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
            refused = self._tell(parts.request, wire.understood(parts.fds, self._speaks))
            for fd in parts.fds:
                os.close(fd)
            if refused is not None:
                self._flying.discard(worker)
                # Unless it is the machine that is short, the zygote is gone or stuck, and of no more use.
                to_blame = getattr(refused, "errno", None) not in _SHORT
                self._owner.spawn_failed(worker, f"the zygote does not take requests: {refused}", to_blame)

    def _tell(self, request: wire.Request, fds: Sequence[int]) -> Exception | None:
        assert self._control is not None
        try:
            packets.send(self._control, wire.encode(request), fds)
        except (OSError, ValueError) as error:
            return error
        return None

    # -- receiving -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(ANSWERS_A_TURN):
            if self._control is None:
                return
            try:
                packet = packets.receive(self._control)
            except (EOFError, OSError):
                # Its end is told by the pidfd, with the status. One that lives on without its socket is of no use.
                self._drop()
                return
            if packet is None:
                return
            try:
                self._answer(wire.read_answer(packet.data, self._speaks), packet.fds, packet.truncated)
            except PeerError as error:
                for fd in packet.fds:
                    os.close(fd)
                self._report = str(error)
                self._drop()
                return

    def _drop(self) -> None:
        """Hear it no more, and end it; harmless if it has ended."""
        if self._control is not None:
            self._loop.remove_reader(self._control)
        pidfd.send_signal(self._pidfd, signal.SIGKILL)

    def _answer(self, answer: wire.Answer, fds: tuple[int, ...], truncated: bool) -> None:
        match answer:
            case wire.Spawned(worker, _) if worker in self._flying and truncated and not fds:
                # We are out of descriptors. The worker never hears `go`, and ends when its channel does.
                self._flying.discard(worker)
                self._owner.spawn_failed(worker, "no descriptor for a new worker's pidfd", False)
                self._send_next()
            case wire.Spawned(worker, pid) if worker in self._flying and len(fds) == 1:
                if not pidfd.is_child(fds[0], pid):
                    raise PeerError(f"the zygote passed off something else as a pidfd of a new worker {pid}")
                self._flying.discard(worker)
                self._owner.spawned(worker, pid, fds[0])
                self._send_next()
            case wire.SpawnFailed(worker, report) if worker in self._flying and not fds:
                self._flying.discard(worker)
                self._owner.spawn_failed(worker, report, False)
                self._send_next()
            case wire.Loaded(preloaded, unsafe) if self._awaited and not fds:
                self._ready = True
                self._owner.zygote_ready(self, preloaded, self._warning or unsafe)
            case wire.Unsafe(why) if self._awaited and not fds and self.plan.load.preload == "auto":
                self._unsafe = why
            case wire.Failed(_, report) if self._awaited and not fds:
                self._report = report
            case _:
                raise PeerError(f"the zygote answered {answer!r}, which nobody had asked for")

    # -- its end -------------------------------------------------------------------------------------------------

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._control is not None:
            self._readable()  # what it said last
        try:
            if pidfd.peek(self._pidfd):
                pidfd.kill_group(self.pid)
            status = str(pidfd.wait(self._pidfd))
        except ChildProcessError:
            status = "a status that somebody else took"
        os.close(self._pidfd)
        self._pidfd = -1
        self.release()
        if self._unsafe and not self._ready and not self._stopping and self.plan.load.preload == "auto":
            # Forking from there was unsafe. From one that imports nothing it is not: workers import for themselves.
            self.plan = replace(self.plan, load=replace(self.plan.load, preload="false"))
            self._warning, self._unsafe = self._unsafe, ""
            self.start()
            return
        self._end(self._report or f"the zygote ended with {status}")

    @property
    def _awaited(self) -> bool:
        """It has yet to say what became of the import; it says it once."""
        return not (self._ready or self._unsafe or self._report)

    def _end(self, report: str) -> None:
        flying, self._flying = self._flying, set()
        waiting, self._waiting = self._waiting, deque()
        for worker in [*flying, *(worker for worker, _ in waiting)]:
            self._owner.spawn_failed(worker, report, True)
        if self._ready or self._stopping:
            self._owner.zygote_gone(self, report)
        else:
            self._owner.zygote_failed(self, report)
