"""The end of a service and of a worker, as their clients see it: nothing that was taken is lost, nobody is reset."""

import os
import signal
import socket
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.procfs import wait_for
from tests.real.clients import split
from tests.real.harness import Launcher, Record, Service, kill
from tests.real.playground import LIVES, Answers, Load, complete, read_until, up

GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
SECOND = 1.0


def spoken(client: socket.socket) -> bytes:
    """One request on a connection that stays."""
    client.sendall(GET)
    return read_until(client, complete)


def until_closed(client: socket.socket) -> None:
    """Asks on until an answer says that it is the last, which it must be: the worker knows by then that it drains."""
    for _ in range(10_000):
        answer = spoken(client)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        if b"\r\nconnection: close" in answer.lower():
            assert client.recv(1) == b""
            return
    pytest.fail("it is never said that the connection closes")


def more_answers(load: Load) -> None:
    """The load gets on."""
    aim = load.answered + 100
    wait_for(lambda: load.answered > aim, 20, "a hundred more answers")


def seconds_between(first: Record, second: Record) -> float:
    def seconds(record: Record) -> float:
        hours, minutes, rest = record["timestamp"][11:-1].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(rest)

    return seconds(second) - seconds(first)


@pytest.mark.slow
def test_forty_requests_of_a_second_are_all_answered_and_the_end_is_in_time(launcher: Launcher) -> None:
    service = up(launcher, workers=4)
    answers = Answers().ask(service.address(), f"/sleep?s={SECOND:g}", 40)
    begun = service.wait_log("output", text="begun", count=40)
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert answers.wait().lost == []
    assert len(answers.bodies) == 40
    assert seconds_between(begun, service.wait_log("stopped")) < SECOND + 0.5 * 10


def test_idle_kept_alive_clients_are_closed_within_linger_and_not_reset(launcher: Launcher) -> None:
    linger = 0.3
    settings = {"pools": {"web": {"http": {"keep_alive": "60s"}}}, "shutdown": {"linger": f"{linger:g}s"}}
    service = up(launcher, settings, workers=2)
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(20)]
        for client in clients:
            assert b"\r\nconnection: close" not in spoken(client).lower()
        service.signal(signal.SIGTERM)
        service.wait_log("worker_draining", count=2)
        for client in clients:
            assert client.recv(1) == b"", "an idle connection ends with an end, not with a reset"
        assert service.wait_exit() == 0
    took = seconds_between(service.wait_log("stop_began"), service.wait_log("stopped"))
    assert linger - 0.01 <= took < linger + 5


def test_a_late_request_of_a_kept_alive_client_is_answered_with_connection_close(launcher: Launcher) -> None:
    settings = {"pools": {"web": {"http": {"keep_alive": "60s"}}}, "shutdown": {"linger": "10s"}}
    service = up(launcher, settings, workers=2)
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(10)]
        for client in clients:
            spoken(client)
        service.signal(signal.SIGTERM)
        service.wait_log("worker_draining", count=2)
        for client in clients:
            until_closed(client)
        assert service.wait_exit(5) == 0  # long before linger is over: nobody is left


def test_a_request_in_flight_gets_connection_close_and_the_rest_of_its_body_is_read(launcher: Launcher) -> None:
    service = up(launcher)
    with service.connect() as client, service.connect() as other:
        spoken(other)
        client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n01234")
        service.wait_log("output", text="begun")
        service.signal(signal.SIGTERM)
        until_closed(other)
        client.sendall(b"56789")
        answer = read_until(client, b"\0")
    assert answer.endswith(b"0123456789")
    assert b"\r\nconnection: close" in answer.lower()
    assert service.wait_exit() == 0


def test_a_streaming_response_in_flight_finishes(launcher: Launcher) -> None:
    service = up(launcher)
    with service.connect() as client:
        client.sendall(b"GET /stream?parts=20&pause=0.03 HTTP/1.1\r\nhost: test\r\n\r\n")
        read_until(client, lambda data: b"part 0" in data)
        service.signal(signal.SIGTERM)
        service.wait_log("worker_draining")
        rest = read_until(client, b"0\r\n\r\n")
    assert b"part 19" in rest
    assert b"over\n" in rest
    assert service.wait_exit() == 0
    assert not service.logged("worker_killed")


def test_a_websocket_gets_a_close_frame_that_says_restart(launcher: Launcher) -> None:
    service = up(launcher)
    host, port = split(service.address())
    with connect(f"ws://{host}:{port}/") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello"
        service.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            websocket.recv(10)
        assert websocket.close_code == 1012
    service.wait_log("output", text="websocket ended with 1012")
    assert service.wait_exit() == 0


