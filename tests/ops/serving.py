"""The small HTTP server as the primary has it: in a loop, on a real socket, for tests to talk to."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from clusterd.ops.exchange import Answerer, Routes
from clusterd.ops.http import HttpServer, start

DEADLINE = 10.0


class Running:
    """A server in a loop of its own thread.

    Attributes:
        reported: what the loop's exception handler was told.
    """

    def __init__(self, sock: socket.socket, routes: Routes | Answerer) -> None:
        self.address = sock.getsockname()
        self.family = sock.family
        self.reported: list[BaseException | None] = []
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self.reported.append(context.get("exception")))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server: HttpServer = asyncio.run_coroutine_threadsafe(start(sock, routes), self.loop).result(DEADLINE)

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            self.server.close()
            for _ in range(3):  # aborted transports report in the next turns
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(DEADLINE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE)
        self.loop.close()

    def connect(self) -> socket.socket:
        client = socket.socket(self.family, socket.SOCK_STREAM)
        client.settimeout(DEADLINE)
        try:
            client.connect(self.address)
        except OSError:
            client.close()
            raise
        return client

    def ask(self, data: bytes) -> bytes:
        """Everything the server answers to ``data``, until it closes."""
        with self.connect() as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


@contextmanager
def serving(sock: socket.socket, routes: Routes | Answerer) -> Iterator[Running]:
    """A server on a listening socket, to the end of the block."""
    with closing(Running(sock, routes)) as running:
        yield running


@contextmanager
def serving_unix(path: str, routes: Routes | Answerer) -> Iterator[Running]:
    """A server on a new unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        sock.listen()
    except OSError:
        sock.close()
        raise
    with serving(sock, routes) as running:
        yield running
