"""What makes a script's worker ready (``ready_when``), and programs that know nothing of clusterd at all."""

import re
import signal
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from clusterd.config.schema import Pool, Restart
from clusterd.primary.readiness import awaited
from tests.procfs import processes_marked, wait_for
from tests.real.clients import fetch
from tests.real.harness import DEADLINE, Launcher, Service, kill
from tests.real.scripting import port, said, start

WAIT = """
import os, pathlib, signal, socket, sys, time

def wait(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.02)
"""

NOTIFIES = (
    WAIT
    + """
def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(os.environ["NOTIFY_SOCKET"].replace("@", chr(0), 1))
        sock.sendall(text.encode())

def end(*what):
    notify("STOPPING=1")
    print("asked", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
notify("STATUS=starting\\nREADY=0\\nXREADY=1")
print("started", flush=True)
wait("go")
notify("STATUS=well\\nREADY=1")
while True:
    time.sleep(60)
"""
)

ASKED = (
    WAIT
    + """
import asyncio
from clusterd import cluster

async def handle(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    print("asked", head.split()[1].decode(), flush=True)
    good = b"/ready" in head and pathlib.Path("go").exists()
    status = b"204 Good" if good else b"302 Not yet"
    writer.write(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 0\\r\\n\\r\\n")
    writer.close()

async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    await server.serve_forever()

cluster.run(main())
"""
)

SYNCHRONOUS = (
    WAIT
    + """
import http.server
from clusterd import cluster

BAD = int(os.environ.get("BAD", "302"))
listener = cluster.listen(os.environ.get("HOST", "127.0.0.1"), 0)
print("port", listener.getsockname()[1], flush=True)

def answer(path):
    print("asked", path, flush=True)
    return 204 if "/ready" in path and pathlib.Path("go").exists() else BAD
"""
)

STANDARD = (
    SYNCHRONOUS
    + """
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(answer(self.path))
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *what):
        what[0] % what[1:], self.client_address[0], self.client_address[1]

server = http.server.KIND(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = listener
server.serve_forever()
"""
)

WAITRESS = (
    SYNCHRONOUS
    + """
import waitress

def app(environ, start_response):
    start_response(f"{answer(environ['REQUEST_URI'])} Said", [("Content-Length", "0")])
    return []

waitress.create_server(app, sockets=[listener], threads=2).run()
"""
)

ONE_BY_ONE = (
    SYNCHRONOUS
    + """
while True:
    connection, peer = listener.accept()
    with connection:
        head = connection.recv(4096)
        connection.sendall(b"HTTP/1.1 %d Said\\r\\nContent-Length: 0\\r\\n\\r\\n" % answer(head.split()[1].decode()))
"""
)

SERVERS = {
    "HTTPServer": STANDARD.replace("KIND", "HTTPServer"),
    "ThreadingHTTPServer": STANDARD.replace("KIND", "ThreadingHTTPServer"),
    "waitress": WAITRESS,
    "accept": ONE_BY_ONE,
}

synchronous = pytest.mark.parametrize("server", SERVERS)

OWN_PORT = """
import http.server, os, socketserver

class Server(http.server.ThreadingHTTPServer):
    allow_reuse_port = True

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

LOOP = """
import time
while True:
    time.sleep(60)
