"""Messages between a primary and its worker: ``python messages.py there|back|ping|handles|handle_ping COUNT``.

Prints seconds.
"""

import socket
import sys
import time

from clusterd import cluster

what, count = sys.argv[1], int(sys.argv[2])
MESSAGE = {"text": "x" * 86}  # a hundred bytes of JSON


def echo(message, handle):
    if what == "there":
        global seen
        seen += 1
        if seen == count:
            cluster.worker.send(seen)
    elif what == "back":
        for _ in range(count):
            cluster.worker.send(MESSAGE)
    elif handle is not None:
        cluster.worker.send(message, handle)
        handle.close()
    else:
        cluster.worker.send(message)


seen = 0

if cluster.is_primary:
    worker = cluster.fork()
    handle = socket.create_server(("127.0.0.1", 0)) if what in ("handles", "handle_ping") else None
    began = 0.0

    def begin():
        global began
        began = time.perf_counter()
        for _ in range(count if what in ("there", "handles") else 1):
            worker.send(MESSAGE, handle)

    def heard(message, got):
        global seen
        seen += 1
        if got is not None:
            got.close()
        if what in ("ping", "handle_ping") and seen < count:
            worker.send(MESSAGE, handle)
        elif what == "there" or seen == count:
            print(time.perf_counter() - began)
            worker.disconnect()

    worker.on("online", begin)
    worker.on("message", heard)
    cluster.run()
else:
    cluster.worker.on("message", echo)
    cluster.run()
