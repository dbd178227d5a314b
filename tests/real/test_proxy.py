"""The PROXY protocol through real listeners: whose address the app is told, and what becomes of all else."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect as websocket

from tests.procfs import wait_for
from tests.real.clients import connect
from tests.real.harness import DEADLINE, Launcher, Record, Service
from tests.real.playground import complete, read_until
from tests.real.secure import APP, CLIENT, GET, LOCAL, SERVER, V1, V2, Authority, exchange, secured

SCHEDULING = ("rr", "none")
REFUSED = [
    GET,  # no header at all: somebody went past the proxy
    b"PROXY TCP4 one two 3 4\r\n" + GET,
    b"PROXY " + b"x" * 200,
    V2[:12] + b"\x41" + V2[13:] + GET,
    V2[:14] + b"\xff\xff" + b"x" * 3000,
    b"\x00",
]


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


def start(launcher: Launcher, *, workers: int = 1, scheduling: str = "rr", **listener: object) -> Service:
    settings = {
        "listeners": {"http": {"proxy_protocol": True, **listener}},
        "pools": {"web": {"scheduling": scheduling}},
    }
    service = launcher.start(APP, settings, workers=workers)
    service.wait_log("worker_ready", count=workers)
    return service


def refused(service: Service, data: bytes) -> None:
    """What comes is closed without an answer."""
    with service.connect() as sock:
        try:
            sock.sendall(data)
            assert sock.recv(4096) == b""
        except ConnectionError:
            pass  # as good an end


@pytest.mark.parametrize("scheduling", SCHEDULING)
@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_app_is_told_of_the_proxy_s_client(launcher: Launcher, scheduling: str, header: bytes) -> None:
    service = start(launcher, scheduling=scheduling)
    sock = service.connect()
    sock.sendall(header + GET)  # in one piece
    said = exchange(sock, b"")
    assert (said["client"], said["server"], said["scheme"]) == (CLIENT, SERVER, "http")
    sock = service.connect()
    for number in range(len(header)):  # and in as many as there can be
        sock.sendall(header[number : number + 1])
    said = exchange(sock)
    assert (said["client"], said["server"]) == (CLIENT, SERVER)


def test_a_websocket_and_a_second_request_are_told_the_same(launcher: Launcher) -> None:
    service = start(launcher)
    raw = service.connect()
    raw.sendall(V2)
    with websocket("ws://localhost/", sock=raw) as client:
        said = client.recv(DEADLINE)
    assert '"client": ["192.0.2.7", 51234]' in said
    with service.connect() as sock:
        sock.sendall(V1 + GET.replace(b"connection: close\r\n", b""))
        assert b"192.0.2.7" in read_until(sock, complete)
        assert exchange(sock)["client"] == CLIENT


def test_what_the_proxy_says_for_itself_comes_from_the_proxy(launcher: Launcher) -> None:
    service = start(launcher)
    for header in (LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"):
        sock = service.connect()
        mine = list(sock.getsockname())
        sock.sendall(header)
        assert exchange(sock)["client"] == mine


def test_it_comes_before_tls_and_over_unix_sockets(launcher: Launcher) -> None:
    authority = Authority(launcher.folder)
    (launcher.folder / "app.py").write_text(APP)
    settings = {
        "listeners": {
            "http": {"proxy_protocol": True, "tls": authority.issue()},
            "local": {"address": "unix:shop.sock", "proxy_protocol": True},
            "free": {"address": "127.0.0.1:0", "proxy_protocol": True, "tls": authority.issue("other")},
        },
        "pools": {
            "web": {"listeners": ["http", "local"]},
            "own": {"app": "app:app", "workers": 1, "listeners": ["free"], "scheduling": "none"},
        },
    }
    service = launcher.start(APP, settings)
    service.wait_log("worker_ready", count=3)
    for listener in ("http", "free"):
        for header in (V1, V2):
            said = exchange(secured(service, authority.client(), listener=listener, header=header))
            assert (said["client"], said["server"], said["scheme"]) == (CLIENT, SERVER, "https")
    sock = connect(service.address("local"), DEADLINE)
    sock.sendall(V2)
    assert exchange(sock)["client"] == CLIENT


@pytest.mark.parametrize("scheduling", SCHEDULING)
def test_what_is_no_header_costs_its_own_connection_and_is_said_once(
    launcher: Launcher, held: ExitStack, scheduling: str
) -> None:
    service = start(launcher, scheduling=scheduling)
    silent = [held.enter_context(service.connect()) for _ in range(20)]
    for sock in silent[:10]:
        sock.sendall(V2[:7])
    for data in REFUSED:
        refused(service, data)
    sock = service.connect()
    sock.sendall(V1)
    assert exchange(sock)["client"] == CLIENT, "nobody waits for the silent ones"

    def closed(record: Record) -> bool:
        return "closed before its first request" in str(record)

    said = service.wait_log(closed)
    assert "a PROXY header was expected" in said["text"]
    assert "http" in said["text"]
    assert service.logged(closed) == [said]
    for sock in silent:
        sock.close()
    wait_for(lambda: service.metrics().value("clusterd_connections_open") == 0, DEADLINE, "the end of all of them")


def test_a_drain_closes_who_has_said_nothing_and_serves_who_has_begun(launcher: Launcher) -> None:
    service = start(launcher)
    with service.connect() as begun, service.connect() as silent:
        begun.sendall(V2[:7])
        wait_for(lambda: service.metrics().value("clusterd_connections_open") == 2, DEADLINE, "both connections")
        service.signal(signal.SIGTERM)
        service.wait_log("worker_draining")
        assert silent.recv(1) == b""
        begun.sendall(V2[7:] + GET)
        assert begun.makefile("rb").read().startswith(b"HTTP/1.1 200")
    assert service.wait_exit() == 0
    assert not service.logged("worker_killed")
