"""The engine for ASGI applications: uvicorn's protocols, fed with the connections that the primary hands over.

uvicorn's ``Server`` is not used: it polls for its end ten times a second, takes over signals, and on its way out closes
connections on which a request may just be arriving.
"""

import asyncio
import importlib.util
import logging
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from email.utils import formatdate
from functools import partial
from typing import Any, Final, Literal

from ..errors import AppError
from ..unix.scoreboard import Board
from ..wire import messages
from ..wire.mail import Letter
from .connections import Connections
from .interface import judge
from .library import uvicorn
from .link import Link
from .mailbox import Intake, Token
from .options import PLAIN, Door, HttpOptions, Inboxed
from .protocols import Send, fit
from .shared import VISIT, Accepted, Accepting
from .slow import Watch

TICK: Final = 1.0
"""Seconds between two values of the ``Date`` header."""

logger = logging.getLogger("clusterd")

_prepared: tuple[object, HttpOptions, uvicorn.Config] | None = None


def interface_of(app: object) -> Literal["asgi", "wsgi"] | None:
    """What ``app`` speaks, as far as can be told from outside; :func:`why` has the reason."""
    return judge(app).interface


def why(app: object) -> str:
    """The reason for what ``interface_of`` says, as the end of a sentence about ``app``."""
    return judge(app).reason


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop if it is installed (the extra ``fast``), else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def preload(options: HttpOptions) -> None:
    """Import what serving will need, in the zygote, so that its workers share it.

    Raises:
        HostError: this uvicorn is not one that fits.
    """
    fit(_configure(_nothing, options))
    if importlib.util.find_spec("uvloop"):
        import uvloop  # noqa: F401  # the import is the point


def prepare(app: object, options: HttpOptions) -> None:
    """Configure uvicorn for ``app`` in the zygote: what is run there need not be run, and paged in, by each worker.

    A function that is run writes to the pages of all it refers to (reference counts), so that they are shared no
    more: this one's are 0.9 MB a worker.

    Raises:
        HostError: this uvicorn is not one that fits.
    """
    global _prepared
    config = _configure(app, options)
    fit(config)
    _prepared = app, options, config


async def serve(app: object, boxes: Sequence[Inboxed], board: Board, link: Link, options: HttpOptions) -> None:
    """Serve ``app`` to the connections that come through ``boxes`` until the worker has drained.

    The primary is told ``listening`` and ``ready`` when the app's lifespan has started. The end begins with
    ``link.draining``; connections are taken until the boxes end, and what is being served has no deadline here.

    Raises:
        AppError: the lifespan's startup failed; the primary has been told.
        HostError: this uvicorn is not one that fits; the primary has been told.
    """
    loop = asyncio.get_running_loop()
    try:
        if _prepared is not None and _prepared[0] is app and _prepared[1] == options:
            config = _prepared[2]
        else:
            config = _configure(app, options)
            fit(config)
        watches = options.slow_request > 0
        connections = Connections(loop, config, board.words, options.linger, watches=watches)
    except Exception:
        link.failed("engine", traceback.format_exc())
        raise
    lifespan: Any = config.lifespan_class(config)
    if not await _unless_draining(_start_lifespan(config, lifespan, link), link):
        return  # it is to end before it has begun: nobody was served, and start-up code may wait for anything
    clock = _Clock(loop, connections, config)
    watch = Watch(loop, connections.state.tasks, options.slow_request, link.tell) if watches else None

    adopt, state = connections.adopt, lifespan.state

    def taken(sock: socket.socket, letter: Letter, token: Token, door: Door) -> None:
        adopt(sock, state, token, door)

    def accepted(sock: socket.socket, token: Accepted, door: Door) -> None:
        adopt(sock, state, token, door)

    def visited(fd: int) -> bool:
        adopt(socket.socket(fileno=fd), state, VISIT, PLAIN)
        return True

    mailboxes, shared = [box for box in boxes if not box.door.shared], [box for box in boxes if box.door.shared]
    intake = Intake(loop, mailboxes, taken, connections.changed.set, board.words)
    plainly = partial(connections.welcome, state) if connections.welcoming else None
    accepting = Accepting(loop, shared, accepted, connections.changed.set, board.words, plainly)
    try:
        clock.tick()
        intake.start()
        link.when_placed(accepting.start)
        link.serve(messages.PROBE, visited)
        for box in boxes:
            host, port = box.sockname
            link.listening(host or None, port, -1 if port < 0 else 6 if ":" in host else 4)
        link.ready()
        await link.draining.wait()
        accepting.stop(take_all=link.primary_gone)
        await connections.drain(lambda: not (intake.ended and accepting.ended))
        await lifespan.shutdown()
    finally:
        clock.stop()
        if watch is not None:
            watch.stop()
        intake.close()
        accepting.stop()


