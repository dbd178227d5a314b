"""Node's ``cluster`` for Python: one program, a primary and its workers, and one port that they share.

::

    from clusterd import cluster

    if cluster.is_primary:
        for _ in range(cluster.cpu_count()):
            cluster.fork()
        cluster.run()  # until the last worker is gone
    else:
        async def serve():
            server = await cluster.start_server(handle, "127.0.0.1", 8000)
            await server.serve_forever()

        cluster.run(serve())

Names, events and arguments are Node's, in snake_case. What is of one role only raises ``RuntimeError`` in the other.
"""

import asyncio
import functools
import os
import socket
import ssl as _tls
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from ..errors import AppError
from ..wire.acts import Listening
from ..worker import ending as _ending
from ..worker import link as _link
from ..worker import loops as _loops
from ..worker.program import inherit as _inherit
from ..worker.sharing import Shares as _Shares
from ..worker.sharing import Wanted as _Wanted
from . import serving as _serving
from .child import Child as _Child
from .child import Process
from .emitter import Emitter
from .handles import Handle
from .home import Home as _Home
from .primary import SCHED_NONE, SCHED_RR
from .primary import Primary as _Primary
from .serving import BACKLOG, ClientConnected, Host
from .worker import Worker

__all__ = [
    "SCHED_NONE",
    "SCHED_RR",
    "Handle",
    "Listening",
    "Worker",
    "adopt",
    "cpu_count",
    "create_datagram_endpoint",
    "create_server",
    "disconnect",
    "emit",
    "fork",
    "is_primary",
    "is_worker",
    "listen",
    "off",
    "on",
    "once",
    "process",
    "run",
    "scheduling_policy",
    "settings",
    "setup_primary",
    "start_server",
    "worker",
    "workers",
]

T = TypeVar("T")

settings: dict[str, Any] = {}
"""What the next worker is forked with; see ``setup_primary``."""

workers: dict[int, Worker] = {}
"""The living workers by id, in the primary. One that was asked to disconnect is not among them any more."""

scheduling_policy: int = SCHED_NONE if os.environ.get("NODE_CLUSTER_SCHED_POLICY") == "none" else SCHED_RR
"""``SCHED_RR``: the primary accepts and hands over in turn. ``SCHED_NONE``: workers have the socket itself.

It holds from the first ``setup_primary`` or ``fork`` on; at first it is what ``NODE_CLUSTER_SCHED_POLICY`` says.
"""

_events = Emitter()
on = _events.on
once = _events.once
off = _events.off
emit = _events.emit


def _shares() -> _Shares | None:
    return _child.shares if _child is not None and not _managed else None


def _moved(loop: asyncio.AbstractEventLoop) -> None:
    if _child is not None:
        _child.link.move(loop)


def _be() -> "_Child | None":
    """Find out which role this process has; a worker says that it is online, before anything else of the program."""
    if _link.current is not None:
        return _Child(_link.current, asyncio.get_running_loop, managed=True)
    try:
        inherited = _inherit()
    except AppError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    if inherited is None:
        return None
    link = inherited.link(_home.loop())
    link.online()
    child = _Child(link, _home.loop)
    child.on_running, child.shares.words = inherited.beat, inherited.words
    return child


_managed = _link.current is not None
_child: _Child | None = None
_home = _Home(_shares, _moved)
_child = _be()

is_worker: bool = _child is not None
"""This process is a worker."""

is_primary: bool = not is_worker
"""This process is no worker: it is a primary as soon as it forks one."""

worker: Worker | None = _child.worker if _child is not None else None
"""This worker; ``None`` in the primary."""

process: Process | None = _child.process if _child is not None else None
"""This process as a worker, with the primary at the other end of its channel; ``None`` in the primary."""

_primary: _Primary | None = _Primary(_events, workers, _home.loop, lambda: scheduling_policy) if is_primary else None


def _as_primary(name: str) -> _Primary:
    if _primary is None:
        raise RuntimeError(f"cluster.{name} is the primary's; this process is worker {worker.id if worker else 0}")
    return _primary


def cpu_count() -> int:
    """The CPUs that this process may use, at least 1."""
    return len(os.sched_getaffinity(0))


