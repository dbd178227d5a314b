"""Answers with its pid; asked for /flood it prints without end, from a thread."""

import os
import threading

LINES = b"".join(b"%063d\n" % number for number in range(1024))


def flood() -> None:
    while True:
        os.write(1, LINES)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/flood":
        threading.Thread(target=flood, daemon=True).start()
    body = str(os.getpid()).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})
