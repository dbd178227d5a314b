"""Handlers that keep the loop: /busy works for 8 ms, /block sleeps for 5 s; the answer is the worker's pid."""

import os
import time


async def app(scope, receive, send):
    """Answer with the pid."""
    if scope["type"] != "http":
        raise ValueError("neither lifespan nor WebSocket here")
    if scope["path"] == "/block":
        time.sleep(5.0)  # noqa: ASYNC251 - a worker that blocks is what is measured
    elif scope["path"] == "/busy":
        until = time.thread_time() + 0.008
        while time.thread_time() < until:
            pass
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
