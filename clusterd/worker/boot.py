"""From the fork to serving, one function in order, and back out.

Each step stands where it stands for a reason that was measured; the order of the parent-death signal above all: set
before the middle has gone it kills the worker at birth, set before the ids change it is forgotten (prctl(2)).
"""

import asyncio
import atexit
import gc
import logging
import os
import random
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import NoReturn

from ..errors import AppError, HostError, PeerError
from ..unix import cpus, process, scoreboard
from ..wire import messages, rows, series
from ..wire import zygote as wire
from ..wire.channel import Channel, Received
from ..wire.tls import unpack
from . import appmetrics, asgi, forks, link, orphaned, stacks, tls, values
from .beat import Beat
from .options import PLAIN, Door, HttpOptions, Inboxed

#: A worker goes before the primary when memory runs out: the one can be replaced, the other cannot.
OOM_SCORE = 300

#: Exit codes of a worker that failed by itself, for those who read `worker_exited` records.
EXIT_BOOT = 3

logger = logging.getLogger("clusterd")


@dataclass(frozen=True, slots=True)
class Birth:
    """What a worker is born with.

    Attributes:
        load: what its zygote was told.
        spawn: what its zygote was told of it.
        fds: descriptors in the order that :class:`clusterd.wire.zygote.Spawn` states.
        service_out: the service's own standard output and error.
        app: gives the application: the one the zygote has imported, or imports it now.
        app_fds: descriptors that the application opened at import and may need.
        doors: by listener, how its connections come in.
    """

    load: wire.Load
    spawn: wire.Spawn
    fds: tuple[int, ...]
    service_out: tuple[int, int]
    app: Callable[[], object]
    app_fds: frozenset[int]
    doors: Mapping[str, Door] = field(default_factory=dict)


def doors(wanted: Mapping[str, Mapping[str, bool]], secrets: bytes) -> dict[str, Door]:
    """In the zygote: how the connections of each listener come in, with one TLS context for all workers.

    Args:
        wanted: as :class:`clusterd.wire.zygote.Load` has it.
        secrets: what :func:`clusterd.wire.tls.pack` gave; empty if nobody speaks TLS.

    Raises:
        HostError: a certificate or key cannot be used.
    """
    materials = unpack(secrets) if secrets else {}
    made = {}
    for name, how in wanted.items():
        door = Door(name, shared=how["shared"], proxy=how["proxy"])
        if name in materials:
            material = materials[name]
            door = replace(door, tls=tls.context(name, material), certificate=tls.first_certificate(material.cert))
        made[name] = door
    return made


def preload(engine: dict[str, object]) -> None:
    """In the zygote: import all that workers will need, so that they share it, and make ready for the app's metrics."""
    left_alone = appmetrics.install()
    if left_alone:
        sys.stderr.write(f"clusterd: {left_alone}\n")
    asgi.preload(HttpOptions(**engine))  # type: ignore[arg-type]


def check(app: object, load: wire.Load) -> None:
    """Is it an application that this version serves?

    Raises:
        AppError: it is not, and why.
    """
    interface = asgi.interface_of(app)
    if interface == "asgi" or load.interface == "asgi":
        return
    if interface == "wsgi":
        raise AppError(
            f"{load.target} looks like a WSGI application, which this version does not serve yet;"
            ' if it is ASGI all the same, set interface = "asgi"'
        )
    raise AppError(
        f"{load.target} is a {type(app).__name__}, not an ASGI application (a callable of scope, receive and send)"
    )


def prepare(app: object, load: wire.Load) -> None:
    """In the zygote, after the import: all that can be done for serving ``app`` before there is a worker.

    Raises:
        HostError: the server's libraries do not fit.
    """
    asgi.prepare(app, HttpOptions(**load.engine))


