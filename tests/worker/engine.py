"""Runs the engine in a process of its own, and plays its primary: the channel, the mailboxes, the scoreboard.

The process is a fork of this one, as a worker is one of its zygote: the imports take longer than a test.
"""

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from types import TracebackType
from typing import Any, Self

import pytest

from clusterd.unix import mail, pidfd, process, scoreboard
from clusterd.wire import mail as letters
from clusterd.wire import messages
from clusterd.wire.channel import Channel
from clusterd.wire.rows import WORDS, Row
from clusterd.worker import asgi
from clusterd.worker.link import Link
from clusterd.worker.options import HttpOptions, Inboxed

DEADLINE = 10.0
IMPLEMENTATIONS = ("asyncio-h11", "uvloop-httptools")

APP = """
import asyncio, os, sys

async def body(receive):
    data = b""
    while True:
        message = await receive()
        data += message.get("body", b"")
        if not message.get("more_body"):
            return data

async def reply(send, data, status=200, headers=()):
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-length", str(len(data)).encode()), *headers]})
    await send({"type": "http.response.body", "body": data})

gates = {}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            print(message["type"], flush=True)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                print("websocket ended", message.get("code"), flush=True)
                return
            await send({"type": "websocket.send", "text": message.get("text", "")})
    path = scope["path"]
    if path == "/echo":
        return await reply(send, await body(receive))
    if path.endswith("/scope"):
        return await reply(send, repr((scope["client"], scope["scheme"], scope["root_path"])).encode())
    if path.startswith("/wait/"):
        await asyncio.wait_for(gates.setdefault(path[6:], asyncio.Event()).wait(), 20)
        return await reply(send, b"waited")
    if path.startswith("/go/"):
        gates.setdefault(path[4:], asyncio.Event()).set()
        return await reply(send, b"gone")
    if path.startswith("/stream/"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.wait_for(gates.setdefault(path[8:], asyncio.Event()).wait(), 20)
        await send({"type": "http.response.body", "body": b"last"})
        return
    if path.startswith("/background/"):
        await reply(send, b"answered")
        await asyncio.wait_for(gates.setdefault(path[12:], asyncio.Event()).wait(), 20)
        print("background done", flush=True)
        return
    if path.startswith("/head/"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await asyncio.wait_for(gates.setdefault(path[6:], asyncio.Event()).wait(), 20)
        return await send({"type": "http.response.body", "body": b"body"})
    if path == "/early":
        return await reply(send, b"refused", 413)
    if path == "/raise":
        raise RuntimeError("the app is broken here")
    if path.startswith("/status/"):
        return await reply(send, b"", int(path[8:]))
    await reply(send, b"hello from %d" % os.getpid())
"""