def test_what_waits_in_the_kernel_s_backlog_is_served_and_what_comes_later_refused(launcher: Launcher) -> None:
    """Both workers are busy and their boxes full; what waits behind them was accepted by the kernel."""
    service = up(launcher, workers=2)
    place = split(service.address())
    with ExitStack() as stack:
        busy = [stack.enter_context(service.connect()) for _ in range(2)]
        for client in busy:
            client.sendall(b"GET /block?s=1 HTTP/1.1\r\nhost: test\r\n\r\n")
        service.wait_log("output", text="begun", count=2)
        waiting = [stack.enter_context(service.connect()) for _ in range(40)]
        for client in waiting:
            client.sendall(GET)
        assert backlog_of(service) > 0
        service.signal(signal.SIGTERM)
        service.wait_log("stop_began")
        answers = [read_until(client, complete) for client in [*busy, *waiting]]
        assert [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200")] == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, 10)
        assert service.wait_exit() == 0


def backlog_of(service: Service) -> float:
    return service.metrics().value("clusterd_listener_backlog_connections", listener="http")


def test_connections_that_are_made_all_the_while_are_answered_or_refused_and_never_reset(launcher: Launcher) -> None:
    service = up(launcher, workers=2)
    with Load(service.address()).running(8) as load:
        wait_for(lambda: load.answered > 100, 20)
        assert load.lost == []
        service.signal(signal.SIGTERM)
        assert service.wait_exit() == 0
    assert {text.partition("(")[0] for text in load.lost} <= {"ConnectionRefusedError"}


def test_health_says_not_ready_at_once_and_alive_to_the_end(launcher: Launcher) -> None:
    service = up(launcher)
    with service.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n")
        service.wait_log("output", text="begun")
        assert [service.health(path).status for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
        service.signal(signal.SIGTERM)
        service.wait_log("worker_draining")
        assert [service.health(path).status for path in ("/livez", "/readyz", "/startupz")] == [200, 503, 200]
        assert "FAIL service: draining" in service.health("/readyz?verbose").text
        assert service.metrics().value("clusterd_ready") == 0
        assert service.status()["service"]["state"] == "draining"
        client.sendall(b"x")
        assert read_until(client, b"\0").endswith(b"x")
    assert service.wait_exit() == 0


def test_a_lame_duck_is_not_ready_and_still_takes_new_work(launcher: Launcher) -> None:
    service = up(launcher, {"shutdown": {"lame_duck": "2s"}})
    service.signal(signal.SIGTERM)
    service.wait_log("stop_began")
    assert service.health("/readyz").status == 503
    assert service.get().status == 200
    assert service.status()["service"]["state"] == "lame_duck"
    assert service.wait_exit() == 0
    took = seconds_between(service.wait_log("stop_began"), service.wait_log("stopped"))
    assert took >= 1.99


def test_scaling_down_loses_nothing(launcher: Launcher) -> None:
    service = up(launcher, workers=3)
    with Load(service.address()).running(6) as load:
        for count, number in enumerate((signal.SIGTTOU, signal.SIGTTOU, signal.SIGTTIN, signal.SIGTTIN), 1):
            service.signal(number)
            service.wait_log("scaled", count=count)
        service.wait_log("worker_exited", reason="scale", count=2)
        service.wait_log("worker_ready", count=5)
        more_answers(load)
    assert load.lost == []


# -- death under load -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_kill_of_a_worker_costs_only_connections_that_it_had_taken(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=3)
    kills = 8
    with Load(service.address()).running(16) as load:
        for count in range(kills):
            more_answers(load)
            workers = [worker for worker in service.workers() if worker["state"] == "ready"]
            mark = service.mark()
            kill(workers[count % len(workers)]["pid"])
            service.wait_log("worker_ready", after=mark)
        more_answers(load)
    reports = service.logged("crash_report")
    assert len(reports) == kills
    assert max(report["connections_unread"] for report in reports) <= 2
    assert len(load.lost) <= sum(report["connections_open"] for report in reports), load.lost
    assert load.longest < 1.0
    assert service.metrics().value("clusterd_worker_exits_total", reason="crash") == kills


def test_mail_that_a_dead_worker_had_not_taken_is_given_to_the_next(launcher: Launcher) -> None:
    """One worker, blocked: what waits in its box outlives it."""
    service = up(launcher, LIVES)
    with ExitStack() as stack:
        stuck = stack.enter_context(service.connect())
        stuck.sendall(b"GET /stuck HTTP/1.1\r\nhost: test\r\n\r\n")
        service.wait_log("output", text="begun")
        waiting = [stack.enter_context(service.connect()) for _ in range(20)]
        for client in waiting:
            client.sendall(GET)
        wait_for(lambda: backlog_of(service) > 0, 20)  # its box is full
        kill(service.workers()[0]["pid"])
        answers = [read_until(client, complete) for client in waiting]
    assert [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200")] == []
    assert service.metrics().value("clusterd_connections_reclaimed_total", reason="dead") > 0


def test_what_nobody_can_serve_holds_the_end_up_no_longer_than_drain_timeout(launcher: Launcher) -> None:
    """All workers are stopped, their boxes full, the backlog long: its clients are told so, and not left to hang."""
    service = up(launcher, {"shutdown": {"drain_timeout": "1s", "linger": "100ms"}}, workers=2)
    pids = [worker["pid"] for worker in service.workers()]
    with ExitStack() as stack:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(service.connect()) for _ in range(60)]
        for client in waiting:
            client.sendall(GET)
        assert backlog_of(service) > 0
        service.signal(signal.SIGTERM)
        assert service.wait_exit() == 0
        for client in waiting:
            try:
                assert client.recv(1) == b""
            except ConnectionError:
                pass  # as good an end
    took = seconds_between(service.wait_log("stop_began"), service.wait_log("stopped"))
    assert 1.0 <= took < 1.1 + 10
    assert len(service.logged("worker_killed")) == 2
