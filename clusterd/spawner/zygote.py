"""The zygote: imports the app once, forks workers as its own siblings, and buries them if the primary dies.

A worker is forked by a *middle*, which ends at once, so that the kernel makes the primary, a child subreaper, its
parent. The middle opens the worker's pidfd while the worker cannot have been reaped; the zygote sends that on only
when it has reaped the middle, for before that the primary could not wait for the worker (each other order was
measured to lose exit statuses).
"""

import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import AppError, HostError
from ..unix import cpus, marked, memfile, packets, process, signals
from ..wire import zygote as wire
from .apps import load
from .safety import why_unsafe
from .sampler import Sampler

_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "core": resource.RLIMIT_CORE, "memory": resource.RLIMIT_AS}


def main(control_fd: int, stdout_fd: int, stderr_fd: int) -> NoReturn:
    """Be a zygote until the primary closes the control socket, and its undertaker after that.

    Args:
        control_fd: the SEQPACKET pair's end.
        stdout_fd, stderr_fd: the service's own, for workers that outlive the primary.
    """
    signals.reset_all()
    control = socket.socket(fileno=control_fd)
    try:
        first = packets.receive(control, wait=True)
    except EOFError:
        sys.exit(0)
    request = wire.read_request(first.data) if first is not None else None
    if not isinstance(request, wire.Load):
        sys.exit("clusterd: a zygote is started by the primary, not by hand")
    Zygote(control, (stdout_fd, stderr_fd), request, first.fds if first is not None else ()).run()