"""


def go(service: Service, folder: Path, workers: int = 2) -> None:
    """Nobody is ready until the file is there, and then all are."""
    assert service.logged("worker_ready") == []
    wait_for(lambda: {worker["state"] for worker in service.workers()} == {"booting"}, DEADLINE, "workers that start")
    (folder / "go").touch()
    service.wait_log("worker_ready", count=workers)


def test_a_program_says_that_it_is_ready_as_it_would_tell_systemd(launcher: Launcher) -> None:
    service = start(launcher, "server.py", NOTIFIES, ready=False, ready_when="notify")
    service.wait_log(lambda record: said(record) == "started", count=2)
    go(service, launcher.folder)
    assert service.stop() == 0
    assert service.wait_log(lambda record: said(record) == "asked", count=2)
    exits = service.logged("worker_exited")
    assert [(record["code"], record["asked"]) for record in exits] == [(0, True)] * 2


def test_a_program_is_asked_over_http_whether_it_is_ready(launcher: Launcher) -> None:
    service = start(launcher, "server.py", ASKED, ready=False, ready_when="http:/ready?now")
    for _ in range(2):
        service.wait_log(lambda record: said(record) == "asked /ready?now", count=4)
    go(service, launcher.folder)
    assert service.stop() == 0


@synchronous
def test_a_synchronous_server_is_asked_over_http_whether_it_is_ready(launcher: Launcher, server: str) -> None:
    service = start(launcher, "server.py", SERVERS[server], ready=False, ready_when="http:/ready?now")
    for _ in range(2):
        service.wait_log(lambda record: said(record) == "asked /ready?now", count=4)
    go(service, launcher.folder)
    assert fetch(port(service), "/ready").status == 204
    assert service.stop() == 0


def test_one_with_an_address_of_version_6_too(launcher: Launcher) -> None:
    source = SERVERS["HTTPServer"]
    service = start(launcher, "server.py", source, ready=False, ready_when="http:/ready", env={"HOST": "::1"})
    service.wait_log(lambda record: said(record) == "asked /ready", count=2)
    go(service, launcher.folder)
    assert service.stop() == 0


@synchronous
def test_one_that_answers_badly_to_its_health_check_is_replaced(launcher: Launcher, server: str) -> None:
    health = {"http_path": "/well", "http_interval": "200ms", "http_timeout": "5s"}
    service = start(launcher, "server.py", SERVERS[server], workers=1, health=health, env={"BAD": "503"})
    assert service.wait_log("worker_hung", worker=1)["why"] == "GET /well: it answered 503"


def test_one_that_is_busy_for_long_is_replaced(launcher: Launcher) -> None:
    """It has been handed nothing but the check: no other mail wakes it, and what waits for it is no one else's."""
    source = SERVERS["HTTPServer"].replace('print("asked"', 'time.sleep(60)\n    print("asked"')
    health = {"http_path": "/well", "http_interval": "200ms", "http_timeout": "300ms"}
    service = start(launcher, "server.py", source, health=health)
    assert service.wait_log("worker_hung", worker=1)["why"] == "GET /well: no answer within 0.3 s"


def test_servers_that_accept_by_themselves_are_asked_too(launcher: Launcher) -> None:
    service = start(launcher, "server.py", ASKED, ready=False, ready_when="http:/ready?now", scheduling="none")
    service.wait_log(lambda record: said(record) == "asked /ready?now", count=2)
    go(service, launcher.folder)
    assert service.stop() == 0


AWAITED = {
    "auto": 'it to listen, or to send "ready" or {"type":"READY"}',
    "listening": "it to listen",
    "message": 'it to send "ready" or {"type":"READY"}',
    "notify": "READY=1 on its NOTIFY_SOCKET",
    "running": "it to have run for restart.rapid_exit, 60 s",
    "http:/up": "a 2xx answer to GET /up",
}


@pytest.mark.parametrize("ready_when", AWAITED)
def test_what_is_waited_for_has_its_words(ready_when: str) -> None:
    pool = Pool(script="server.py", ready_when=ready_when, restart=Restart(rapid_exit=60.0))
    assert awaited(pool) == f'{AWAITED[ready_when]} (ready_when = "{ready_when}")'
    assert awaited(Pool(app="shop:app")) == ""


