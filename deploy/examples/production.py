"""A cluster for production: workers that say when they are ready, a bound on crash loops, a graceful end with a limit.

``python production.py [PORT]``; SIGTERM to the primary ends it gracefully: while a worker drains it answers 503, and
who has not ended after ``FORCE_AFTER`` seconds is killed. ``clusterd run`` with ``script = "production.py"`` does all
of that itself, and more; this is how it is written by hand.
"""

import asyncio
import os
import signal
import sys
import time
from collections import deque
from typing import Any

from clusterd import cluster

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
WORKERS = 2
CRASHES, WITHIN = 5, 60.0
FORCE_AFTER = 10.0

draining = False
active = 0


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests, kept-alive ones too; 503 while this worker drains."""
    global active
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /crash "):
                os._exit(1)
            active += 1
            status, body = ("503 Service Unavailable", b"draining\n") if draining else ("200 OK", b"hello\n")
            close = "close" if draining else "keep-alive"
            writer.write(f"HTTP/1.1 {status}\r\nConnection: {close}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
            active -= 1
            if draining:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve() -> None:
    """Be a worker."""
    worker = cluster.worker
    assert worker is not None

    @worker.on("message")
    def on_message(message: Any, handle: Any) -> None:
        global draining
        if isinstance(message, dict) and message.get("type") == "GRACEFUL_SHUTDOWN":
            draining = True
            worker.disconnect()

    server = await cluster.start_server(handle, "127.0.0.1", PORT)
    worker.send({"type": "READY"})
    await server.serve_forever()


class Primary:
    """Keeps ``WORKERS`` workers alive, unless they crash and crash."""

    def __init__(self) -> None:
        self.crashes: deque[float] = deque(maxlen=CRASHES)
        self.ready: set[int] = set()
        self.stopping = False

    def start(self) -> None:
        """Fork, and listen to what happens."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        cluster.on("message", self.message)
        cluster.on("exit", self.exit)
        cluster.on("listening", lambda worker, address: print(f"listening on port {address.port}", flush=True))
        for _ in range(WORKERS):
            cluster.fork()

    def message(self, worker: cluster.Worker, message: Any, handle: Any) -> None:
        """A worker speaks."""
        if isinstance(message, dict) and message.get("type") == "READY":
            self.ready.add(worker.id)
            print(f"worker {worker.id} is ready ({len(self.ready)} of {WORKERS})", flush=True)

    def exit(self, worker: cluster.Worker, code: int | None, by: str | None) -> None:
        """A worker has ended."""
        self.ready.discard(worker.id)
        if self.stopping or worker.exited_after_disconnect:
            return
        now = time.monotonic()
        self.crashes.append(now)
        print(f"worker {worker.id} crashed ({by or code})", flush=True)
        if len(self.crashes) == CRASHES and now - self.crashes[0] < WITHIN:
            print(f"{CRASHES} crashes within {WITHIN:g} s: giving up", flush=True)
            sys.exit(1)
        cluster.fork()

    def stop(self) -> None:
        """End gracefully, and by force after a while."""
        self.stopping = True
        print("shutting down", flush=True)
        for worker in list(cluster.workers.values()):
            worker.send({"type": "GRACEFUL_SHUTDOWN"})
        asyncio.get_running_loop().call_later(FORCE_AFTER, self.force)

    def force(self) -> None:
        """They had their time."""
        for worker in list(cluster.workers.values()):
            print(f"worker {worker.id} is killed", flush=True)
            worker.kill("SIGKILL")


async def primary() -> None:
    """Be the primary."""
    Primary().start()


if cluster.is_primary:
    cluster.run(primary())
    print("the last worker is gone", flush=True)
else:
    cluster.run(serve())
