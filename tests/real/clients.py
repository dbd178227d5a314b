"""What a real service is looked at with: HTTP over TCP and unix sockets, and a reader of metrics."""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def split(address: str) -> tuple[str, int]:
    """``"127.0.0.1:43121"`` or ``"[::1]:43121"`` as what :func:`socket.create_connection` takes."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, read to its end; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def connect(address: str, timeout: float) -> socket.socket:
    """A raw connection to an address as the log has it: ``host:port``, ``unix:PATH`` or ``unix:@NAME``."""
    if not address.startswith("unix:"):
        return socket.create_connection(split(address), timeout)
    path = address.removeprefix("unix:")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
    except BaseException:
        sock.close()
        raise
    return sock


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: a path, or ``@`` and the name of an abstract one."""

    def __init__(self, path: Path | str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = connect(f"unix:{os.fspath(self.path)}", self.timeout or 0.0)


def dial(address: str, timeout: float) -> http.client.HTTPConnection:
    """HTTP to an address as the log has it, not connected yet."""
    if address.startswith("unix:"):
        return UnixConnection(address.removeprefix("unix:"), timeout)
    return http.client.HTTPConnection(*split(address), timeout=timeout)


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> Response:
    """One request on a connection that may be kept alive for the next."""
    connection.request(method, path, headers=dict(headers or {}))
    answer = connection.getresponse()
    return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def fetch(address: str, path: str = "/", *, timeout: float = 20.0) -> Response:
    """One request on a connection of its own."""
    connection = dial(address, timeout)
    try:
        return ask(connection, path, headers={"Connection": "close"})
    finally:
        connection.close()


class Metrics:
    """One reading of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of ``name`` that carry ``labels``; 0.0 where there is none."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= dict(sample.labels).items()
        )

    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}
