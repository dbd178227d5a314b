"""SIGTERM with requests in flight: nothing is lost, and it ends when the longest has."""

import signal
import socket
import threading
import time

from tests.bench import arena


def get(port: int, path: str, answers: list[bytes]) -> None:
    try:
        answers.append(arena.request(port, path, timeout=20))
    except OSError as error:
        answers.append(repr(error).encode())


def round_of(idle: int) -> tuple[int, float]:
    """One service, 40 requests of a second in flight, ``idle`` kept-alive connections; returns lost and seconds."""
    with arena.clusterd("slow:app") as server:
        kept = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(idle)]
        for client in kept:
            client.sendall(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")
            client.recv(65536)
        answers: list[bytes] = []
        threads = [threading.Thread(target=get, args=(server.port, "/second", answers)) for _ in range(40)]
        for thread in threads:
            thread.start()
        while b"http_requests_in_flight" not in (page := arena.request(server.monitoring, "/metrics")):
            time.sleep(0.01)
        deadline = time.monotonic() + 0.8
        while in_flight(page) < 40 and time.monotonic() < deadline:
            page = arena.request(server.monitoring, "/metrics")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(30)
        took = time.monotonic() - begun
        for thread in threads:
            thread.join()
        for client in kept:
            client.close()
        lost = sum(b"HTTP/1.1 200" not in answer for answer in answers) + (code != 0)
        return lost, took


def in_flight(page: bytes) -> float:
    lines = [line for line in page.splitlines() if line.startswith(b"clusterd_http_requests_in_flight{")]
    return sum(float(line.rpartition(b" ")[2]) for line in lines)


def test_term() -> None:
    """40 requests of 1 s in flight: 0 lost; ended within 1.5 s, with idle kept-alive clients within linger + 0.5 s."""
    busy = [round_of(0) for _ in range(arena.ROUNDS)]
    idle = [round_of(20) for _ in range(arena.ROUNDS)]
    arena.report(
        "term",
        [
            arena.Figure("lost of 40", "0", [float(max(lost for lost, _ in busy + idle))], lambda v: v == 0),
            arena.Figure(
                "ended after SIGTERM", "within 1.5 s", [took for _, took in busy], lambda v: v <= 1.5, unit=" s"
            ),
            arena.Figure(
                "the same with 20 idle kept-alive clients",
                "within 2.5 s (linger 2 s)",
                [took for _, took in idle],
                lambda v: v <= 2.5,
                unit=" s",
            ),
        ],
    )
