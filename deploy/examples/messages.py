"""Primary and workers talk: the primary greets each, and each answers what it is asked to work out.

``python messages.py [COUNT]``: it ends by itself, when every worker has answered.
"""

import os
import sys
from typing import Any

from clusterd import cluster

COUNT = int(sys.argv[1]) or 2 if len(sys.argv) > 1 else 2

if cluster.is_primary:
    sums: dict[int, int] = {}

    @cluster.on("online")
    def on_online(worker: cluster.Worker) -> None:
        worker.send({"cmd": "add", "numbers": list(range(worker.id * 10))})

    @cluster.on("message")
    def on_message(worker: cluster.Worker, message: Any, handle: Any) -> None:
        if message["cmd"] == "hello":
            print(f"worker {worker.id} says hello from process {message['pid']}", flush=True)
            return
        sums[worker.id] = message["sum"]
        print(f"worker {worker.id} says the sum is {message['sum']}", flush=True)
        worker.disconnect()

    @cluster.on("exit")
    def on_exit(worker: cluster.Worker, code: int | None, signal: str | None) -> None:
        if not cluster.workers:
            print(f"all have answered: {sum(sums.values())}", flush=True)

    for _ in range(COUNT):
        cluster.fork()
    cluster.run()
else:
    assert cluster.worker is not None
    me = cluster.worker

    @me.on("message")
    def on_question(message: Any, handle: Any) -> None:
        if message["cmd"] == "add":
            me.send({"cmd": "sum", "sum": sum(message["numbers"])})

    me.send({"cmd": "hello", "pid": os.getpid()})
    cluster.run()
