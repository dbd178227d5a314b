"""The smallest answer there is, so that what is measured is the server."""

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def app(scope, receive, send):
    """Answer with 13 bytes."""
    if scope["type"] != "http":
        raise ValueError("neither lifespan nor WebSocket here")  # which is how an app says so
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"Hello, world!"})
