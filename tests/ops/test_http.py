import asyncio
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clusterd.ops import connection as connections
from clusterd.ops import http
from clusterd.ops.exchange import Credentials, Request, Response, Routes, text
from tests.ops.serving import DEADLINE, Running, read_all, serving, serving_unix
from tests.procfs import wait_for

pytestmark = pytest.mark.usefixtures("no_fd_leak")

BIG = b"x" * 4_000_000


def echo(request: Request) -> Response:
    return text(200, f"{request.method} {request.path} {dict(request.query)} {len(request.body)}")


def fails(request: Request) -> Response:
    raise RuntimeError("secret")


async def later(request: Request) -> Response:
    for _ in range(10):
        await asyncio.sleep(0)
    return text(200, f"later {dict(request.query)}")


async def fails_later(request: Request) -> Response:
    await asyncio.sleep(0)
    raise RuntimeError("secret")


class Never:
    """A handler that answers nobody, and knows how many wait for it."""

    def __init__(self) -> None:
        self.waiting = 0

    async def __call__(self, request: Request) -> Response:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        return text(200, "never")


NEVER = Never()
ROUTES: Routes = {
    "/echo": echo,
    "/fails": fails,
    "/big": lambda request: Response(200, BIG),
    "/later": later,
    "/fails-later": fails_later,
    "/never": NEVER,
}


def serves(running: Running) -> bool:
    return b"200 OK" in running.ask(b"GET /echo HTTP/1.0\r\n\r\n")


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found, answer[:200]
    return int(found[1])


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=256)


@pytest.fixture
def running() -> Iterator[Running]:
    with serving(listening(), ROUTES) as one:
        yield one


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(connections, "TIMEOUT", 0.3)
    monkeypatch.setattr(connections, "LINGER", 0.2)


def test_a_request_is_answered_and_the_connection_kept(running: Running) -> None:
    with running.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /echo?a=1&b HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = client.recv(65536)
            assert status_of(answer) == 200
            assert answer.endswith(b"\r\n\r\nGET /echo {'a': '1', 'b': ''} 0\n")
            assert b"connection: close" not in answer.lower()


