"""Tasks that never end and clients that keep a worker busy cost no other connection.

Defects of the protocol code itself: ``tests/worker/test_protocol_faults.py``.
"""

import resource
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest
from websockets.sync.client import connect as websocket

from tests.procfs import wait_for
from tests.real.clients import split
from tests.real.harness import DEADLINE, Launcher, Service
from tests.real.looking import app, ask, fields
from tests.real.playground import APP, Load, complete, read_until, up

NEVER = """
import asyncio, os
tasks = []

async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue

async def answer(path):
    if path == "/begin":
        tasks.append(asyncio.ensure_future(stubborn()))
    elif path == "/wait":
        await asyncio.Event().wait()
    return os.getpid()
"""

PINGS = (
    APP
    + """
import uvicorn
own_init = uvicorn.Config.__init__
def init(self, *arguments, **named):
    own_init(self, *arguments, **named)
    self.ws_ping_interval, self.ws_ping_timeout = INTERVAL, TIMEOUT
uvicorn.Config.__init__ = init
"""
)
"""uvicorn pings every 20 s, 180 times an hour; here as often in a few seconds."""

PAUSE = 0.03
PINGS_OF_AN_HOUR = 180
IDLE = 10_000


def ok(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200")


@contextmanager
def descriptors_for(count: int) -> Iterator[None]:
    """This process may have so many more for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 1000), hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident(pid: int) -> int:
    """``VmRSS`` in KiB."""
    return int(fields(pid)["VmRSS"].split()[0])


def test_a_task_that_never_ends_is_ended_with_the_drain_and_costs_nobody_else(launcher: Launcher) -> None:
    service = launcher.start(app(NEVER), {"shutdown": {"drain_timeout": "500ms", "linger": "100ms"}}, workers=1)
    pid = ask(service, "/begin")
    with service.connect() as stuck:
        stuck.sendall(b"GET /wait HTTP/1.1\r\nhost: t\r\n\r\n")
        with Load(service.address()).running(4) as load:
            wait_for(lambda: load.answered > 200, DEADLINE, "answers beside it")
        assert load.lost == []
        assert ask(service) == pid
        service.signal(signal.SIGTERM)
        assert service.wait_exit() == 0
    assert service.wait_log("worker_killed")["reason"] == "drain_timeout"


def test_a_client_that_reads_a_byte_at_a_time_holds_its_response_and_nothing_else(launcher: Launcher) -> None:
    """At a byte a second the megabytes of its response would take weeks: they wait in the app, and not in memory."""
    service = up(launcher, app=APP.replace('b"part %d\\n" % number', "bytes(65536)"))
    (worker,) = service.workers()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(DEADLINE)
        slow.connect(split(service.address()))
        slow.sendall(b"GET /stream?parts=2000 HTTP/1.1\r\nhost: t\r\n\r\n")
        assert slow.recv(1)
        memory = resident(worker["pid"])
        with Load(service.address()).running(4) as load:
            for _ in range(5):
                aim = load.answered + 50
                wait_for(lambda aim=aim: load.answered > aim, DEADLINE, "answers beside it")
                assert slow.recv(1)
        assert load.lost == []
        wait_for(lambda: service.metrics().value("clusterd_http_requests_in_flight") == 1, DEADLINE, "its one request")
        assert resident(worker["pid"]) - memory < 8 * 1024, "of 128 MiB"


@pytest.mark.slow
def test_ten_thousand_idle_clients_keep_nobody_waiting_and_are_let_go_kindly(launcher: Launcher) -> None:
    settings = {
        "pools": {"web": {"http": {"keep_alive": "10m"}, "limits": {"nofile": IDLE}}},
        "shutdown": {"linger": "500ms", "drain_timeout": "30s"},
    }
    with descriptors_for(IDLE), ExitStack() as stack:
        service = up(launcher, settings, workers=2)
        place = split(service.address())
        clients: list[socket.socket] = []
        while len(clients) < IDLE:
            some = [stack.enter_context(socket.create_connection(place, DEADLINE)) for _ in range(50)]
            for client in some:
                client.sendall(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            for client in some:
                assert ok(read_until(client, complete))
            clients += some
        wait_for(lambda: service.metrics().value("clusterd_connections_open") == IDLE, DEADLINE, "the count of them")
        with Load(service.address()).running(4) as load:
            wait_for(lambda: load.answered > 200, DEADLINE, "answers beside them")
        assert load.lost == []
        assert load.longest < 1.0
        clients[17].sendall(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
        assert ok(read_until(clients[17], complete)), "one that wakes up"
        service.signal(signal.SIGTERM)
        for client in clients:
            assert client.recv(1) == b"", "an end, not a reset"
        assert service.wait_exit(60) == 0
    assert not service.logged("worker_killed")


@pytest.mark.slow
def test_a_websocket_lives_as_long_as_its_client_answers_pings(launcher: Launcher) -> None:
    """An hour's pings, in less: what may end a connection that lives long is counted in pings and in timers of HTTP."""
    settings = {"pools": {"web": {"http": {"keep_alive": "100ms"}}}}
    service = up(launcher, settings, app=PINGS.replace("INTERVAL", str(PAUSE)).replace("TIMEOUT", "20"))
    host, port = split(service.address())
    with websocket(f"ws://{host}:{port}/", max_size=None) as client:
        begun = monotonic()
        with Load(service.address()).running(2) as load:
            number = 0
            while monotonic() - begun < PAUSE * PINGS_OF_AN_HOUR:
                client.send(str(number))
                assert client.recv(DEADLINE) == str(number)
                number += 1
                select.select([], [], [], PAUSE)
        assert load.lost == []
        assert load.answered > 0
        client.send("still there")
        assert client.recv(DEADLINE) == "still there"
    service.wait_log("output", text="websocket ended with 1000")


def test_a_client_that_answers_no_ping_is_let_go_and_the_others_stay(launcher: Launcher) -> None:
    service: Service = up(launcher, app=PINGS.replace("INTERVAL", str(PAUSE)).replace("TIMEOUT", str(PAUSE)))
    upgrade = (
        b"GET / HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    (worker,) = service.workers()
    with service.connect() as mute, service.connect() as other:
        other.sendall(b"POST /echo HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\n")
        mute.sendall(upgrade)
        while mute.recv(4096):  # the handshake, pings, a close frame, and the end
            pass
        other.sendall(b"x")
        assert ok(read_until(other, complete))
    assert int(service.get("/pid").text) == worker["pid"]
