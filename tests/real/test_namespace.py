"""Settings that are a whole network's, in a network of the test's own: what the kernel does with the connections that
its queue has no room for, and what is said of it."""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher, Service
from tests.real.looking import app, fields, pids_of
from tests.real.playground import complete, read_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network")

CLONE_NEWNET = 0x40000000
ESTABLISHED = 1  # of enum tcp_state in <netinet/tcp.h>
GET = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"


def within(pid: int, what: Callable[[], Any]) -> Any:
    """What ``what`` gives in the network of that process: on a thread of its own, which ends with it (setns(2))."""
    found: list[Any] = []

    def run() -> None:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            found.append(what())
        finally:
            os.close(fd)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(DEADLINE)
    assert found, "it did not get there"
    return found[0]


@contextmanager
def network(launcher: Launcher, **settings: int) -> Iterator[Service]:
    """A service of one worker, alone in a network with these settings; its log and control socket are as ever."""
    (launcher.folder / "app.py").write_text(app())
    path = launcher.configuration({"listeners": {"http": {"address": "127.0.0.1:8000", "backlog": 500}}}, workers=1)
    lines = ["ip link set lo up 2>/dev/null || ifconfig lo up"]
    lines += [f"echo {value} > /proc/sys/net/{name.replace('__', '/')}" for name, value in settings.items()]
    through = ["unshare", "--net", "sh", "-ec", "; ".join([*lines, 'exec "$@"']), "sh"]
    yield launcher.run("--config", os.fspath(path), through=through).wait_ready()


def flood(service: Service, held: ExitStack, count: int) -> list[socket.socket]:
    """So many connections begun, none waited for."""

    def connect() -> list[socket.socket]:
        clients = []
        for _ in range(count):
            clients.append(held.enter_context(socket.socket()))
            clients[-1].setblocking(False)
            clients[-1].connect_ex(("127.0.0.1", 8000))
        return clients

    found: list[socket.socket] = within(service.pid, connect)
    return found


def state(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: fields(pid)["State"].startswith("T"), DEADLINE, "a stopped worker")


def test_a_backlog_above_somaxconn_is_cut_said_and_never_exceeded(launcher: Launcher) -> None:
    with ExitStack() as held, network(launcher, core__somaxconn=8) as service:
        assert service.wait_log("backlog_cut")["reason"] == "backlog 500 is cut to 8, net.core.somaxconn"
        (pid,) = pids_of(service).values()
        stop(pid)
        clients = flood(service, held, 60)
        inside = [sock for sock in clients if state(sock) == ESTABLISHED]
        assert len(inside) <= 6 + 9, "six in the box, and a queue of 8 holds 9 (listen(2))"
        os.kill(pid, signal.SIGCONT)
        for sock in inside:
            sock.settimeout(DEADLINE)
            sock.sendall(GET)
            assert read_until(sock, complete).startswith(b"HTTP/1.1 200")
