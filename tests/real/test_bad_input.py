"""What is wrong with an app or comes over a wire: it is said, it harms nobody else, and it ends what it must end."""

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real.clients import split
from tests.real.harness import HELLO, IN_TURN, Launcher, Service
from tests.real.playground import last_words, own_launcher, read_until, up

LISTENING = "0A"
"""A state in ``/proc/net/tcp``."""

ONE_ATTEMPT = {"pools": {"web": {"start_timeout": "20s", "restart": {"give_up_after": 1}}}}


# -- apps that cannot be served ---------------------------------------------------------------------------------

UNSERVABLE = {
    "is empty": ("", ["app:app: app has no attribute 'app'"]),
    "has a syntax error": ("def app(:\n", ["SyntaxError", "def app(:"]),
    "raises": ("raise ValueError('é' * 3)", ["ValueError: ééé", "Traceback"]),
    "calls sys.exit": ("import sys\nprint('bye')\nsys.exit(3)", ["called sys.exit(3)"]),
    "imports what is not there": ("import nowhere", ["No module named 'nowhere'", "line 1"]),
    "ends the process": ("import os\nprint('last words', flush=True)\nos._exit(0)", ["last words"]),
    "dies by a signal": (
        "import os, signal\nprint('last words', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)",
        ["SIGSEGV", "last words"],
    ),
    "closes every descriptor": ("import os\nos.closerange(3, 4096)", ["zygote"]),
    "is no application": ("app = 5", ["app:app is a int, not an ASGI application"]),
    "is a WSGI application": ("def app(environ, start_response): ...", ["looks like a WSGI application"]),
    "recurses for ever": ("def deeper(): deeper()\ndeeper()", ["RecursionError"]),
    "raises what cannot be shown": (
        "class Bad(Exception):\n    def __str__(self): raise Bad\nraise Bad",
        ["Bad", "exception str() failed"],
    ),
}


@pytest.mark.parametrize("what", UNSERVABLE)
def test_an_app_that_cannot_be_served_is_said_and_ends_the_service(launcher: Launcher, what: str) -> None:
    app, said = UNSERVABLE[what]
    service = launcher.start(app, ONE_ATTEMPT, workers=1, ready=False)
    assert service.wait_exit() == 1
    text = "\n".join(last_words(service))
    assert [part for part in said if part not in text] == [], text
    assert "clusterd/" not in text, "frames of our own are no help"
    assert last_words(service)[-1] == "clusterd: pool web: no worker ever became ready in 1 attempts"


def test_an_app_module_that_is_missing_is_said(launcher: Launcher) -> None:
    service = launcher.start(
        settings={"pools": {"web": {"app": "nowhere:app", **ONE_ATTEMPT["pools"]["web"]}}}, ready=False
    )
    assert service.wait_exit() == 1
    assert "there is no module 'nowhere'" in "\n".join(last_words(service))


def test_an_import_that_blocks_for_ever_is_ended_by_start_timeout(launcher: Launcher) -> None:
    settings = {"pools": {"web": {"start_timeout": "300ms", "restart": {"give_up_after": 1}}}}
    service = launcher.start("import time\ntime.sleep(600)", settings, ready=False)
    assert service.wait_exit() == 1
    assert "it had not imported the app within 0.3s" in "\n".join(last_words(service))


@pytest.mark.slow
def test_an_import_that_blocks_in_the_worker_is_killed_by_start_timeout(launcher: Launcher) -> None:
    settings = {"pools": {"web": {"preload": False, "start_timeout": "2s", "restart": {"give_up_after": 1}}}}
    service = launcher.start("import time\ntime.sleep(600)", settings, workers=1, ready=False)
    assert service.wait_exit() == 1
    assert service.logged("worker_killed", reason="start_timeout")
    assert "it was not ready within start_timeout" in "\n".join(last_words(service))


# -- apps that can, with care -----------------------------------------------------------------------------------

UNFORKABLE = {
    "starts a thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, name='ticker', daemon=True).start()\n",
        "started 1 thread",
    ),
    "connects": (
        "import socket\nserver = socket.create_server(('', 0))\nend = socket.create_connection(server.getsockname())\n",
        "opened descriptor",
    ),
    "forks and goes on twice": ("import os\nos.fork()\n", "started child process"),
    "starts a process": ("import subprocess\nsubprocess.Popen(['sleep', '600'])\n", "started child process"),
}


@pytest.mark.parametrize("what", UNFORKABLE)
def test_an_app_that_is_not_safe_to_fork_is_served_without_preload_and_said_once(launcher: Launcher, what: str) -> None:
    beginning, said = UNFORKABLE[what]
    service = up(launcher, IN_TURN, app=beginning + HELLO, workers=2)
    (warning,) = service.logged("preload_unsafe")
    assert said in warning["reason"]
    assert service.wait_log("zygote_ready")["preloaded"] is False
    assert len({service.get().text for _ in range(8)}) >= 2
    assert service.stop() == 0