async def _unless_draining(starting: Coroutine[Any, Any, None], link: Link) -> bool:
    """Wait for the start-up, but not longer than until the worker is to end; whether it was finished."""
    start = asyncio.ensure_future(starting)
    drain = asyncio.ensure_future(link.draining.wait())
    try:
        await asyncio.wait({start, drain}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            return False
        start.result()
        return True
    finally:
        start.cancel()
        drain.cancel()


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands for an app where there is none yet."""


def _configure(app: object, options: HttpOptions) -> uvicorn.Config:
    """uvicorn's configuration, loaded. What is not named here is uvicorn's default, its ``Server`` header too."""
    error_log = logging.getLogger("uvicorn.error")
    if error_log.level == logging.NOTSET:  # uvicorn asks the level itself for each connection, and 0 is "trace"
        error_log.setLevel(max(error_log.getEffectiveLevel(), logging.INFO))
    access_log = logging.getLogger("uvicorn.access")
    if options.access_log and not access_log.hasHandlers():
        # Errors need no such thing: what nobody handles, logging itself writes to standard error, tracebacks included.
        access_log.addHandler(logging.StreamHandler(sys.stdout))
        access_log.setLevel(logging.INFO)
    proxies = list(options.forwarded_allow_ips)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn will find out what it is
        log_config=None,
        access_log=options.access_log,
        lifespan="auto",
        interface=judge(app).style,
        http="httptools" if importlib.util.find_spec("httptools") else "h11",
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        root_path=options.root_path,
        # uvicorn counts the connection that asks, and refuses from the limit on: 1 would refuse everybody.
        limit_concurrency=options.max_concurrency + 1 if options.max_concurrency else None,
        timeout_keep_alive=options.keep_alive,  # type: ignore[arg-type]  # it goes to call_later, which takes fractions
    )
    config.load()
    return config


async def _start_lifespan(config: uvicorn.Config, lifespan: Any, link: Link) -> None:
    """Start the app. As ASGI says, an app that raises instead of answering has no lifespan, and is served."""
    app: Any = config.loaded_app
    report = ""
    raised: BaseException | None = None
    asked = False

    async def observed(scope: Any, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        nonlocal raised

        async def observed_receive() -> Any:
            nonlocal asked
            asked = True
            return await receive()

        async def observed_send(message: Any) -> None:
            nonlocal report
            if message["type"] == "lifespan.startup.failed":
                report = message.get("message", "")
            await send(message)

        try:
            await app(scope, observed_receive, observed_send)
        except BaseException as error:
            raised = error
            raise

    config.loaded_app = observed
    try:
        await lifespan.startup()
    finally:
        config.loaded_app = app
    if lifespan.should_exit or isinstance(raised, SystemExit):
        if raised is not None:
            report += "".join(traceback.format_exception(raised))
        link.failed("lifespan", report or "the application sent lifespan.startup.failed without a message")
        raise AppError("the application's lifespan startup failed")
    if raised is not None and asked:
        logger.warning(
            "the application raised in its lifespan's startup and is served without one, as ASGI says;"
            " to fail, it sends lifespan.startup.failed",
            exc_info=raised,
        )


class _Clock:
    """What is done once a second: uvicorn's default headers, ``Date`` among them, and the sample of the load."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Connections, config: uvicorn.Config) -> None:
        self._loop = loop
        self._connections = connections
        self._config = config
        self._timer: asyncio.TimerHandle | None = None

    def tick(self) -> None:
        date = formatdate(usegmt=True).encode()
        self._connections.state.default_headers = [(b"date", date), *self._config.encoded_headers]
        self._connections.sample()
        self._timer = self._loop.call_later(TICK, self.tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
