"""Clients in a process of its own, of one thread: each asks, waits for the answer, pauses, and asks again.

``python -m tests.bench.pacing PORT KEPT NEW PAUSE`` until SIGTERM, then prints every request that is over, as JSON:
kind, when it was sent and when it was over in seconds since the epoch, and what went wrong. KEPT clients keep their
connection, NEW take another one each time. Threads would wait for one another's lock and for their bench's, and what
they measured would be that.
"""

import heapq
import json
import re
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass

REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"
STAGGER = 0.001
"""Seconds between the first requests of two clients."""


@dataclass(eq=False, slots=True)
class Client:
    kind: str
    sock: socket.socket | None = None
    began: float = 0.0
    answer: bytes = b""

    def whole(self) -> bool:
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
        return bool(separator) and length is not None and len(body) >= int(length[1])


class Pacing:
    def __init__(self, port: int, kinds: list[str], pause: float) -> None:
        self.asked: list[tuple[str, float, float, str]] = []
        self._port = port
        self._pause = pause
        self._ready = selectors.DefaultSelector()
        self._due = [(time.time() + number * STAGGER, number, Client(kind)) for number, kind in enumerate(kinds)]

    def turn(self) -> None:
        while self._due and self._due[0][0] <= time.time():
            self._ask(heapq.heappop(self._due)[2])
        wait = max(0.0, self._due[0][0] - time.time()) if self._due else 1.0
        for key, _ in self._ready.select(wait):
            self._hear(key.data)

    def _ask(self, client: Client) -> None:
        client.began, client.answer = time.time(), b""
        try:
            if client.sock is None:
                client.sock = socket.create_connection(("127.0.0.1", self._port))
                client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ready.register(client.sock, selectors.EVENT_READ, client)
            client.sock.sendall(REQUEST)
        except OSError as problem:
            self._over(client, repr(problem))

    def _hear(self, client: Client) -> None:
        assert client.sock is not None
        try:
            part = client.sock.recv(65536)
        except OSError as problem:
            return self._over(client, repr(problem))
        client.answer += part
        if not part:
            self._over(client, f"closed after {len(client.answer)} bytes")
        elif client.whole():
            self._over(client, "" if client.answer.startswith(b"HTTP/1.1 200") else repr(client.answer[:60]))
        return None

    def _over(self, client: Client, error: str) -> None:
        now = time.time()
        self.asked.append((client.kind, client.began, now, error))
        if client.sock is not None and (error or client.kind == "new"):
            self._ready.unregister(client.sock)
            client.sock.close()
            client.sock = None
        heapq.heappush(self._due, (now + self._pause, id(client), client))


def main() -> None:
    port, kept, new, pause = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: over.append(number))
    pacing = Pacing(port, ["kept"] * kept + ["new"] * new, pause)
    while not over:
        pacing.turn()
    json.dump(pacing.asked, sys.stdout)


if __name__ == "__main__":
    main()
