"""A rolling restart: on SIGHUP each worker is replaced, one by one, the next only when the last one's heir listens.

``python rolling_restart.py [PORT]``, then ``kill -HUP`` of the primary while something asks ``localhost:8000``.
"""

import asyncio
import os
import signal
import sys

from clusterd import cluster

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    await reader.readuntil(b"\r\n\r\n")
    body = f"{os.getpid()}\n".encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def serve() -> None:
    """Be a worker."""
    server = await cluster.start_server(handle, "127.0.0.1", PORT)
    await server.serve_forever()


async def replace(old: cluster.Worker) -> None:
    """Start a new worker; when it listens, let the old one finish."""
    loop = asyncio.get_running_loop()
    listening: asyncio.Future[None] = loop.create_future()
    gone: asyncio.Future[None] = loop.create_future()
    old.once("exit", lambda code, signal: gone.set_result(None))
    new = cluster.fork()
    new.once("listening", lambda address: listening.set_result(None))
    await listening
    old.disconnect()
    await gone
    print(f"worker {old.id} is replaced by worker {new.id}", flush=True)


async def primary() -> None:
    """Fork, and replace all when told to."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    loop.add_signal_handler(signal.SIGTERM, cluster.disconnect)
    for _ in range(2):
        cluster.fork()

    @cluster.on("listening")
    def on_listening(worker: cluster.Worker, address: cluster.Listening) -> None:
        print(f"worker {worker.id} listens on port {address.port}", flush=True)

    @cluster.on("exit")
    def on_exit(worker: cluster.Worker, code: int | None, signal: str | None) -> None:
        if not worker.exited_after_disconnect:
            cluster.fork()  # it was not meant to
        elif not cluster.workers:
            rolling.cancel()

    async def roll() -> None:
        while True:
            await asked.wait()
            asked.clear()
            for old in list(cluster.workers.values()):
                await replace(old)
            print("all workers are replaced", flush=True)

    rolling = asyncio.ensure_future(roll())
    await asyncio.wait((rolling,))


if cluster.is_primary:
    cluster.run(primary())
else:
    cluster.run(serve())
