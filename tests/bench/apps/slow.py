"""An app whose answers take a second: /second; everything else is answered at once with the worker's pid."""

import asyncio
import os


async def app(scope, receive, send):
    """Answer with the pid."""
    if scope["type"] != "http":
        raise ValueError("neither lifespan nor WebSocket here")
    if scope["path"] == "/second":
        await asyncio.sleep(1.0)
    body = str(os.getpid()).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})
