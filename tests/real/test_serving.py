"""What clients get from ``clusterd run``: connections in turn, and HTTP and WebSocket as uvicorn speaks them.

All of it twice: with uvloop and httptools, and with asyncio and h11, as on a machine without the extra ``fast``.
"""

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from tests.real.clients import ask, split
from tests.real.harness import IN_TURN, Record, Service
from tests.real.playground import complete, own_launcher, read_until, up

WITHOUT_EXTRAS = """
import importlib.util, sys
sys.modules["uvloop"] = sys.modules["httptools"] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("uvloop", "httptools") else found(name, *rest)
"""
"""A ``sitecustomize`` that hides what the extra installs."""

WORKERS = 4


@pytest.fixture(scope="module", params=["with the extra", "without"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Four workers that no test harms, so the tests share them."""
    folder = tmp_path_factory.mktemp("app")
    pool: dict[str, object] = {"http": {"root_path": "/mounted"}, **IN_TURN["pools"]["web"]}
    if request.param == "without":
        (folder / "hidden").mkdir()
        (folder / "hidden" / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
        pool["env"] = {"PYTHONPATH": os.pathsep.join([str(folder / "hidden"), os.environ.get("PYTHONPATH", "")])}
    with own_launcher(folder) as launcher:
        service = up(launcher, {"pools": {"web": pool}}, workers=WORKERS)
        loop, parser = ("uvloop", "httptools") if request.param == "with the extra" else ("asyncio", "h11")
        state = service.get("/state").json()
        assert (state["loop"], state["parser"]) == (loop, parser)
        yield service


def test_connections_one_after_another_are_spread_exactly(served: Service) -> None:
    slots = Counter(served.get().text for _ in range(200))
    assert slots == dict.fromkeys("0123", 50)


def test_connections_held_open_are_spread_exactly(served: Service) -> None:
    with ExitStack() as held:
        slots: Counter[str] = Counter()
        for _ in range(40):
            client = held.enter_context(served.client())
            slots[ask(client, "/").text] += 1
        assert slots == dict.fromkeys("0123", 10)


def test_a_kept_alive_connection_stays_with_its_worker(served: Service) -> None:
    with served.client() as client:
        assert len({ask(client, "/pid").text for _ in range(20)}) == 1


def test_pipelined_requests_are_answered_in_order(served: Service) -> None:
    with served.connect() as client:
        requests = [b"GET /status?code=%d HTTP/1.1\r\nhost: test\r\n" % code for code in (200, 404, 201)]
        client.sendall(b"\r\n".join(requests) + b"connection: close\r\n\r\n")
        answers = read_until(client, b"\0").split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"404", b"201"]


def test_a_body_is_streamed_both_ways_while_it_comes(served: Service) -> None:
    with served.connect() as client:
        client.sendall(b"POST /duplex HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        read_until(client, b"\r\n\r\n")
        for word in (b"one", b"two", b"three"):
            client.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            assert read_until(client, word + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert read_until(client, b"0\r\n\r\n").endswith(b"4\r\nover\r\n0\r\n\r\n")


def test_a_large_body_arrives_whole(served: Service) -> None:
    body = os.urandom(1 << 20)
    with served.client() as client:
        client.request("POST", "/echo", body)
        assert client.getresponse().read() == body


def test_a_websocket_answers_text_and_bytes_and_closes_as_asked(served: Service) -> None:
    host, port = split(served.address())
    with connect(f"ws://{host}:{port}/ws") as websocket:
        for message in ("text", b"bytes", "x" * 200_000):
            websocket.send(message)
            assert websocket.recv() == message
    assert websocket.close_code == 1000


def test_what_a_trusted_proxy_says_of_the_client_is_believed(served: Service) -> None:
    with served.client() as client:
        plain = ask(client, "/scope").json()
        proxied = ask(client, "/scope", headers={"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}).json()
    assert plain["client"][0] == "127.0.0.1"
    assert plain["scheme"] == "http"
    assert proxied["client"][0] == "203.0.113.7"
    assert proxied["scheme"] == "https"
    assert plain["server"][1] == split(served.address())[1]
    assert plain["root_path"] == "/mounted"


def test_an_app_that_raises_answers_500_and_its_worker_goes_on(served: Service) -> None:
    mark = served.mark()
    with served.client() as client:
        pid = ask(client, "/pid").text
        assert ask(client, "/fail").status == 500
    served.wait_log(_says("RuntimeError: asked to fail"), after=mark)
    assert pid in {str(worker["pid"]) for worker in served.workers()}


def _says(text: str) -> Callable[[Record], bool]:
    return lambda record: record.get("event") == "output" and text in record["text"]


def test_half_a_request_is_not_answered_and_harms_nobody(served: Service) -> None:
    with served.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost:")
        client.shutdown(socket.SHUT_WR)
        assert not read_until(client, b"\0").startswith(b"HTTP/1.1 200")
    assert served.get().status == 200


def test_a_head_request_has_no_body_and_keeps_the_connection(served: Service) -> None:
    with served.client() as client:
        client.request("HEAD", "/status")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert ask(client, "/status").text == "as asked"


def test_a_client_of_http_1_0_gets_its_answer_and_the_end(served: Service) -> None:
    with served.connect() as client:
        client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        data = read_until(client, b"\0")
    assert complete(data)
    assert data.endswith(b"as asked")
