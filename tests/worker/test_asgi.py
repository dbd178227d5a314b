"""The ASGI engine, each test with a worker process, real connections and both pairs of event loop and parser."""

import base64
import os
import socket
from ast import literal_eval
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websocket

from clusterd.wire import messages
from clusterd.wire.rows import HANDOVER, REQUEST, Row
from tests.procfs import wait_for
from tests.worker.engine import IMPLEMENTATIONS, Engine, read_all, read_until, timed

Start = Callable[..., Engine]


@pytest.fixture(params=IMPLEMENTATIONS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a worker that is ready."""
    engines: list[Engine] = []

    def starting(**keywords: Any) -> Engine:
        engine = Engine(request.param, **keywords)
        engines.append(engine)
        return engine

    yield starting
    for engine in engines:
        engine.__exit__(None, None, None)


# -- serving ---------------------------------------------------------------------------------------------------------


def test_the_primary_is_told_the_address_and_then_that_the_worker_is_ready(start: Start) -> None:
    engine = start()
    listening = engine.told(messages.Listening)
    assert (listening.address, listening.port, listening.address_type) == ("127.0.0.1", engine.port, 4)
    engine.ready()


def test_requests_are_answered_on_a_kept_alive_connection_and_counted(start: Start) -> None:
    engine = start().ready()
    connection = engine.http()
    for path, status in [("/", 200), ("/status/301", 301), ("/status/404", 404), ("/raise", 500)]:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert response.getheader("connection") == ("close" if status == 500 else None)
    classes = (Row.REQUESTS_2XX, Row.REQUESTS_3XX, Row.REQUESTS_4XX, Row.REQUESTS_5XX)
    assert [engine.row(word) for word in classes] == [1, 1, 1, 1]
    assert engine.row(Row.CONNECTIONS_TAKEN) == sum(engine.row(word) for word in HANDOVER.buckets) == 1
    assert 0 < engine.row(HANDOVER.sum_ns) < 5e9
    assert sum(engine.row(word) for word in REQUEST.buckets) == 4
    assert 0 < engine.row(REQUEST.sum_ns) < 20e9
    wait_for(lambda: engine.row(Row.CONNECTIONS_OPEN) == 0, 5)


def test_responses_carry_date_and_server_as_uvicorns_do(start: Start) -> None:
    response = start().ready().get()
    assert response.getheader("server") == "uvicorn"
    assert response.getheader("date", "").endswith(" GMT")


def test_an_exception_of_the_app_is_seen_on_standard_error(start: Start) -> None:
    engine = start().ready()
    assert engine.get("/raise").status == 500
    engine.drain()
    code, _, err = engine.ended()
    assert code == 0
    assert "Exception in ASGI application" in err
    assert "RuntimeError: the app is broken here" in err


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    client = start().ready().connect(b"GET /status/201 HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"GET / HTTP/1.0\r\n\r\n")
    answers = read_all(client)
    assert answers.count(b"HTTP/1.1 201 ") == 2
    assert answers.endswith(b"hello from " + answers.rpartition(b" ")[2])


def test_bodies_and_streams_pass_whole(start: Start) -> None:
    engine = start().ready()
    connection = engine.http()
    body = os.urandom(300_000)
    connection.request("POST", "/echo", body)
    assert connection.getresponse().read() == body
    stream = engine.http()
    stream.request("GET", "/stream/a")
    response = stream.getresponse()
    assert response.read(5) == b"first"
    engine.get("/go/a").read()
    assert response.read() == b"last"


def test_a_head_is_not_kept_back_for_its_body(start: Start) -> None:
    engine = start().ready()
    slow = engine.connect(b"GET /head/a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert slow.recv(65536).endswith(b"\r\n\r\n")
    engine.get("/go/a").read()
    assert slow.recv(65536) == b"body"


def test_a_head_request_gets_a_head(start: Start) -> None:
    engine = start().ready()
    client = engine.connect(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"HEAD / HTTP/1.0\r\n\r\n")
    answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.endswith(b"\r\n\r\n")


def test_an_app_that_fails_after_its_head_ends_the_connection_with_what_was_sent(start: Start) -> None:
    app = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    raise RuntimeError("no body")
"""
    client = start(app=app).ready().connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\n")


def test_websockets_echo_and_are_counted_as_switched(start: Start) -> None:
    engine = start().ready()
    with websocket("ws://x/", sock=engine.connect()) as client:
        client.send("one")
        assert client.recv(timeout=5) == "one"
        assert engine.row(Row.CONNECTIONS_OPEN) == 1
    assert engine.row(Row.REQUESTS_1XX) == 1
    wait_for(lambda: engine.row(Row.CONNECTIONS_OPEN) == 0, 5)


def test_headers_of_a_trusted_proxy_are_believed_and_those_of_others_are_not(start: Start) -> None:
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    for allowed, client, scheme in ([["127.0.0.1"], "192.0.2.7", "https"], [["192.0.2.1"], "127.0.0.1", "http"]):
        engine = start(options={"forwarded_allow_ips": allowed, "root_path": "/prefix"}).ready()
        connection = engine.http()
        connection.request("GET", "/scope", headers=headers)
        (host, _), found, root = literal_eval(connection.getresponse().read().decode())
        assert (host, found, root) == (client, scheme, "/prefix")
        connection.close()


def test_more_connections_than_allowed_at_once_get_503(start: Start) -> None:
    engine = start(options={"max_concurrency": 1}).ready()
    first = engine.http()
    first.request("GET", "/")
    assert first.getresponse().read()
    assert engine.get().status == 503
    assert engine.row(Row.REQUESTS_5XX) == 1


def test_the_access_log_goes_to_standard_output_when_it_is_asked_for(start: Start) -> None:
    for wanted in (True, False):
        engine = start(options={"access_log": wanted}).ready()
        engine.get("/").read()
        engine.drain()
        _, out, _ = engine.ended()
        assert ('"GET / HTTP/1.1" 200' in out) is wanted


def test_an_idle_connection_is_closed_after_keep_alive(start: Start) -> None:
    engine = start(options={"keep_alive": 0.1}).ready()
    client = engine.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert timed(lambda: read_all(client)) < 2


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_garbage_costs_its_own_connection_only(start: Start, garbage: bytes) -> None:
    engine = start().ready()
    other = engine.http()
    other.request("GET", "/")
    other.getresponse().read()
    assert b" 400 " in read_all(engine.connect(garbage)).partition(b"\r\n")[0]
    assert engine.row(Row.REQUESTS_4XX) == 1
    other.request("GET", "/")
    assert other.getresponse().status == 200


def test_a_head_of_a_megabyte_is_refused(start: Start) -> None:
    engine = start().ready()
    client = engine.connect()
    try:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        for _ in range(16):
            client.sendall(b"a" * 65536)
        client.sendall(b"\r\n\r\n")
        answer = read_all(client)
    except OSError:  # closed while we were still sending
        answer = b""
    assert b"200 OK" not in answer
    assert engine.get().status == 200
    assert engine.row(Row.REQUESTS_4XX) == 1


def test_heads_that_come_in_pieces_are_not_taken_for_long_ones(start: Start) -> None:
    client = start().ready().connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(40):  # 100 KiB in all, each below the limit
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        client.sendall(b"X-Some: " + b"a" * 2500 + b"\r\n\r\n")
        assert read_until(client, b"hello").startswith(b"HTTP/1.1 200 ")


def test_clients_that_say_nothing_or_leave_at_once_do_not_hold_up_the_others(start: Start) -> None:
    engine = start().ready()
    for number in range(20):
        client = engine.connect()
        if number % 2:
            client.close()
    assert engine.get().status == 200
    assert engine.row(Row.CONNECTIONS_UNREAD) <= 2


# -- lifespan --------------------------------------------------------------------------------------------------------

FAILING = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""
EXITING = """
import sys
async def app(scope, receive, send):
    await receive()
    sys.exit("no licence")
"""
WITHOUT = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""
RAISING = WITHOUT.replace("    assert", "    if scope['type'] == 'lifespan':\n        await receive()\n    assert")


@pytest.mark.parametrize(("app", "report"), [(FAILING, "no database"), (EXITING, "SystemExit: no licence")])
def test_a_failed_start_is_reported_and_ends_the_worker(start: Start, app: str, report: str) -> None:
    engine = start(app=app)
    failed = engine.told(messages.Failed)
    assert failed.stage == "lifespan"
    assert report in failed.report
    assert engine.ended()[0] != 0


@pytest.mark.parametrize("app", [WITHOUT, RAISING])
def test_an_app_without_a_lifespan_is_served(start: Start, app: str) -> None:
    engine = start(app=app).ready()
    assert engine.get().status == 204
    engine.drain()
    code, _, err = engine.ended()
    assert code == 0
    assert ("AssertionError" in err) is (app is RAISING)


def test_an_app_of_asgi_2_is_served(start: Start) -> None:
    app = WITHOUT.replace("async def app(scope, receive, send):", "def app(scope):\n  async def call(receive, send):")
    assert start(app=app + "  return call\n").ready().get().status == 204


# -- drain -----------------------------------------------------------------------------------------------------------


def test_an_idle_worker_ends_at_once_and_shuts_the_app_down(start: Start) -> None:
    engine = start(options={"linger": 5}).ready()
    engine.get().close()
    wait_for(lambda: engine.row(Row.CONNECTIONS_OPEN) == 0, 5)
    engine.drain()
    code, out, err = engine.ended(3)
    assert (code, out.split(), err) == (0, ["lifespan.startup", "lifespan.shutdown"], "")


def test_a_dead_primary_is_a_drain(start: Start) -> None:
    engine = start().ready()
    engine.control.shutdown(socket.SHUT_RDWR)
    engine.end_mail()
    assert engine.ended()[0] == 0


def test_requests_in_flight_are_answered_with_close_and_the_worker_ends_promptly(start: Start) -> None:
    engine = start(options={"linger": 5}).ready()
    waiting = [engine.http() for _ in range(10)]
    for connection in waiting:
        connection.request("GET", "/wait/a")
    idle = engine.http()
    idle.request("GET", "/")
    idle.getresponse().read()
    engine.drain()
    idle.request("GET", "/go/a")  # the one request more of a kept-alive client opens the gate
    last = idle.getresponse()
    assert (last.read(), last.getheader("connection")) == (b"gone", "close")
    for connection in waiting:
        response = connection.getresponse()
        assert (response.read(), response.getheader("connection")) == (b"waited", "close")
    assert timed(lambda: engine.ended(4)) < 2  # nobody is waited for any more


def test_idle_connections_are_closed_after_linger(start: Start) -> None:
    engine = start(options={"linger": 0.3}).ready()
    client = engine.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    read_until(client, b"hello")
    silent = engine.connect()

    def drain() -> None:
        engine.drain()
        engine.ended()

    assert 0.29 < timed(drain) < 3.3
    read_all(client)
    assert read_all(silent) == b""


def test_mail_posted_before_the_end_is_served_in_the_drain(start: Start) -> None:
    engine = start().ready()
    engine.drain(more_mail=True)
    clients = [engine.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(12)]
    engine.end_mail()
    for client in clients:
        answer = read_all(client)
        assert b"hello" in answer
        assert b"connection: close" in answer
    assert engine.ended()[0] == 0


def test_a_stream_goes_on_and_its_client_gets_linger_for_one_more_request(start: Start) -> None:
    engine = start(options={"linger": 1}).ready()
    stream = engine.http()
    stream.request("GET", "/stream/a")
    response = stream.getresponse()
    assert response.read(5) == b"first"
    idle = engine.http()
    idle.request("GET", "/")
    idle.getresponse().read()
    engine.drain(more_mail=True)
    assert read_all(idle.sock) == b""  # linger is over
    engine.get("/go/a").read()
    engine.end_mail()
    assert response.read() == b"last"
    stream.request("GET", "/")
    last = stream.getresponse()
    assert (last.read(5), last.getheader("connection")) == (b"hello", "close")
    last.close()
    assert engine.ended()[0] == 0


def test_a_request_whose_head_is_half_there_is_waited_for(start: Start) -> None:
    engine = start(options={"linger": 0.2}).ready()
    client = engine.connect(b"GET / HTTP/1.1\r\nHo")
    idle = engine.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    read_until(idle, b"hello")
    engine.drain()
    read_all(idle)  # linger is over
    client.sendall(b"st: x\r\n\r\n")
    answer = read_all(client)
    assert b"hello" in answer
    assert b"connection: close" in answer
    assert engine.ended()[0] == 0


def test_pipelined_requests_are_all_answered_before_the_connection_is_closed(start: Start) -> None:
    engine = start(options={"linger": 5}).ready()
    client = engine.connect(b"GET /wait/a HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    opener = engine.http()
    opener.request("GET", "/")
    opener.getresponse().read()
    engine.drain()
    opener.request("GET", "/go/a")
    opener.getresponse().read()
    answers = read_all(client)
    assert answers.count(b"hello") == 3
    assert answers.count(b"connection: close") == 1
    assert engine.ended()[0] == 0


def test_a_client_that_is_still_sending_its_body_gets_the_early_answer(start: Start) -> None:
    engine = start(options={"linger": 2}).ready()
    client = engine.connect()
    engine.drain()
    client.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 1000)
    assert read_until(client, b"refused").startswith(b"HTTP/1.1 413 ")
    client.sendall(b"x" * 199_000)
    assert read_all(client) == b""
    assert engine.ended()[0] == 0


def test_websockets_are_told_service_restart_after_linger(start: Start) -> None:
    engine = start(options={"linger": 0.2}).ready()
    with websocket("ws://x/", sock=engine.connect()) as client:
        client.send("one")
        assert client.recv(timeout=5) == "one"
        engine.drain()
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)
        assert client.close_code == 1012
    code, out, err = engine.ended(4)
    assert (code, err) == (0, "")
    assert "websocket ended 1012" in out


