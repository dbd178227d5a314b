"""Many clients in one thread, each request on a connection of its own; what became of every single one.

wrk tells percentiles; here one has to know which worker answered, and whether a connection was refused, reset or hung.
"""

import errno
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum


class End(Enum):
    """How a connection ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """It never was one: the connect failed."""
    RESET = "reset"
    """It was established, and was reset or closed without an answer."""
    HUNG = "hung"
    """Nothing had come of it at the end of the patience."""


@dataclass(slots=True)
class Request:
    """One request: when it began (``time.monotonic()``), how long it took in seconds, its end and the body."""

    begun: float
    took: float = 0.0
    end: End = End.HUNG
    body: bytes = b""


class _Client:
    __slots__ = ("answer", "connected", "request", "sock")

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.request = Request(time.monotonic())
        self.answer = b""
        self.connected = False
        code = self.sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.finish(End.REFUSED)

    def finish(self, end: End) -> None:
        self.request.took = time.monotonic() - self.request.begun
        self.request.end = end
        self.request.body = self.answer.partition(b"\r\n\r\n")[2]
        self.sock.close()

    def ready(self, data: bytes) -> bool:
        """Go on; true when it has ended."""
        try:
            if not self.connected:
                code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    self.finish(End.REFUSED)
                    return True
                self.sock.send(data)
                self.connected = True
                return False
            part = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            self.finish(End.RESET)
            return True
        self.answer += part
        if part:
            return False
        self.finish(End.ANSWERED if self.answer.startswith(b"HTTP/1.1 200") else End.RESET)
        return True


def swarm(
    port: int, *, together: int, go_on: Callable[[int], bool], path: str = "/", patience: float = 60.0
) -> Iterator[Request]:
    """Have ``together`` requests under way at any time, each on a new connection; yields each one that has ended.

    Args:
        go_on: called with the number of those begun so far; whether another is to begin.
        patience: seconds to wait for those under way when no other is to begin; what is left then has hung.
    """
    data = f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode()
    poll = select.epoll()
    clients: dict[int, _Client] = {}
    begun = 0
    over = 0.0
    while True:
        while len(clients) < together and not over:
            if not go_on(begun):
                over = time.monotonic() + patience
                break
            client = _Client(("127.0.0.1", port))
            begun += 1
            if client.sock.fileno() < 0:
                yield client.request
                continue
            clients[client.sock.fileno()] = client
            poll.register(client.sock, select.EPOLLOUT)
        if not clients:
            break
        if over and time.monotonic() > over:
            for client in clients.values():
                client.finish(End.HUNG)
                yield client.request
            break
        for fd, _ in poll.poll(0.1, 1024):
            client = clients[fd]
            was = client.connected
            if client.ready(data):
                del clients[fd]
                yield client.request
            elif client.connected and not was:
                poll.modify(fd, select.EPOLLIN)
    poll.close()


def share(values: list[float], part: float) -> float:
    """The smallest of ``values`` that ``part`` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
