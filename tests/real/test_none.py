"""``scheduling = "none"``: workers accept by themselves, and the queue is the kernel's and outlives every worker."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.procfs import wait_for
from tests.real.clients import connect, fetch, split
from tests.real.harness import DEADLINE, Launcher, Service, Settings, kill, merged
from tests.real.looking import fields
from tests.real.playground import LIVES, Load, complete, read_until, up

GET = b"GET /pid HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
NONE = {"pools": {"web": {"scheduling": "none"}}}


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


def start(launcher: Launcher, settings: Settings | None = None, *, workers: int = 2) -> Service:
    return up(launcher, merged(NONE, settings or {}), workers=workers)


def backlog_of(service: Service) -> float:
    return service.metrics().value("clusterd_listener_backlog_connections", listener="http")


def pids(service: Service) -> set[int]:
    return {worker["pid"] for worker in service.workers()}


def asking(service: Service, held: ExitStack, count: int) -> list[socket.socket]:
    """So many connections with a request on each."""
    waiting = [held.enter_context(service.connect()) for _ in range(count)]
    for client in waiting:
        client.sendall(GET)
    return waiting


def blocked(service: Service, held: ExitStack, path: str, count: int) -> list[socket.socket]:
    """Requests that block so many workers; returns when they do. One after the other: the next is another worker's."""
    busy = []
    for number in range(1, count + 1):
        busy.append(held.enter_context(service.connect()))
        busy[-1].sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        service.wait_log("output", text="begun", count=number)
    return busy


def answered(clients: list[socket.socket]) -> list[int]:
    """The pids that answered; every one must."""
    answers = [read_until(client, complete) for client in clients]
    assert [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200")] == []
    return [int(answer.rpartition(b"\n")[2]) for answer in answers]


def test_all_workers_accept_and_each_connection_is_counted_where_it_went(launcher: Launcher) -> None:
    settings = {"listeners": {"local": {"address": "unix:shop.sock"}}}
    service = start(launcher, settings)
    with Load(service.address(), "/pid").running(8) as load:
        wait_for(lambda: load.answered > 400, DEADLINE, "answers")
    assert load.lost == []
    for _ in range(7):
        assert int(service.get("/pid", listener="local").text) in pids(service)
    metrics = service.metrics()
    by_slot = [metrics.value("clusterd_connections_total", listener="http", slot=str(slot)) for slot in (0, 1)]
    assert sum(by_slot) == load.answered
    assert min(by_slot) > 0
    assert metrics.value("clusterd_connections_total", listener="local") == 7
    assert metrics.value("clusterd_connections_reclaimed_total") == 0


def test_what_waits_in_the_queue_is_served_at_the_end_and_what_comes_later_refused(
    launcher: Launcher, held: ExitStack
) -> None:
    service = start(launcher)
    place = split(service.address())
    workers = pids(service)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    for pid in workers:
        wait_for(lambda pid=pid: fields(pid)["State"].startswith("T"), DEADLINE, "a stopped worker")
    waiting = asking(service, held, 40)
    assert backlog_of(service) == 40
    service.signal(signal.SIGTERM)
    service.wait_log("stop_began")
    assert service.status()["service"]["state"] == "closing"
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    assert set(answered(waiting)) <= workers
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, 10)
    assert service.wait_exit() == 0


def test_a_worker_that_is_stopped_keeps_what_it_took_and_nothing_else(launcher: Launcher, held: ExitStack) -> None:
    service = start(launcher, {"shutdown": {"drain_timeout": "1s"}})
    place = split(service.address())
    stopped, other = pids(service)
    os.kill(stopped, signal.SIGSTOP)
    wait_for(lambda: fields(stopped)["State"].startswith("T"), DEADLINE, "a stopped worker")
    assert set(answered(asking(service, held, 40))) == {other}
    service.signal(signal.SIGTERM)
    service.wait_log("worker_draining", count=2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, 10)  # though the stopped one still holds the socket
    assert service.wait_exit() == 0
    assert service.wait_log("worker_killed")["reason"] == "drain_timeout"


