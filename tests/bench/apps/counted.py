"""Counts each request in one of 200 series before it answers, in the same turn; asked for /die it counts and dies."""

import os
import signal

from prometheus_client import Counter

REQUESTS = Counter("counted_requests", "Requests.", ["series"])


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    REQUESTS.labels(scope["query_string"].decode()).inc()
    if scope["path"] == "/die":
        os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
