"""Clients of four kinds that ask again and again, and count what they were answered and what they lost.

New connections are :class:`~tests.real.playground.Load`'s; here are those that stay: kept-alive ones, streams and
WebSockets. A connection that the server ends as the protocol has it (``connection: close``, a close frame) is no loss.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from websockets.exceptions import ConnectionClosedOK, WebSocketException
from websockets.sync.client import connect

from tests.real.clients import split
from tests.real.playground import Load, complete, read_until

DEADLINE = 20.0

CLIENTS = 13
"""Of all kinds together."""


class Clients:
    """Clients that go on until told to stop.

    Attributes:
        answered: requests answered in full.
        lost: what happened to the others.
    """

    def __init__(self) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.over = threading.Event()
        self._lock = threading.Lock()

    def client(self) -> None:
        """One of them, until :attr:`over`."""
        raise NotImplementedError

    def count(self, said: str = "") -> None:
        """One request more; ``said``: what happened to it, if it is lost."""
        with self._lock:
            if said:
                self.lost.append(said)
            else:
                self.answered += 1

    @contextmanager
    def running(self, clients: int) -> Iterator["Clients"]:
        """So many clients until the block ends."""
        threads = [threading.Thread(target=self.client, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.over.set()
            for thread in threads:
                thread.join(DEADLINE)


class Kept(Clients):
    """Connections that are kept alive.

    Args:
        request: what each sends, again and again.
        whole: whether a response is all there.
        good: what a good one contains.
    """

    def __init__(self, place: tuple[str, int], request: bytes, whole: Callable[[bytes], bool], good: bytes) -> None:
        super().__init__()
        self._place = place
        self._request = request
        self._whole = whole
        self._good = good

    def client(self) -> None:
        with ExitStack() as stack:
            connection: socket.socket | None = None
            while not self.over.is_set():
                said, answer = "", b""
                try:
                    if connection is None:
                        connection = stack.enter_context(socket.create_connection(self._place, DEADLINE))
                    connection.sendall(self._request)
                    answer = read_until(connection, self._whole)
                    if not (self._whole(answer) and self._good in answer):
                        said = f"ended after {answer[-60:]!r}"
                except OSError as error:
                    said = repr(error)
                if said or b"\r\nconnection: close" in answer.lower():
                    if connection is not None:
                        connection.close()
                    connection = None
                self.count(said)


class Sockets(Clients):
    """WebSockets that hear what they say, until the server sends a close frame; then another one."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._url = f"ws://{address.removeprefix('http://')}/"

    def client(self) -> None:
        while not self.over.is_set():
            try:
                with connect(self._url, open_timeout=DEADLINE, close_timeout=1.0, compression=None) as socket:
                    while not self.over.wait(0.005):
                        socket.send("one")
                        self.count("" if socket.recv(DEADLINE) == "one" else "heard something else")
            except ConnectionClosedOK:
                continue
            except (OSError, EOFError, WebSocketException) as error:
                # 1012 is "the service restarts": the frame of a drain, though not of those that the library calls ok.
                received = getattr(getattr(error, "rcvd", None), "code", None)
                if received not in (1001, 1012):
                    self.count(repr(error))


class Crowd:
    """All four kinds at once.

    Args:
        address: where the service listens.
    """

    def __init__(self, address: str) -> None:
        place = split(address)
        get = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
        stream = b"GET /stream?parts=10&pause=0.01 HTTP/1.1\r\nhost: test\r\n\r\n"
        self.fresh = Load(address)
        self.kept = Kept(place, get, complete, b"HTTP/1.1 200")
        self.streams = Kept(place, stream, lambda data: data.endswith(b"0\r\n\r\n"), b"over\n")
        self.sockets = Sockets(address)

    @contextmanager
    def running(self) -> Iterator["Crowd"]:
        """Until the block ends."""
        with self.fresh.running(4), self.kept.running(3), self.streams.running(3), self.sockets.running(3):
            yield self

    @property
    def answered(self) -> dict[str, int]:
        """Requests, by kind."""
        kinds = {"new": self.fresh, "kept": self.kept, "streams": self.streams, "sockets": self.sockets}
        return {kind: clients.answered for kind, clients in kinds.items()}

    @property
    def lost(self) -> list[str]:
        """What happened to those that were not answered."""
        return [*self.fresh.lost, *self.kept.lost, *self.streams.lost, *self.sockets.lost]
