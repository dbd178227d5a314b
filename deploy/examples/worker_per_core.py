"""A worker for each core, and a new one for each that dies: the program that every tutorial begins with.

``python worker_per_core.py [PORT]``, then ``curl localhost:8000/`` and, to see one die, ``curl localhost:8000/kill``.
"""

import asyncio
import os
import sys

from clusterd import cluster

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    request = await reader.readuntil(b"\r\n\r\n")
    if request.startswith(b"GET /kill "):
        os._exit(1)
    body = f"hello from worker {cluster.worker.id if cluster.worker else 0}, pid {os.getpid()}\n".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def serve() -> None:
    """Be a worker."""
    server = await cluster.start_server(handle, "127.0.0.1", PORT)
    await server.serve_forever()


if cluster.is_primary:
    print(f"primary {os.getpid()} is running", flush=True)
    for _ in range(cluster.cpu_count()):
        cluster.fork()

    @cluster.on("listening")
    def on_listening(worker: cluster.Worker, address: cluster.Listening) -> None:
        print(f"worker {worker.id} listens on port {address.port}", flush=True)

    @cluster.on("exit")
    def on_exit(worker: cluster.Worker, code: int | None, signal: str | None) -> None:
        print(f"worker {worker.id} died ({signal or code}); starting another", flush=True)
        cluster.fork()

    cluster.run()
else:
    cluster.run(serve())