MEDDLING = {
    "ignores its children's ends": "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n",
    "ignores SIGTERM": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n",
    "blocks all signals": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n",
    "changes the directory and closes its output": "import os\nos.chdir('/')\nos.close(1)\nos.close(2)\n",
    "has replaced its streams": "import sys, io\nsys.stdout = sys.stderr = io.StringIO()\n",
    "has no streams": "import sys\nsys.stdout = sys.stderr = None\n",
    "exits badly": "import atexit\natexit.register(lambda: 1 / 0)\n",
    "limits its descriptors": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n",
}


@pytest.mark.parametrize("what", MEDDLING)
def test_an_app_that_meddles_with_its_process_is_served_and_drains(launcher: Launcher, what: str) -> None:
    service = up(launcher, IN_TURN, app=MEDDLING[what] + HELLO, workers=2)
    assert len({service.get().text for _ in range(4)}) == 2
    assert service.stop(10) == 0
    assert not service.logged("worker_killed")


# -- clients ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that all the bad clients share: it must be as good after each as before."""
    with own_launcher(tmp_path_factory.mktemp("app")) as launcher:
        yield up(launcher, workers=2)


def to_service(service: Service) -> socket.socket:
    return service.connect()


def to_monitoring(service: Service) -> socket.socket:
    return socket.create_connection(split(service.monitoring()), 20)


def to_control(service: Service) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    # Before the timeout is set: a socket that has one fails with EAGAIN where another waits for room in the backlog.
    client.connect(os.fspath(service.run_dir / "control.sock"))
    client.settimeout(20)
    return client


Port = Callable[[Service], socket.socket]
each_port = pytest.mark.parametrize("port", [to_service, to_monitoring, to_control])


def assert_well(service: Service) -> None:
    """All three ports answer, and no worker has ended."""
    assert service.get().status == 200
    assert service.health("/readyz").status == 200
    assert service.status()["service"]["ready"] is True
    assert not service.logged("worker_exited")
    assert not service.logged("internal_error")


@each_port
def test_clients_that_say_nothing_keep_nobody_waiting(target: Service, port: Port) -> None:
    with ExitStack() as silent:
        for _ in range(30):
            silent.enter_context(port(target))
        assert_well(target)
    assert_well(target)


@each_port
@pytest.mark.parametrize(
    "garbage",
    [
        random.Random(3).randbytes(10_000),
        b"\0" * 10_000,
        b"\r\n" * 1000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["random", "zeros", "newlines", "no version", "version", "length", "smuggling", "tls", "http2"],
)
def test_garbage_is_refused_or_closed(target: Service, port: Port, garbage: bytes) -> None:
    with port(target) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        try:
            answer = read_until(client, b"\0")
        except ConnectionResetError:
            answer = b""
    assert answer[9:12] in (b"", b"400", b"404", b"405", b"431", b"505"), answer[:200]
    assert_well(target)


@each_port
@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nx: ", b"GET /"], ids=["header", "target"])
def test_a_head_of_a_megabyte_is_refused(target: Service, port: Port, head: bytes) -> None:
    with port(target) as client:
        answer = b""
        try:
            client.sendall(head + b"x" * (1 << 20))
            answer = read_until(client, b"\0")
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert not answer or answer.split()[1] in (b"400", b"414", b"431"), answer[:200]
    assert_well(target)


@each_port
def test_a_head_that_comes_byte_by_byte_holds_up_nobody(target: Service, port: Port) -> None:
    with port(target) as client:
        for byte in b"GET / HTTP/1.1\r\nhost: te":
            client.sendall(bytes([byte]))
        assert_well(target)


@each_port
def test_clients_that_reset_in_the_middle_are_no_news(target: Service, port: Port) -> None:
    mark = target.mark()
    for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"):
        for _ in range(10):
            with port(target) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(said)
    assert_well(target)
    assert target.logged("output", after=mark, stream="stderr") == []


@pytest.mark.parametrize("port", [to_monitoring, to_control])
def test_more_clients_than_allowed_are_told_so_and_the_rest_is_served(target: Service, port: Port) -> None:
    with ExitStack() as many:
        clients = [many.enter_context(port(target)) for _ in range(100)]
        turned_away = [client for client in clients[64:] if read_until(client, b"\0").startswith(b"HTTP/1.1 503")]
        assert len(turned_away) == 36
        assert target.get().status == 200
    wait_for(lambda: target.health("/readyz").status == 200, 20)
    wait_for(lambda: target.control("/readyz").status == 200, 20)
    assert_well(target)


def test_nothing_of_all_this_is_left_open(target: Service) -> None:
    """The last of this file: of all those clients the service holds nothing any more."""
    wait_for(lambda: target.metrics().value("clusterd_connections_open") == 0, 20)
    pids = [target.pid, *(worker["pid"] for worker in target.workers())]
    for pid in pids:
        wait_for(partial(nothing_open, pid), 20, f"process {pid} closes its connections")


def nothing_open(pid: int) -> bool:
    """Whether a process holds no connection over TCP."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}").removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return not [line for line in lines if line.split()[9] in inodes and line.split()[3] != LISTENING]