# -- the primary ------------------------------------------------------------------------------------------------------


def setup_primary(given: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    """Change ``cluster.settings``, for workers that are forked from now on. Calls add up; each emits ``setup``.

    Settings: ``exec`` (the program, default this one), ``args`` (its arguments, default this one's), ``exec_argv``
    (flags of the interpreter), ``exec_path`` (the interpreter, default Python, and ``node`` for ``*.js``), ``cwd``,
    ``serialization`` (``"json"`` or ``"advanced"``), ``silent`` (its output comes by ``worker.process.stdout``),
    ``stdio``, ``uid``, ``gid``; and, Node has no such, ``steal_after`` (seconds, default 0.02; 0 is never).

    Raises:
        ValueError: ``scheduling_policy`` is neither of the two.
    """
    global settings
    settings = _as_primary("setup_primary").setup(settings, {**(given or {}), **more})


def fork(env: Mapping[str, Any] | None = None) -> Worker:
    """Start a worker.

    Args:
        env: variables for it, over this process's; one that is ``None`` is left out.

    Raises:
        TypeError, ValueError: a setting is of no use; the message says which.
        PermissionError: ``uid`` or ``gid`` may not be changed.
    """
    primary = _as_primary("fork")
    setup_primary()
    return primary.fork(settings, env)


def disconnect(callback: Callable[[], object] | None = None) -> None:
    """Have every worker disconnect; ``callback`` is called when the last one has gone, never at once."""
    _as_primary("disconnect").disconnect_all(callback)


def run(
    main: Coroutine[Any, Any, T] | Callable[[], T] | None = None,
    *,
    loop_class: type[asyncio.AbstractEventLoop] | None = None,
) -> T | None:
    """Run the program's event loop; to be called last.

    In the primary: run ``main``, if given, and go on until the last worker is gone. In a worker: run ``main`` until it
    ends, or until the worker has disconnected; without it, until then. A worker whose primary is gone ends with exit
    code 0. In a worker plain asyncio servers that ``main`` makes share through the primary.

    Args:
        main: a coroutine; or a function of a program that knows no event loop, which is called in this thread while the
            loop runs in another.
        loop_class: the loop's class, ``uvloop.Loop`` for instance; default is asyncio's.

    Returns:
        What ``main`` returns.

    Raises:
        RuntimeError: an event loop runs already.
    """
    if main is not None and not asyncio.iscoroutine(main):
        assert callable(main)
        return _run_beside(main)
    if _child is None:
        return _home.run(_as_primary("run").live(main), loop_class)
    _child.threaded = False
    try:
        with _ending.spared(lambda: _child.ending):
            return _home.run(_child.live(main), loop_class)
    finally:
        _child.close()


def _start_thread() -> asyncio.AbstractEventLoop:
    began = not _home.threaded
    loop = _home.start_thread()
    if _child is not None and began:
        _child.threaded = True
        loop.call_soon_threadsafe(_child.on_running, loop)
    return loop


def _run_beside(main: Callable[[], T]) -> T:
    loop = _start_thread()
    try:
        return main()
    finally:
        if _child is not None:
            loop.call_soon_threadsafe(_child.close)


# -- serving ----------------------------------------------------------------------------------------------------------


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Host = None,
    port: int | None = None,
    *,
    path: str | None = None,
    fd: int | None = None,
    backlog: int = BACKLOG,
    ssl: _tls.SSLContext | None = None,
    exclusive: bool = False,
    reuse_port: bool = False,
    ipv6_only: bool = False,
    readable_all: bool = False,
    writable_all: bool = False,
    max_connections: int | None = None,
    start_serving: bool = True,
) -> asyncio.AbstractServer:
    """As ``loop.create_server``; in a worker the address is the primary's, and shared with the other workers.

    Args:
        protocol_factory: makes the protocol of each connection.
        host: where; ``None`` is every address, IPv4 and IPv6.
        port: 0 is one that is free, the same for the k-th such server of every worker.
        path: a unix socket instead.
        fd: the primary's descriptor of that number instead.
        backlog: connections that may wait; the first worker's holds.
        ssl: for TLS.
        exclusive: this worker's own server, on a socket of its own.
        reuse_port: likewise, on a port that others may have too.
        ipv6_only: leave IPv4 out of ``"::"``.
        readable_all, writable_all: everybody may connect to the unix socket.
        max_connections: connections served at once; above it other workers get them.
        start_serving: at once.

    Raises:
        OSError: the address cannot be had, ``EADDRINUSE`` or ``EACCES`` for instance.
    """
    return await _serving.create_server(
        _shares(),
        protocol_factory,
        host,
        port,
        path=path,
        fd=fd,
        backlog=backlog,
        ssl=ssl,
        exclusive=exclusive,
        reuse_port=reuse_port,
        ipv6_only=ipv6_only,
        readable_all=readable_all,
        writable_all=writable_all,
        max_connections=max_connections,
        start_serving=start_serving,
    )