def test_pipelined_requests_are_answered_in_order(running: Running) -> None:
    answer = running.ask(b"".join(b"GET /echo?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(50)))
    assert re.findall(rb"'n': '(\d+)'", answer) == [b"%d" % n for n in range(50)]


def test_pipelined_requests_do_not_hold_up_the_loop(running: Running) -> None:
    many = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n" * 5000
    gaps: list[float] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while not done.is_set():
            await asyncio.sleep(0)
            gaps.append(loop.time() - last)
            last = loop.time()

    done = threading.Event()
    watching = asyncio.run_coroutine_threadsafe(watch(), running.loop)
    answer = running.ask(many)
    done.set()
    watching.result(DEADLINE)
    assert answer.count(b"HTTP/1.1 200") == 5000
    assert len(gaps) > 4000  # the loop turned between the answers, where it could have given them all in one turn


def test_head_has_the_length_and_no_body(running: Running) -> None:
    answer = running.ask(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(answer) == 200
    assert b"content-length: 16\r\n" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", 405),
        (b"DELETE /echo HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /echo HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /echo?" + b"&".join([b"a=1"] * 100) + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300 + b"\r\n\r\n", 400),  # TLS
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", 400),
        (b"GET /echo HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 3000 + b"\r\n", 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
        (b"a" * 1_000_000, 431),
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n" + b"b" * 65537, 413),
        (
            b"GET /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" + b"b" * 0x2000,
            400,
        ),
    ],
)
def test_what_cannot_be_served_gets_its_status_and_the_next_is_served(
    running: Running, request_bytes: bytes, status: int
) -> None:
    answer = running.ask(request_bytes)
    assert status_of(answer) == status
    assert b"Traceback" not in answer
    assert serves(running)
    assert running.reported == []


def test_a_body_within_the_bound_is_read(running: Running) -> None:
    answer = running.ask(b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + b"b" * 65536)
    assert answer.endswith(b" 65536\n")


def test_a_client_that_waits_for_100_continue_is_told_to(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"hi")
        assert client.recv(65536).endswith(b" 2\n")


def test_a_handler_that_fails_tells_the_client_nothing_and_the_log_all(running: Running) -> None:
    answer = running.ask(b"GET /fails HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(answer) == 500
    assert b"secret" not in answer
    assert b"Traceback" not in answer
    assert [str(error) for error in running.reported] == ["secret"]
    assert serves(running)


@given(data=st.binary(max_size=300) | st.lists(st.sampled_from(
    [b"GET", b" ", b"/echo", b"HTTP/1.1", b"\r\n", b"\n", b"Host: x", b":", b"Content-Length: 5", b"\x00", b"\xff",
     b"Transfer-Encoding: chunked", b"5\r\nhello\r\n", b"0\r\n\r\n", b"POST", b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n",
     b"Upgrade: websocket", b"Connection: upgrade", b"Connection: close", b"Expect: 100-continue"]
), max_size=30).map(b"".join))  # fmt: skip
@example(data=b"HEAD /echo HTTP/2.0\r\nhost: x\r\n\r\n")
@example(data=b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /echo HTTP/1.1\r\n\r\n")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_arrives_the_server_answers_or_closes_and_serves_the_next(running: Running, data: bytes) -> None:
    answer = running.ask(data)
    assert answer == b"" or status_of(answer) in connections.REASONS or status_of(answer) == 100
    assert serves(running)
    assert running.reported == []


def test_sixty_four_connections_are_served_and_the_sixty_fifth_is_told_at_once(running: Running) -> None:
    clients = [running.connect() for _ in range(http.MAX_CONNECTIONS)]
    try:
        for client in clients:
            client.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        for client in clients:
            assert status_of(client.recv(65536)) == 200
        with running.connect() as one_more:
            answer = read_all(one_more)
        assert status_of(answer) == 503
        assert int(re.search(rb"content-length: (\d+)", answer)[1]) == len(answer.partition(b"\r\n\r\n")[2])
        assert running.server.refused == 1
        clients.pop().close()
        wait_for(lambda: running.server.connections < http.MAX_CONNECTIONS, DEADLINE)
        assert serves(running)
    finally:
        for client in clients:
            client.close()


@pytest.mark.usefixtures("hasty")
def test_a_client_that_says_nothing_is_closed(running: Running) -> None:
    with running.connect() as client:
        assert client.recv(1) == b""


@pytest.mark.usefixtures("hasty")
def test_a_client_that_sends_its_head_byte_by_byte_gets_408(running: Running) -> None:
    answer = b""
    with running.connect() as client:
        client.settimeout(0.05)
        for byte in b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 200:
            client.sendall(bytes([byte]))
            try:
                answer = client.recv(65536)
                break
            except TimeoutError:
                continue
    assert status_of(answer) == 408


@pytest.mark.usefixtures("hasty")
def test_an_idle_kept_alive_connection_is_closed(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(client.recv(65536)) == 200
        assert client.recv(1) == b""


@pytest.mark.usefixtures("hasty")
def test_a_client_that_takes_no_answers_is_closed_and_holds_little(running: Running) -> None:
    with running.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert serves(running)
        (stuck,) = [one for one in running.server._open if one._paused]
        assert stuck._transport.get_write_buffer_size() <= len(BIG) + 1000  # one answer, not a hundred
        wait_for(lambda: running.server.connections == 0, DEADLINE, "closing a client that takes nothing")


def test_a_refused_client_that_goes_on_sending_gets_its_answer(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"a" * 20_000)
        try:
            for _ in range(10):
                client.sendall(b"a" * 50_000)
        except ConnectionError:
            pytest.fail("reset before the answer was read")
        assert status_of(read_all(client)) == 431


def test_a_client_that_sends_without_end_is_cut_off(running: Running) -> None:
    with running.connect() as client, pytest.raises(ConnectionError):
        client.sendall(b"a" * 100_000_000)
    assert serves(running)


def test_over_a_unix_socket_the_peer_is_known(run_dir: Path) -> None:
    seen: list[Request] = []

    def hello(request: Request) -> Response:
        seen.append(request)
        return text(200, "hello")

    with serving_unix(str(run_dir / "s"), {"/": hello}) as running:
        assert status_of(running.ask(b"GET / HTTP/1.0\r\n\r\n")) == 200
    assert seen[0].peer == Credentials(os.getpid(), os.getuid(), os.getgid(), frozenset(os.getgroups()))


def test_closing_ends_the_connections(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(client.recv(65536)) == 200
        running.loop.call_soon_threadsafe(running.server.close)
        assert read_all(client) == b""
    with pytest.raises(ConnectionRefusedError), running.connect():
        pass


def test_an_answer_that_takes_turns_comes_in_its_order_also_to_half_closed_clients(running: Running) -> None:
    answer = running.ask(b"".join(b"GET /later?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(20)))
    assert re.findall(rb"later {'n': '(\d+)'", answer) == [b"%d" % n for n in range(20)]
    assert status_of(running.ask(b"GET /fails-later HTTP/1.0\r\n\r\n")) == 500
    assert [str(error) for error in running.reported] == ["secret"]


def test_who_waits_for_an_answer_is_not_hurried_and_others_are_served(hasty: None, running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: NEVER.waiting == 1, DEADLINE)
        assert serves(running)
        client.settimeout(2 * connections.TIMEOUT)
        with pytest.raises(TimeoutError):
            client.recv(1)
    # It does not read from a client that waits, so it learns that it has gone when the server closes.
    running.loop.call_soon_threadsafe(running.server.close)
    wait_for(lambda: NEVER.waiting == 0, DEADLINE)