class Zygote:
    """One zygote's state: the app, or ``None`` where workers import it, and the pidfds of those it forked."""

    def __init__(
        self, control: socket.socket, service_out: tuple[int, int], load_request: wire.Load, fds: tuple[int, ...]
    ) -> None:
        self._control = control
        self._service_out = service_out
        self._load = load_request
        self._secrets = fds
        self._doors: dict[str, Any] = {}
        self._app: Callable[[], object] = self._load_app
        self._app_fds: frozenset[int] = frozenset()
        self._pidfds: dict[int, int] = {}  # pidfd -> pid
        self._sampler = Sampler()

    def run(self) -> NoReturn:
        """Load, prove, fork; see the module."""
        request = self._load
        process.title(f"clusterd: {request.service} zygote {request.pool}/{request.generation}")
        # An import may block for ever, and is deaf to the control socket meanwhile. An undertaker must live on.
        process.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != request.primary_pid:
            _end(0)
        self._limit()
        self._bind()
        loaded = wire.Loaded(preloaded=False) if request.program else self._import()
        # First: from its word on it may have workers, whom it has to bury.
        process.set_parent_death_signal(0)
        self._say(loaded)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            patience = self._sampler.patience
            ended = poll.poll(None if patience is None else patience * 1000)
            if not ended:
                self._sampler.look()
            for fd, _ in ended:
                if fd == self._control.fileno():
                    if not self._serve(poll):
                        self._undertake()
                else:  # one of its workers has ended; the primary reaps it, we only forget it
                    poll.unregister(fd)
                    self._sampler.remove(self._pidfds.pop(fd))
                    os.close(fd)

    def _limit(self) -> None:
        for name, (soft, hard) in self._load.rlimits.items():
            try:
                resource.setrlimit(_LIMITS[name], (soft, hard))
            except (OSError, ValueError):
                most = resource.getrlimit(_LIMITS[name])[1]
                self._fail(
                    f"limits.{name} = {hard} is above the hard limit that this process has, {most}; lower it, or raise"
                    f" the service's own (LimitNOFILE and the like of a systemd unit, ulimit -H)"
                )

    def _bind(self) -> None:
        """Before the import: libraries that count CPUs then count those."""
        if self._load.cpus:
            try:
                cpus.bind(self._load.cpus)
            except HostError as error:
                self._fail(f"cpu_affinity: {error}")

    def _import(self) -> wire.Loaded:
        ours = frozenset({0, 1, 2, self._control.fileno(), *self._service_out})
        # CPython's own advice for copy-on-write (gc.freeze): no collection may leave holes before the freeze.
        gc.disable()
        from ..worker import boot

        boot.preload(self._load.engine)
        self._open_doors()
        if self._load.preload != "false":
            try:
                app = self._load_app()
                self._app = lambda: app
                boot.prepare(app, self._load)
            except AppError as error:
                self._fail(getattr(error, "report", str(error)))
            except BaseException:
                self._fail(traceback.format_exc())
            _recover()
            unsafe = why_unsafe(ours)
            if unsafe and self._load.preload == "auto":
                self._say(wire.Unsafe(wire.clip(unsafe)))
                _end(0)
            self._app_fds = frozenset(process.open_fds()) - ours
            loaded = wire.Loaded(preloaded=True, unsafe=wire.clip(unsafe))
        else:
            loaded = wire.Loaded(preloaded=False)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # the app may have taken it away
                stream.flush()
        # Whatever the app's import did to signals is undone here, once, for all workers: each page that a worker's own
        # birth touches is a page more of memory, times their number.
        signals.reset_all()
        gc.collect()
        gc.freeze()
        return loaded

    def _open_doors(self) -> None:
        """Before the app is there: no descriptor of a private key is left open for it to find."""
        from ..worker import boot

        try:
            held = b"".join(map(memfile.read, self._secrets))
            self._doors = boot.doors(self._load.doors, held)
        except HostError as error:
            self._fail(str(error))
        finally:
            for fd in self._secrets:
                os.close(fd)
            self._secrets = ()

    def _load_app(self) -> object:
        from ..worker import boot

        me = os.getpid()
        try:
            app = load(self._load.target)
            boot.check(app, self._load)
        finally:
            if os.getpid() != me:
                # It would go on as a second zygote, or a second worker, with the same sockets.
                sys.stderr.write(
                    f"clusterd: process {os.getpid()}, forked while {self._load.target} was imported, came back from"
                    " the import; it ends here\n"
                )
                _end(1)
        return app

    def _serve(self, poll: select.poll) -> bool:
        """One request; false when the primary has gone."""
        try:
            packet = packets.receive(self._control)
        except EOFError:
            return False
        if packet is None:
            return True
        request = wire.read_request(packet.data)
        if isinstance(request, wire.Adopt):
            self._adopt(request.pids, packet.fds, poll)
            return True
        if not isinstance(request, wire.Spawn):
            return True
        try:
            if packet.truncated:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid, pidfd = self._fork(request, packet.fds)
        except OSError as error:
            self._say(wire.SpawnFailed(request.worker, f"fork failed: {error.strerror or error}"))
        else:
            self._pidfds[pidfd] = pid
            if self._load.program:
                self._sampler.add(pid, packet.fds[1])
            poll.register(pidfd, select.POLLIN)
            self._say(wire.Spawned(request.worker, pid), pidfd)
        finally:
            for fd in packet.fds:
                os.close(fd)
        return True

    def _adopt(self, pids: list[int], fds: tuple[int, ...], poll: select.poll) -> None:
        """Workers that another zygote forked; those whose descriptors were lost on the way are nobody's."""
        pidfds, boards = fds[: len(pids)], fds[len(pids) :]
        for pid, pidfd in zip(pids, pidfds, strict=False):
            self._pidfds[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
        for pid, board in zip(pids, boards, strict=False):
            self._sampler.add(pid, board)
        for board in boards:
            os.close(board)

    def _fork(self, request: wire.Spawn, fds: tuple[int, ...]) -> tuple[int, int]:
        """Returns pid and pidfd of a worker that is no child of ours."""
        near, far = packets.pair()
        with near, far:
            middle = os.fork()
            if middle == 0:
                self._be_middle(request, fds, near, far)
            far.close()
            try:
                answer = packets.receive(near, wait=True)
            except EOFError:
                answer = None
            finally:
                os.waitpid(middle, 0)
        if answer is None:
            raise OSError(0, "the middle process died")
        if answer.truncated:  # the worker waits for its `go`, and ends when its channel does
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not answer.fds:
            raise OSError(0, answer.data.decode())
        return int(answer.data), answer.fds[0]

    def _be_middle(
        self, request: wire.Spawn, fds: tuple[int, ...], near: socket.socket, far: socket.socket
    ) -> NoReturn:
        status = 1
        try:
            worker = os.fork()
            if worker == 0:
                near.close()
                far.close()
                self._be_worker(request, fds)
            pidfd = os.pidfd_open(worker)
            packets.send(far, str(worker).encode(), [pidfd], wait=True)
            status = 0
        except OSError as error:
            packets.send(far, str(error).encode()[:500], wait=True)
        finally:
            os._exit(status)

    def _be_worker(self, request: wire.Spawn, fds: tuple[int, ...]) -> NoReturn:
        try:
            if self._load.program:
                from ..worker import executed

                executed.run(self._load, request, fds)
            from ..worker import boot

            boot.run(boot.Birth(self._load, request, fds, self._service_out, self._app, self._app_fds, self._doors))
        except BaseException:
            # Whatever is raised up to here would otherwise run the middle's and the zygote's clean-up in the worker.
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)

    def _fail(self, report: str) -> NoReturn:
        self._say(wire.Failed("import", wire.clip(report)))
        _end(1)

    def _say(self, answer: wire.Answer, *fds: int) -> None:
        try:
            packets.send(self._control, wire.encode(answer), fds, wait=True)
        except OSError:
            pass  # the primary is gone: the next receive says so

    def _undertake(self) -> NoReturn:
        """The primary is dead. Its workers drain by themselves; what is left of them at the deadline is killed, and
        what they have started is ended when they are gone."""
        process.title(f"clusterd: {self._load.service} undertaker {self._load.pool}/{self._load.generation}")
        allowed = self._load.undertaking
        deadline = None if allowed is None else time.monotonic() + allowed
        poll = select.poll()
        for pidfd in self._pidfds:
            poll.register(pidfd, select.POLLIN)
        while self._pidfds:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ended = poll.poll(None if left is None else left * 1000)
            if not ended and left == 0.0:
                for pidfd, pid in self._pidfds.items():
                    _kill(pidfd, pid)
                break
            for pidfd, _ in ended:
                poll.unregister(pidfd)
                del self._pidfds[pidfd]
        mark = f"{wire.ORIGIN}={os.environ.get(wire.ORIGIN, '')}"
        marked.end([mark.encode()], spare=_is_ours)
        if deadline is not None:
            marked.wait([mark.encode()], deadline - time.monotonic())
            marked.end([mark.encode()])
        _end(0)


def _end(code: int) -> NoReturn:
    """End at once. sys.exit would wait for threads that the app has started, for ever as a rule."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _recover() -> None:
    """Undo what importing the app may have done to this process: ignored SIGCHLD, closed standard descriptors.

    With the one no child could be waited for; with the other what workers are born with would take the numbers 0 to 2.
    """
    signals.reset_all()
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number is this one


def _is_ours(pid: int) -> bool:
    """It may be a worker that nobody could tell us of: by its title, which a child that a worker forks has too."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"clusterd: ")
    except OSError:
        return True  # it is gone


def _kill(pidfd: int, pid: int) -> None:
    """A worker with its process group: it leads one, and while its pidfd is silent its number is its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
