"""Heartbeats: each worker says twice a second that it lives; one that does not for five seconds is killed and replaced.

``python health_check.py [PORT]``; ``curl localhost:8000/hang`` makes a worker hang. The daemon has this for every pool
(``[pools.NAME.health] heartbeat_timeout``).
"""

import asyncio
import sys
import time
from typing import Any

from clusterd import cluster

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
EVERY, TIMEOUT = 0.5, 5.0


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, or hang."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET /hang "):
        while True:
            pass
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n")
    await writer.drain()
    writer.close()


async def serve() -> None:
    """Be a worker."""
    assert cluster.worker is not None
    server = await cluster.start_server(handle, "127.0.0.1", PORT)
    async with server:
        while cluster.worker.is_connected():
            cluster.worker.send({"type": "heartbeat"})
            await asyncio.sleep(EVERY)


async def primary() -> None:
    """Be the primary: replace who is silent."""
    heard: dict[int, float] = {}

    @cluster.on("message")
    def on_message(worker: cluster.Worker, message: Any, handle: Any) -> None:
        if isinstance(message, dict) and message.get("type") == "heartbeat":
            heard[worker.id] = time.monotonic()

    @cluster.on("listening")
    def on_listening(worker: cluster.Worker, address: cluster.Listening) -> None:
        print(f"worker {worker.id} listens on port {address.port}", flush=True)

    @cluster.on("exit")
    def on_exit(worker: cluster.Worker, code: int | None, signal: str | None) -> None:
        heard.pop(worker.id, None)
        print(f"worker {worker.id} ended ({signal or code})", flush=True)
        cluster.fork()

    for _ in range(2):
        cluster.fork()
    while True:
        await asyncio.sleep(EVERY)
        for worker in list(cluster.workers.values()):
            if worker.id in heard and time.monotonic() - heard[worker.id] > TIMEOUT:
                print(f"worker {worker.id} is silent, and killed", flush=True)
                worker.kill("SIGKILL")


if cluster.is_primary:
    cluster.run(primary())
else:
    cluster.run(serve())
