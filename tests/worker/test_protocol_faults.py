"""Defects of the protocol code itself: the connection ends, on either loop and with either parser, and no other."""

import pytest

from tests.worker.engine import APP, IMPLEMENTATIONS, Engine, read_until

DEFECT = """
import importlib
for place, kind, method in (("httptools_impl", "HttpToolsProtocol", "on_headers_complete"),
                            ("h11_impl", "H11Protocol", "handle_events")):
    try:
        module = importlib.import_module("uvicorn.protocols.http." + place)
    except ImportError:
        continue
    own = getattr(getattr(module, kind), method)
    def broken(self, own=own):
        own(self)
        if self.scope is not None and (b"x-defect", b"1") in self.headers:
            raise RuntimeError("a defect of the protocol code")
    setattr(getattr(module, kind), method, broken)
"""

GET = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"
BAD = b"POST / HTTP/1.1\r\nhost: t\r\nx-defect: 1\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("early", [True, False], ids=["with the connection", "later"])
def test_an_exception_ends_its_connection_and_no_other(implementation: str, early: bool) -> None:
    with Engine(implementation, app=APP + DEFECT) as engine:
        engine.ready()
        other = engine.connect(GET)
        read_until(other, b"hello from")
        client = engine.connect(BAD if early else b"")
        if not early:
            client.sendall(GET)
            read_until(client, b"hello from")
            client.sendall(BAD)
        try:
            while client.recv(4096):
                pass
        except ConnectionError:
            pass  # as good an end
        other.sendall(GET)
        read_until(other, b"hello from")
        engine.drain()
        other.close()
        code, _, _ = engine.ended()
        assert code == 0
