"""Connections over workers: exactly in turn."""

import socket
from collections import Counter

from tests.bench import arena


def test_spread() -> None:
    """200 connections one after another over 4 workers: 50 each; 40 held open: 10 each."""
    off_sequential, off_held = [], []
    for _ in range(arena.ROUNDS):
        with arena.clusterd("slow:app") as server:
            counts = Counter(arena.request(server.port).rpartition(b"\r\n\r\n")[2] for _ in range(200))
            off_sequential.append(float(max(abs(counts[pid] - 50) for pid in counts) + 50 * (4 - len(counts))))
            held: Counter[bytes] = Counter()
            clients = []
            for _ in range(40):
                client = socket.create_connection(("127.0.0.1", server.port), 10)
                client.sendall(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")
                answer = b""
                while not answer.partition(b"\r\n\r\n")[2]:  # head and body may come apart
                    answer += client.recv(65536)
                held[answer.partition(b"\r\n\r\n")[2]] += 1
                clients.append(client)
            off_held.append(float(max(abs(held[pid] - 10) for pid in held) + 10 * (4 - len(held))))
            for client in clients:
                client.close()
    arena.report(
        "spread",
        [
            arena.Figure("200 one after another: furthest from 50", "0", off_sequential, lambda value: value == 0),
            arena.Figure("40 held open: furthest from 10", "0", off_held, lambda value: value == 0),
        ],
    )