async def start_server(
    client_connected_cb: ClientConnected,
    host: Host = None,
    port: int | None = None,
    *,
    limit: int = 2**16,
    **options: Any,
) -> asyncio.AbstractServer:
    """As ``asyncio.start_server``, shared; options as of ``create_server``."""
    return await create_server(_serving.streams(client_connected_cb, limit), host, port, **options)


async def create_datagram_endpoint(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    local_addr: tuple[str | None, int] | None = None,
    *,
    fd: int | None = None,
    family: int = 0,
    exclusive: bool = False,
    reuse_address: bool = False,
    reuse_port: bool = False,
    ipv6_only: bool = False,
    allow_broadcast: bool = False,
) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
    """As ``loop.create_datagram_endpoint``; in a worker all workers have the one socket, and each datagram goes to one.

    Args:
        protocol_factory: makes the protocol.
        local_addr: where; port 0 as of ``create_server``.
        fd: the primary's datagram socket of that number instead.
        family: for names that have several.
        exclusive, reuse_port, ipv6_only: as of ``create_server``.
        reuse_address: others may bind the address too, who say so as well.
        allow_broadcast: it may send to a broadcast address.

    Raises:
        OSError: the address cannot be had.
    """
    return await _serving.create_datagram_endpoint(
        _shares(), protocol_factory, local_addr, fd, family, exclusive or reuse_port, reuse_address, reuse_port,
        ipv6_only, allow_broadcast,
    )  # fmt: skip


def listen(
    host: str | None = None,
    port: int = 0,
    *,
    path: str | None = None,
    backlog: int = BACKLOG,
    shared: bool = False,
) -> socket.socket:
    """A listening socket for servers that know nothing of event loops: ``socketserver``, ``http.server``, waitress.

    In a worker its ``accept`` takes connections that the primary hands over, and it can be polled. The channel is seen
    to in a thread. TLS goes over the connections (``handshake`` in the server), not over this socket.

    Args:
        host: an address or a name; ``None`` is every address.
        port: as of ``create_server``.
        path: a unix socket instead.
        backlog: connections that may wait.
        shared: the kernel's own listening socket, from which all its workers accept: for programs that insist on one.

    Raises:
        OSError: the address cannot be had.
        RuntimeError: an event loop runs here: use ``create_server``.
    """
    if _child is None or _managed:
        if path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(path)
            sock.listen(backlog)
            return sock
        return socket.create_server((host or "", port), backlog=backlog)
    loop = _start_thread()
    if path is not None:
        wanted = _loops.unix(path, backlog)
    else:
        asked = asyncio.run_coroutine_threadsafe(_loops.resolve(loop, host, port, backlog), loop).result()
        wanted = asked[0]
    if shared:
        wanted = _Wanted(wanted.address, wanted.port, wanted.address_type, backlog=backlog, shared=True)
    run = functools.partial(_serving.call_on, _home.loop)
    return asyncio.run_coroutine_threadsafe(_serving.listen(_child.shares, wanted, run), loop).result()


async def adopt(connection: socket.socket, server: asyncio.AbstractServer) -> None:
    """Have a server serve a connection that came with a message; Node's ``server.emit("connection", socket)``.

    Raises:
        TypeError: it is no server of cluster's or asyncio's.
    """
    await _serving.adopt(connection, server)
