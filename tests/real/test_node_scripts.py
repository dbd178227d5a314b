"""Programs and packages of Node's world as script pools, with not a line of them changed."""

import json
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import components
from tests.procfs import wait_for
from tests.real.clients import fetch
from tests.real.harness import DEADLINE, Launcher, kill
from tests.real.scripting import Steady, port, reload_and_scale, said, start

pytestmark = pytest.mark.needs("node")

EXPRESS = """
const cluster = require('cluster'), express = require('express');
const app = express();
app.use(express.json());
app.get('/', (request, response) => response.json([cluster.worker.id, process.env.NODE_APP_INSTANCE]));
app.post('/double/:n', (request, response) => response.json([request.params.n * 2, request.body, request.ip]));
app.listen(0, '127.0.0.1', function () { console.log('port', this.address().port); });
"""

ALL_KINDS = """
const cluster = require('cluster'), net = require('net'), dgram = require('dgram');
const me = `${cluster.worker.id}`;
const tcp = net.createServer((socket) => socket.end(me)).listen(0, '127.0.0.1', () => {
  net.createServer((socket) => socket.end(me)).listen('node.sock', () => {
    const udp = dgram.createSocket('udp4');
    udp.on('message', (data, from) => udp.send(me, from.port, from.address));
    udp.bind(0, '127.0.0.1', () => console.log('at', tcp.address().port, udp.address().port));
  });
});
"""


@pytest.fixture
def with_packages() -> Callable[[Path], None]:
    """Puts the packages of npm's where a program in that directory finds them."""

    def link(directory: Path) -> None:
        (directory / "node_modules").symlink_to(components.node_home() / "node_modules")

    return link


def test_express_in_turn_through_reload_scale_and_death(
    launcher: Launcher, with_packages: Callable[[Path], None]
) -> None:
    with_packages(launcher.folder)
    service = start(launcher, "server.js", EXPRESS, reload={"canary": "0s"}, steal_after="0s")
    where = port(service)
    answers = Counter(tuple(fetch(where, "/").json()) for _ in range(10))
    assert answers == {(1, "0"): 5, (2, "1"): 5}
    with Steady(where) as load:
        reload_and_scale(service)
        assert load.failures == []
        kill(service.workers()[0]["pid"])
        service.wait_log("worker_ready", count=6)
        load.goes_on()
    assert len(load.failures) <= 1  # of one client one connection, if the worker had taken it
    assert len({worker for worker, _ in load.answers}) >= 4
    assert service.stop() == 0


def test_express_reads_bodies_and_sees_the_client(launcher: Launcher, with_packages: Callable[[Path], None]) -> None:
    with_packages(launcher.folder)
    service = start(launcher, "server.js", EXPRESS, workers=1)
    body = json.dumps({"a": ["b"] * 5000}).encode()
    host, number = port(service).split(":")
    with socket.create_connection((host, int(number)), DEADLINE) as client:
        head = f"POST /double/21 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == [42, json.loads(body), "127.0.0.1"]


@pytest.mark.parametrize("scheduling", ["rr", "none"])
def test_net_unix_and_dgram_servers_are_shared_and_outlive_their_workers(launcher: Launcher, scheduling: str) -> None:
    service = start(launcher, "server.js", ALL_KINDS, ready=True, scheduling=scheduling)
    line = service.wait_log(lambda record: said(record).startswith("at "), count=2)
    tcp, udp = map(int, said(line).split()[1:])
    path = os.path.relpath(launcher.folder / "node.sock")

    def ask_all() -> list[str]:
        with socket.create_connection(("127.0.0.1", tcp), DEADLINE) as one:
            heard = [one.recv(100).decode()]
        with socket.socket(socket.AF_UNIX) as two:
            two.settimeout(DEADLINE)
            two.connect(path)
            heard.append(two.recv(100).decode())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as three:
            three.settimeout(DEADLINE)
            three.sendto(b"?", ("127.0.0.1", udp))
            heard.append(three.recv(100).decode())
        return heard

    first = [ask_all() for _ in range(4)]
    assert {who for heard in first for who in heard} <= {"1", "2"}
    if scheduling == "rr":
        assert {heard[0] for heard in first} == {heard[1] for heard in first} == {"1", "2"}
    for worker in service.workers():
        kill(worker["pid"])
    service.wait_log("worker_ready", count=4)
    service.wait_log(lambda record: said(record).startswith("at "), count=4)
    assert {who for heard in (ask_all(), ask_all()) for who in heard} <= {"3", "4"}
    assert service.stop() == 0
    wait_for(lambda: not (launcher.folder / "node.sock").exists(), DEADLINE, "the end of the socket's file")