def test_a_websocket_that_begins_in_the_drain_has_a_clean_handshake(start: Start) -> None:
    engine = start(options={"linger": 2}).ready()
    client = engine.connect()
    engine.drain()
    key = base64.b64encode(b"0" * 16)
    client.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    head = read_until(client, b"\r\n\r\n").lower()
    assert b" 101 " in head
    assert b"connection: close" not in head
    assert (1012).to_bytes(2) in read_until(client, (1012).to_bytes(2))


def test_a_websocket_client_that_never_answers_the_close_does_not_hold_the_worker(start: Start) -> None:
    engine = start(options={"linger": 0}, prepare="import clusterd.worker.protocols as p; p.GOODBYE_PATIENCE = 0.3")
    client = engine.ready().connect(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(b"0" * 16) + b"\r\n\r\n"
    )
    read_until(client, b"\r\n\r\n")
    engine.drain()
    assert timed(lambda: engine.ended(5)) < 4


def test_background_work_is_awaited(start: Start) -> None:
    engine = start().ready()
    connection = engine.http()
    connection.request("GET", "/background/a")
    assert connection.getresponse().read() == b"answered"
    connection.close()
    opener = engine.http()
    opener.request("GET", "/")
    opener.getresponse().read()
    engine.drain()
    opener.request("GET", "/go/a")
    opener.getresponse().read()
    code, out, _ = engine.ended()
    assert code == 0
    assert out.split("\n")[1:3] == ["background done", "lifespan.shutdown"]