def test_the_queue_outlives_the_last_worker(launcher: Launcher, held: ExitStack) -> None:
    service = start(launcher, LIVES, workers=1)
    blocked(service, held, "/stuck", 1)
    waiting = asking(service, held, 20)
    assert backlog_of(service) == 20
    (pid,) = pids(service)
    kill(pid)
    assert pid not in answered(waiting)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_queue_is_served_when_the_primary_dies(launcher: Launcher, held: ExitStack, kind: str) -> None:
    address = "127.0.0.1:0" if kind == "tcp" else "unix:shop.sock"
    service = start(launcher, {"listeners": {"http": {"address": address}}}, workers=1)
    (busy,) = blocked(service, held, "/block?s=1", 1)
    waiting = asking(service, held, 20)
    service.signal(signal.SIGKILL)
    answered(waiting)
    assert read_until(busy, complete).startswith(b"HTTP/1.1 200")
    service.wait_exit()


def test_scaling_down_and_up_loses_nothing(launcher: Launcher) -> None:
    service = start(launcher, workers=3)
    with Load(service.address()).running(6) as load:
        for count, number in enumerate((signal.SIGTTOU, signal.SIGTTOU, signal.SIGTTIN, signal.SIGTTIN), 1):
            service.signal(number)
            service.wait_log("scaled", count=count)
        service.wait_log("worker_exited", reason="scale", count=2)
        service.wait_log("worker_ready", count=5)
        aim = load.answered + 100
        wait_for(lambda: load.answered > aim, DEADLINE, "a hundred more answers")
    assert load.lost == []


def test_a_worker_without_descriptors_leaves_connections_to_others_and_comes_back(
    launcher: Launcher, held: ExitStack
) -> None:
    service = start(launcher, {"pools": {"web": {"limits": {"nofile": 64}}}})
    slow = [held.enter_context(service.connect()) for _ in range(130)]  # more than both can hold
    for client in slow:
        client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n")
    service.wait_log(lambda record: "no connections are taken" in str(record))
    assert service.health("/livez").status == 200
    for client in slow:
        client.sendall(b"x")
    for client in slow:
        assert read_until(client, b"x").startswith(b"HTTP/1.1 200")
        client.close()
    assert int(fetch(service.address(), "/pid").text) in pids(service)
    assert len(service.logged(lambda record: "no connections are taken" in str(record))) <= 2, "once a worker"


def test_a_socket_that_was_passed_goes_on_with_its_queue(launcher: Launcher, held: ExitStack) -> None:
    """A blocked worker, a stop, and a successor: what waited is served by whoever has the socket next."""
    (launcher.folder / "app.py").write_text("")
    sock = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
    place = "{}:{}".format(*sock.getsockname())
    settings = merged(NONE, {"listeners": {"http": {"address": f"fd:{sock.fileno()}"}}})
    first = _passed(launcher, sock, settings)
    busy = blocked(first, held, "/block?s=1", 1)
    waiting = [held.enter_context(connect(place, DEADLINE)) for _ in range(10)]
    for client in waiting:
        client.sendall(GET)
    assert first.stop() == 0
    assert read_until(busy[0], complete).startswith(b"HTTP/1.1 200")
    late = held.enter_context(connect(place, DEADLINE))
    late.sendall(GET)
    launcher.services.clear()
    first.finish()
    os.unlink(launcher.run_dir / "test-notify")
    second = _passed(launcher, sock, settings)
    assert set(answered([late])) <= pids(second)
    answered(waiting)


def _passed(launcher: Launcher, sock: socket.socket, settings: Settings) -> Service:
    from tests.real.playground import APP

    (launcher.folder / "app.py").write_text(APP)
    path = launcher.configuration(settings, workers=1)
    return launcher.run("--config", os.fspath(path), pass_fds=[sock.fileno()]).wait_ready()