@pytest.mark.parametrize("ready_when", ["notify", "running", "http:/up"])
def test_one_that_is_not_ready_in_time_is_told_with_what_it_was_waited_for(launcher: Launcher, ready_when: str) -> None:
    service = start(
        launcher,
        "server.py",
        LOOP,
        ready=False,
        workers=1,
        ready_when=ready_when,
        start_timeout="3s",
        restart={"give_up_after": 1, "rapid_exit": "60s"},
    )
    assert service.wait_exit() == 1
    (report,) = service.logged("crash_report")
    assert report["killed"] == "start_timeout"
    assert report["awaited"] == f'{AWAITED[ready_when]} (ready_when = "{ready_when}")'
    assert f"it was waited for {AWAITED[ready_when]}" in report["cause"]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody else is given while it is held; programs with reuse_port listen on it all the same."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_server_on_a_port_of_its_own_that_knows_nothing_of_all_this(launcher: Launcher, free_port: int) -> None:
    service = start(
        launcher,
        "server.py",
        OWN_PORT,
        workers=1,
        ready_when="running",
        env={"PORT": str(free_port)},
        reload={"canary": "0s"},
    )
    where = f"127.0.0.1:{free_port}"

    def answers(pid: int) -> None:
        wait_for(lambda: _asked(where) == str(pid), DEADLINE, f"an answer of {pid}")

    (first,) = service.workers()
    answers(first["pid"])
    assert first["state"] == "ready"
    kill(first["pid"])
    service.wait_log("worker_ready", count=2)
    (second,) = service.workers()
    answers(second["pid"])
    service.signal(signal.SIGHUP)
    assert service.wait_log("reload_ended", deadline=60)["verdict"] == "promoted"
    service.wait_log("worker_exited", count=2)
    (third,) = service.workers()
    assert third["pid"] not in (first["pid"], second["pid"])
    answers(third["pid"])
    assert service.stop() == 0
    ends = [(record["signal"], record["asked"]) for record in service.logged("worker_exited")]
    assert ends == [("SIGKILL", False), ("SIGTERM", True), ("SIGTERM", True)]


def _asked(where: str) -> str:
    try:
        return fetch(where, "/").text
    except OSError:
        return ""


def test_it_is_ready_when_it_has_run_for_rapid_exit_and_not_before(launcher: Launcher) -> None:
    service = start(launcher, "server.py", LOOP, workers=1, ready_when="running", restart={"rapid_exit": "2s"})
    begun, ready = (
        datetime.fromisoformat(str(service.wait_log(event)["timestamp"])) for event in ("zygote_ready", "worker_ready")
    )
    assert ready - begun > timedelta(seconds=1.9)


def test_one_that_ends_before_that_was_never_ready(launcher: Launcher) -> None:
    source = "raise SystemExit('the database is not there')"
    service = start(
        launcher,
        "server.py",
        source,
        ready=False,
        workers=1,
        ready_when="running",
        restart={"give_up_after": 2, "initial_delay": "10ms", "max_delay": "20ms", "rapid_exit": "30s"},
    )
    assert service.wait_exit() == 1
    assert service.logged("worker_ready") == []
    assert "the database is not there" in "\n".join(map(str, service.records))


def test_the_death_of_the_primary_ends_programs_that_know_of_no_channel(launcher: Launcher) -> None:
    service = start(launcher, "server.py", LOOP, ready_when="running", restart={"rapid_exit": "0s"})
    kill(service.pid)
    service.wait_exit()
    wait_for(lambda: not processes_marked(service.run_dir), DEADLINE, "the end of the programs")
    launcher.services.remove(service)
    service.destroy()


def test_a_python_program_that_answers_badly_to_its_health_check_is_replaced(launcher: Launcher) -> None:
    source = ASKED.replace('b"302 Not yet"', 'b"503 Unwell"')
    health = {"http_path": "/well", "http_interval": "200ms", "http_timeout": "5s"}
    service = start(launcher, "server.py", source, workers=1, health=health)
    assert service.wait_log("worker_hung", worker=1)["why"] == "GET /well: it answered 503"


@pytest.mark.needs("node")
def test_node_programs_are_asked_and_counted_too(launcher: Launcher) -> None:
    source = """
const http = require('http'), fs = require('fs');
http.createServer((request, response) => {
  response.statusCode = request.url === '/ready' && fs.existsSync('go') ? 200 : 503;
  response.end('x');
}).listen(0, '127.0.0.1', function () { console.log('port', this.address().port); });
"""
    service = start(launcher, "server.js", source, ready=False, ready_when="http:/ready")
    assert re.match(r"127\.0\.0\.1:\d+", port(service))
    service.wait_log(lambda record: said(record).startswith("port"), count=2)
    go(service, launcher.folder)
    assert service.stop() == 0
