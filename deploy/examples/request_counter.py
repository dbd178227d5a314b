"""Primary and workers exchange messages: the primary counts the requests of all, and tells everybody the sum.

``python request_counter.py [PORT]``, then ``curl localhost:8000/`` a few times.
"""

import asyncio
import sys
from typing import Any

from clusterd import cluster

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
total = 0


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and say so."""
    await reader.readuntil(b"\r\n\r\n")
    assert cluster.worker is not None
    cluster.worker.send({"cmd": "notifyRequest"})
    body = f"worker {cluster.worker.id}; requests so far: {total}\n".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def serve() -> None:
    """Be a worker."""
    assert cluster.worker is not None

    @cluster.worker.on("message")
    def on_message(message: Any, handle: Any) -> None:
        global total
        total = message["total"]

    server = await cluster.start_server(handle, "127.0.0.1", PORT)
    await server.serve_forever()


if cluster.is_primary:

    @cluster.on("message")
    def on_message(worker: cluster.Worker, message: Any, handle: Any) -> None:
        global total
        if isinstance(message, dict) and message.get("cmd") == "notifyRequest":
            total += 1
            print(f"requests: {total}, the last by worker {worker.id}", flush=True)
            for one in cluster.workers.values():
                one.send({"cmd": "total", "total": total})

    @cluster.on("listening")
    def on_listening(worker: cluster.Worker, address: cluster.Listening) -> None:
        print(f"worker {worker.id} listens on port {address.port}", flush=True)

    for _ in range(2):
        cluster.fork()
    cluster.run()
else:
    cluster.run(serve())
