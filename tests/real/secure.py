"""TLS for tests: an authority, the files of a listener, clients that speak it, and the headers that a proxy sends."""

import http.client
import json
import os
import socket
import ssl
from pathlib import Path
from struct import pack
from typing import Any

import trustme

from tests.real.clients import connect
from tests.real.harness import DEADLINE, Service

APP = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"]
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    said = {"pid": os.getpid(), "client": scope["client"], "server": scope["server"], "scheme": scope["scheme"],
            "tls": scope.get("extensions", {}).get("tls")}
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(said)})
        await receive()
        return
    if scope["method"] == "POST":
        print("begun", flush=True)
        while (await receive()).get("more_body"):
            pass
    body = json.dumps(said).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
"""Tells what it knows of the connection; a POST is answered when its body has come."""

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 51234 443\r\n"
_PLACES = bytes([192, 0, 2, 7]), bytes([198, 51, 100, 9]), 51234, 443
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + pack("!H4s4sHH", 12, *_PLACES)
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00" + pack("!H", 0)
CLIENT, SERVER = ["192.0.2.7", 51234], ["198.51.100.9", 443]
"""Whom V1 and V2 tell of."""


class Authority:
    """One that signs, and the files that it has signed."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca.cert_pem.write_to_path(os.fspath(folder / "ca.pem"))

    def issue(self, name: str = "server") -> dict[str, str]:
        """Writes a fresh certificate and its key over those of that name; gives the settings of a listener."""
        made = self.ca.issue_cert("localhost", "127.0.0.1")
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        key.chmod(0o600)
        return {"cert": cert.name, "key": key.name}

    def client(self, common_name: str = "") -> ssl.SSLContext:
        """How a client sees it; with a certificate of its own if it has a name."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if common_name:
            self.ca.issue_cert("client.example.org", common_name=common_name).configure_cert(context)
        return context


def secured(
    service: Service,
    context: ssl.SSLContext,
    *,
    listener: str = "http",
    header: bytes = b"",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """A connection past its handshake; a proxy's header goes before that."""
    raw = connect(service.address(listener), DEADLINE)
    try:
        raw.sendall(header)
        return context.wrap_socket(raw, server_hostname="localhost", session=session)
    except BaseException:
        raw.close()
        raise


def exchange(sock: socket.socket, request: bytes = GET) -> Any:
    """One request on a connection of its own, which is closed; the JSON of the answer."""
    with sock:
        sock.sendall(request)
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.status == 200, response.status
        return json.loads(response.read())