class Engine:
    """One worker with the engine, seen from its primary.

    Args:
        implementation: one of ``IMPLEMENTATIONS``.
        app: source of a module with ``app``.
        options: of ``HttpOptions``.
        boxes: how many mailboxes it has.
        prepare: source that runs in the process before anything is imported.
    """

    def __init__(
        self,
        implementation: str = IMPLEMENTATIONS[0],
        *,
        app: str = APP,
        options: dict[str, Any] | None = None,
        boxes: int = 1,
        prepare: str = "",
    ) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.host, self.port = self.listener.getsockname()
        self._lingers = HttpOptions(**options or {}).linger > 0
        self.outboxes: list[mail.Outbox] = []
        inboxes = []
        for _ in range(boxes):
            writing, reading = mail.pair()
            self.outboxes.append(mail.Outbox(writing))
            inboxes.append(reading)
        self.inboxes = inboxes  # the primary keeps them too
        board_fd = scoreboard.create(WORDS)
        self.board = scoreboard.Board.attach(board_fd, WORDS, writable=False)
        self.control, theirs = socket.socketpair()
        self.control.settimeout(DEADLINE)
        self.channel = Channel()
        self.messages: list[Any] = []
        self.out, out = os.pipe()
        self.err, err = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(out, 1)
            os.dup2(err, 2)
            process.close_fds_except({0, 1, 2, theirs.fileno(), board_fd, *inboxes})
            named = [Inboxed(f"http{n}", fd, (self.host, self.port)) for n, fd in enumerate(inboxes)]
            _work(prepare, implementation, app, named, board_fd, theirs, HttpOptions(**options or {}))
        self.pidfd = pidfd.open_pidfd(self.pid)
        self.status: pidfd.ExitStatus | None = None
        theirs.close()
        for fd in (board_fd, out, err):
            os.close(fd)
        self.clients: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            pidfd.send_signal(self.pidfd, signal.SIGKILL)
            _, out, err = self.ended()
            if kind is not None:
                print(out, err, sep="\n")
        os.close(self.pidfd)
        for client in self.clients:
            client.close()
        for outbox in self.outboxes:
            outbox.close()
        for fd in self.inboxes:
            os.close(fd)
        self.listener.close()
        self.control.close()
        self.board.close()

    # -- the channel ---------------------------------------------------------------------------------------------

    def told(self, kind: type[Any]) -> Any:
        """Waits for a message of this kind from the worker; ``None`` if the channel ends without."""
        while True:
            for message in self.messages:
                if isinstance(message, kind):
                    self.messages.remove(message)
                    return message
            data = self.control.recv(65536)
            if not data:
                return None
            self.messages += [messages.read(received.message) for received in self.channel.feed(data)]

    def ready(self) -> Self:
        """Waits until the worker serves."""
        if self.told(messages.Ready) is None:
            pytest.fail(f"the worker ended: {self.ended()}")
        return self

    def drain(self, *, more_mail: bool = False) -> None:
        """Begins the drain, as a primary does, and waits until it has begun.

        Args:
            more_mail: the mailboxes stay open; ``end_mail`` closes them.
        """
        self.channel.send(messages.disconnect())
        for piece in self.channel.outgoing():
            self.control.sendall(piece.data)
        closes = False
        while not closes:  # a response says so
            connection = self.http()
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                closes = response.getheader("connection") == "close"
            except ConnectionError:
                if self._lingers:
                    raise
                closes = True  # without linger a draining worker waits for no request that is not there yet
            finally:
                connection.close()
        if not more_mail:
            self.end_mail()

    def end_mail(self) -> None:
        for outbox in self.outboxes:
            outbox.close()

    def ended(self, deadline: float = DEADLINE) -> tuple[int, str, str]:
        """Waits for the end; exit code (negative: the signal), standard output, standard error."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        assert poll.poll(deadline * 1000), f"the worker did not end within {deadline} s"
        self.status = pidfd.wait(self.pidfd)
        assert self.status is not None
        texts = []
        for fd in (self.out, self.err):
            with open(fd, encoding="utf-8") as stream:
                texts.append(stream.read())
        code = self.status.code if self.status.code is not None else -(self.status.signal or 0)
        return code, texts[0], texts[1]

    # -- connections ---------------------------------------------------------------------------------------------

    def connect(self, data: bytes = b"", box: int = 0, deadline: float = DEADLINE) -> socket.socket:
        """A client's connection, handed over; ``data`` is sent before it is."""
        client = socket.create_connection((self.host, self.port), timeout=DEADLINE)
        self.clients.append(client)
        if data:
            client.sendall(data)
        accepted, (host, port) = self.listener.accept()
        accepted.setblocking(False)
        payload = letters.pack(host, port, time.monotonic_ns())
        self.post(payload, accepted.fileno(), box, deadline)
        accepted.close()
        return client

    def post(self, payload: bytes, fd: int | None = None, box: int = 0, deadline: float = DEADLINE) -> None:
        """Puts a message into a box, waiting for room."""
        outbox = self.outboxes[box]
        while outbox.post(payload, fd) is mail.Posted.FULL:
            poll = select.poll()
            poll.register(outbox.fileno(), select.POLLOUT)
            assert poll.poll(deadline * 1000), "the mailbox stayed full"

    def http(self, box: int = 0) -> HTTPConnection:
        """A client that speaks HTTP over a connection handed over."""
        return self.over(self.connect(box=box))

    def over(self, client: socket.socket) -> HTTPConnection:
        connection = HTTPConnection(self.host, self.port, timeout=DEADLINE)
        connection.sock = client
        connection.auto_open = 0
        return connection

    def get(self, path: str = "/") -> HTTPResponse:
        """One request on a connection of its own."""
        connection = self.http()
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse()

    def row(self, word: Row | int) -> int:
        return int(self.board.words[word])


def read_all(client: socket.socket) -> bytes:
    """What comes until the end of file."""
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        chunk = client.recv(65536)
        assert chunk, f"the connection ended after {data!r}"
        data += chunk
    return data


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _work(
    prepare: str,
    implementation: str,
    app: str,
    boxes: list[Inboxed],
    board_fd: int,
    control: socket.socket,
    options: HttpOptions,
) -> None:
    """The worker's process; does not return."""
    code = 1
    try:
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        logging.getLogger().handlers.clear()  # pytest's
        warnings.resetwarnings()
        if implementation == "asyncio-h11":
            for name in ("uvloop", "httptools"):
                sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
        exec(prepare, {})
        scope: dict[str, Any] = {"__name__": "the_app"}
        exec(app, scope)
        loop = asgi.new_event_loop()
        asyncio.set_event_loop(loop)
        assert type(loop).__module__.startswith(implementation.partition("-")[0])
        link = Link(loop, control, Channel(), [], worker=1, slot=0, pool="web", generation=1)
        board = scoreboard.Board.attach(board_fd, WORDS, writable=True)
        loop.run_until_complete(asgi.serve(scope["app"], boxes, board, link, options))
        link.close()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