def run(birth: Birth) -> NoReturn:
    """Be a worker; ends the process."""
    request, load = birth.spawn, birth.load
    # -- apart from the zygote: a group of its own, so that all it starts can be ended with it; own descriptors only.
    os.setpgid(0, 0)
    channel_fd, board_fd, stacks_fd, lifeline_fd, *rest = birth.fds
    held = _take_over_output(rest) if request.captured else None
    box_fds = rest[0 if held is None else 4 :]
    boxes = [
        Inboxed(str(name), fd, (host, port), birth.doors.get(name, PLAIN))
        for (name, host, port), fd in zip(request.boxes, box_fds, strict=True)
    ]
    keep = {0, 1, 2, *birth.fds[:4], *(held or ()), *box_fds, *birth.service_out, *birth.app_fds}
    process.close_fds_except(keep)
    process.set_oom_score_adj(OOM_SCORE)
    _title(load, request.slot)
    # -- the primary's `go` says that our parent is the right one by now. Without it nobody knows of us: end.
    sock = socket.socket(fileno=channel_fd)
    channel = Channel()
    early = _wait_for_go(sock, channel)
    if early is None or os.getppid() != load.primary_pid:
        os._exit(0)
    process.set_parent_death_signal(orphaned.SIGNAL)
    bounded = orphaned.Bounded(lifeline_fd, load.undertaking, request.worker)
    if os.getppid() != load.primary_pid:  # it died before these: their signals will not come
        os._exit(0)
    # -- from here on this is a process like any other.
    random.seed()
    seed = getattr(sys.modules.get("numpy.random"), "seed", None)
    if seed is not None:
        seed()
    # Who it is, for the app's own use; Node's NODE_UNIQUE_ID would make a cluster worker of every Node child it starts.
    os.environ[wire.WORKER_ID] = str(request.worker)
    os.environ["CLUSTERD_GENERATION"] = str(load.generation)
    gc.enable()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a pipe would be block-buffered, and its lines come late
        if reconfigure is not None:
            reconfigure(line_buffering=True)
    board = scoreboard.Board.attach(board_fd, series.SIZE // scoreboard.WORD, writable=True)
    os.close(board_fd)
    board.words[rows.Row.VERSION] = rows.VERSION
    collecting = appmetrics.Collecting(values.attach(board.bytes))
    loop = asgi.new_event_loop()
    asyncio.set_event_loop(loop)
    stacks.arm(stacks_fd, loop)
    control = link.Link(
        loop, sock, channel, early, worker=request.worker, slot=request.slot, pool=load.pool, generation=load.generation
    )
    link.current = control
    control.when_placed(lambda: _placed(load, control.slot))
    give_back = _Output(held, birth.service_out).give_back

    def alone() -> None:
        give_back()
        bounded.begin(loop)

    control.on_primary_gone(alone)
    collecting.connect(loop, control)
    control.online()
    code = _serve(loop, control, Beat(loop, board, collecting.look), board, birth, boxes, alone)
    _end(code, request.worker if control.primary_gone else None)


def _title(load: wire.Load, slot: int) -> None:
    process.title(f"clusterd: {load.service} worker {load.pool}/{slot if slot >= 0 else 'spare'}")


def _placed(load: wire.Load, slot: int) -> None:
    """Who has a slot says so, to the app too; a spare has none yet."""
    if load.spread:
        cpus.bind_to_one(slot)
    os.environ["CLUSTERD_SLOT"] = str(slot)
    _title(load, slot)


def _take_over_output(rest: list[int]) -> tuple[int, int]:
    """Standard output and error become the pipes; returns their reading ends, which stay open.

    While they do, a write can never fail, also when the primary has died.
    """
    out_write, out_read, err_write, err_read = rest[:4]
    os.dup2(out_write, 1)
    os.dup2(err_write, 2)
    return out_read, err_read


class _Output:
    """Where this worker prints to when the primary is gone, and with it whoever read the pipes.

    Args:
        held: the pipes' reading ends, non-blocking; ``None`` if output is not captured.
        service_out: the service's own standard output and error.
    """

    def __init__(self, held: tuple[int, int] | None, service_out: tuple[int, int]) -> None:
        self._held = held
        self._service_out = service_out

    def give_back(self) -> None:
        """Put the service's own streams over 1 and 2, and pass on what lies in the pipes. The first time only."""
        held, self._held = self._held, None
        if held is None:
            return
        for ours, reading, service in zip((1, 2), held, self._service_out, strict=True):
            os.dup2(service, ours)
            try:
                while data := os.read(reading, 65536):
                    _write_whole(service, data)
            except OSError:
                continue  # that was all, or nobody hears the service itself


def _write_whole(fd: int, data: bytes) -> None:
    """Write all of it, as long as that takes: a signal cuts a write short, such as the second of a dying primary's."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # whoever has started the service may have made its output so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _wait_for_go(sock: socket.socket, channel: Channel) -> list[Received] | None:
    """Block until ``go``; returns what came behind it, ``None`` if the primary is gone or speaks something else."""
    while True:
        data = sock.recv(65536)
        if not data:
            return None
        try:
            received = channel.feed(data)
            if received:
                go = messages.read(received[0].message) if received[0].internal else None
                return received[1:] if isinstance(go, messages.Go) else None
        except PeerError:
            return None


def _serve(
    loop: asyncio.AbstractEventLoop,
    control: link.Link,
    beat: Beat,
    board: scoreboard.Board,
    birth: Birth,
    boxes: list[Inboxed],
    alone: Callable[[], None],
) -> int:
    """Import if that is still to be done, serve until drained; returns the exit code.

    Args:
        alone: called when the primary has died, perhaps in the middle of anything, and more than once.
    """
    try:
        app = birth.app()
    except AppError as error:
        report = getattr(error, "report", str(error))
        control.failed("import", wire.clip(report))
        sys.stderr.write(f"{report}\n")
        return EXIT_BOOT
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control.leave)

    def bereaved(number: int, frame: FrameType | None) -> None:
        # The loop may stand in a `print`, in a pipe that is full and that nobody reads any more: this interrupts the
        # write, which Python then repeats, with what descriptor 1 is by then.
        alone()
        loop.call_soon_threadsafe(control.lost)

    signal.signal(orphaned.SIGNAL, bereaved)  # noqa: TID251  # a loop's own handler would have the write go on waiting
    forks.watch()
    options = HttpOptions(**birth.load.engine)
    try:
        return loop.run_until_complete(_main(app, boxes, beat, board, control, options))
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        control.close()


async def _main(
    app: object, boxes: list[Inboxed], beat: Beat, board: scoreboard.Board, control: link.Link, options: HttpOptions
) -> int:
    beat.start()
    try:
        await asgi.serve(app, boxes, board, control, options)
    except (AppError, HostError):
        return EXIT_BOOT  # the link has told why
    finally:
        beat.stop()
    # What the app still has running is told that it ends, as asyncio.run would tell it.
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.get_running_loop().shutdown_default_executor()
    return 0


def _end(code: int, orphan: int | None) -> NoReturn:
    """End as a process ends, though we are inside a fork: exit functions, threads, buffers; no one else's clean-up.

    Args:
        orphan: this worker's number, if it has no primary any more.
    """
    try:
        getattr(threading, "_shutdown", lambda: None)()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        if orphan is not None:
            orphaned.end_descendants(orphan)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
