"""Listeners of every kind but TLS, through ``clusterd run``: TCP v4 and v6, unix, inherited, passed by a manager."""

import json
import os
import signal
import socket
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real.clients import connect, fetch
from tests.real.harness import DEADLINE, IN_TURN, Launcher, Service, Settings

APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"]
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    said = {
        "pid": os.getpid(), "client": scope["client"], "server": scope["server"],
        "listen": [name for name in os.environ if name.startswith("LISTEN_")],
    }
    body = json.dumps(said).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
"""Tells what it knows of the connection; a POST is answered when its body has come."""

MANAGER = """
import fcntl, os, sys
kept = [fcntl.fcntl(int(text), fcntl.F_DUPFD, 100) for text in sys.argv[1].split(",") if text]
for number, fd in enumerate(kept, 3):
    os.dup2(fd, number)
    os.close(fd)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes descriptors as systemd does: from 3 on, to the process with this pid."""


def listening(
    family: socket.AddressFamily = socket.AF_INET,
    place: tuple[str, int] | str = ("127.0.0.1", 0),
    *,
    listen: bool = True,
) -> socket.socket:
    sock = socket.socket(family)
    sock.bind(place)
    if listen:
        sock.listen(64)
    return sock


def start(launcher: Launcher, listeners: Mapping[str, Mapping[str, object] | None], **more: object) -> Service:
    return launcher.start(APP, {"listeners": listeners, **more})


def passed(
    launcher: Launcher, socks: Sequence[socket.socket], listeners: Settings, env: Mapping[str, str] | None = None
) -> Service:
    """A service started by a manager with these sockets; not awaited."""
    (launcher.folder / "app.py").write_text(APP)
    path = launcher.configuration({"listeners": listeners})
    fds = [sock.fileno() for sock in socks]
    through = [sys.executable, "-c", MANAGER, ",".join(map(str, fds))]
    return launcher.run("--config", str(path), env=env, through=through, pass_fds=fds)


def refused(service: Service) -> str:
    """What a service that must not start says last."""
    assert service.wait_exit() == 1
    return "\n".join(record["raw"] for record in service.records if "raw" in record)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


class TestTcp:
    def test_both_families_are_served_where_the_address_says_so(self, launcher: Launcher) -> None:
        service = start(
            launcher,
            {"http": {"address": ":0"}, "six": {"address": "[::1]:0"}, "any": {"address": "[::]:0"}},
            **IN_TURN,
        )
        assert service.address("http").startswith("[::]:")
        assert service.address("six").startswith("[::1]:")
        for name, hosts in {"http": ("127.0.0.1", "[::1]"), "any": ("127.0.0.1", "[::1]"), "six": ("[::1]",)}.items():
            port = service.address(name).rpartition(":")[2]
            for host in hosts:
                said = fetch(f"{host}:{port}").json()
                assert said["client"][0].removeprefix("::ffff:") == host.strip("[]"), (name, said)
        metrics = service.metrics()
        for name in ("http", "six", "any"):
            assert metrics.value("clusterd_listener_backlog_limit", listener=name) > 0
            assert metrics.value("clusterd_connections_total", listener=name) == (1 if name == "six" else 2)

    def test_the_flag_binds_every_interface(self, launcher: Launcher) -> None:
        (launcher.folder / "app.py").write_text(APP)
        flags = ["--set", "monitoring.address=127.0.0.1:0", "--set", "log.format=json", "--set"]
        service = launcher.run("app:app", "-w", "1", "-b", ":0", *flags, f"clusterd.run_dir={launcher.run_dir}")
        port = service.wait_ready().address().rpartition(":")[2]
        assert fetch(f"127.0.0.1:{port}").status == fetch(f"[::1]:{port}").status == 200


class TestUnix:
    def test_is_made_as_asked_serves_in_turn_and_is_gone_at_the_end(self, launcher: Launcher) -> None:
        service = start(
            launcher,
            {"http": {"address": "unix:shop.sock", "mode": "0640", "group": str(os.getgid()), "backlog": 33}},
            **IN_TURN,
        )
        path = launcher.folder / "shop.sock"
        assert service.address() == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        said = [service.get().json() for _ in range(10)]
        assert [*Counter(one["pid"] for one in said).values()] == [5, 5]
        assert said[0]["client"] is None, "a unix peer has no address"
        assert said[0]["server"] == [str(path), None]
        assert service.status()["service"]["listeners"] == [
            {"name": "http", "address": f"unix:{path}", "backlog": 0, "backlog_limit": 33}
        ]
        before = {entry.name for entry in launcher.folder.iterdir()}
        assert service.stop() == 0
        left = {entry.name for entry in launcher.folder.iterdir()}
        assert before - left == {"shop.sock"}
        assert not [name for name in left if "sock" in name]

    def test_what_waits_in_its_queue_is_counted(self, launcher: Launcher, held: ExitStack) -> None:
        service = launcher.start(APP, {"listeners": {"http": {"address": "unix:shop.sock"}}}, workers=1)
        (worker,) = service.workers()
        os.kill(worker["pid"], signal.SIGSTOP)
        try:
            clients = [held.enter_context(service.connect()) for _ in range(40)]

            def waiting() -> float:
                return service.metrics().value("clusterd_listener_backlog_connections", listener="http")

            def handed() -> float:
                return service.metrics().value("clusterd_connections_total", listener="http")

            wait_for(lambda: waiting() == len(clients) - handed() > 0, DEADLINE, "the count of those that wait")
        finally:
            os.kill(worker["pid"], signal.SIGCONT)
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        assert all(client.makefile("rb").read().startswith(b"HTTP/1.1 200") for client in clients)

    def test_a_dead_primarys_file_is_replaced_and_a_living_ones_is_refused_with_its_pid(
        self, launcher: Launcher, run_dir: Path, tmp_path: Path
    ) -> None:
        listeners = {"http": {"address": f"unix:{tmp_path}/shop.sock"}}
        first = start(launcher, listeners)
        other = Launcher(tmp_path / "other", run_dir / "other")
        other.folder.mkdir()
        other.run_dir.mkdir()
        try:
            second = other.start(APP, {"listeners": listeners}, ready=False)
            assert f"already served by pid {first.pid}; stop that process or choose another path" in refused(second)
            assert first.get().status == 200, "the second has taken nothing away"
        finally:
            other.services.clear()
            second.destroy()
        first.signal(signal.SIGKILL)
        assert first.wait_exit() == -signal.SIGKILL
        assert (tmp_path / "shop.sock").exists()
        (run_dir / "test-notify").unlink()  # the first harness's own
        third = start(launcher, listeners)
        assert third.get().status == 200

    def test_while_it_drains_a_new_client_is_refused_and_an_old_one_served(self, launcher: Launcher) -> None:
        service = start(launcher, {"http": {"address": "unix:shop.sock"}})
        with service.connect() as client:
            client.sendall(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\n")
            wait_for(lambda: service.metrics().value("clusterd_http_requests_in_flight") == 1, DEADLINE, "the request")
            service.signal(signal.SIGTERM)
            service.wait_notify("STOPPING=1")
            wait_for(lambda: not (launcher.folder / "shop.sock").exists(), DEADLINE, "a path that is gone")
            with pytest.raises(FileNotFoundError):
                service.connect()
            client.sendall(b"x")
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 200")
        assert service.wait_exit() == 0

    def test_an_abstract_one_has_no_file(self, launcher: Launcher) -> None:
        name = f"@{launcher.run_dir.name}"
        service = start(launcher, {"http": {"address": f"unix:{name}"}})
        assert service.address() == f"unix:{name}"
        said = service.get().json()
        assert said["client"] is None
        assert name not in os.listdir(launcher.folder)

    def test_no_right_no_user_and_no_directory_are_one_sentence_and_leave_nothing(self, launcher: Launcher) -> None:
        for keys, expected in (
            ({"address": "unix:no/shop.sock"}, "No such file or directory; make its directory first"),
            ({"address": "unix:shop.sock", "user": "nobody-of-that-name"}, "there is no user 'nobody-of-that-name'"),
        ):
            service = launcher.start(APP, {"listeners": {"http": keys}}, ready=False)
            assert expected in refused(service)
            assert not [name for name in os.listdir(launcher.folder) if "sock" in name]
            assert os.listdir(launcher.run_dir) == ["test-notify"]
            launcher.services.remove(service)
            service.destroy()
            os.unlink(launcher.run_dir / "test-notify")


class TestInherited:
    def test_a_socket_by_number_outlives_the_service_with_what_waits_in_it(
        self, launcher: Launcher, held: ExitStack, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "kept.sock")
        tcp, unix = held.enter_context(listening()), held.enter_context(listening(socket.AF_UNIX, path))
        listeners = {"http": {"address": "fd:3"}, "local": {"address": "fd:4"}}
        first = passed(launcher, [tcp, unix], listeners).wait_ready()
        assert first.wait_log("listening", listener="http")["inherited"] is True
        assert first.address("local") == f"unix:{path}"
        assert first.get().json()["listen"] == []
        assert first.get(listener="local").status == 200
        assert first.stop() == 0
        assert os.path.exists(path), "it is not ours to take away"
        launcher.services.clear()
        first.finish()
        os.unlink(launcher.run_dir / "test-notify")
        waiting = [held.enter_context(connect(address, DEADLINE)) for address in (_where(tcp), f"unix:{path}")]
        for client in waiting:
            client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        second = passed(launcher, [tcp, unix], listeners).wait_ready()
        for client in waiting:
            answer = client.makefile("rb").read().decode()
            assert json.loads(answer.partition("\r\n\r\n")[2])["pid"] in {one["pid"] for one in second.workers()}

    def test_a_bound_one_is_made_to_listen(self, launcher: Launcher, held: ExitStack) -> None:
        sock = held.enter_context(listening(listen=False))
        service = passed(launcher, [sock], {"http": {"address": "fd:3", "backlog": 7}}).wait_ready()
        assert service.get().status == 200
        assert service.metrics().value("clusterd_listener_backlog_limit", listener="http") == 7

    def test_a_number_that_was_not_passed_is_an_error(self, launcher: Launcher) -> None:
        service = launcher.start(APP, {"listeners": {"http": {"address": "fd:3"}}}, ready=False)
        assert "listener http: descriptor 3 " in refused(service), "also if the primary has a 3 of its own by then"
        launcher.services.clear()
        service.destroy()


class TestActivation:
    def test_sockets_go_to_listeners_by_name_and_by_address_and_the_rest_is_bound(
        self, launcher: Launcher, held: ExitStack
    ) -> None:
        one, two = held.enter_context(listening()), held.enter_context(listening())
        service = passed(
            launcher,
            [one, two],
            {"http": {"address": _where(one)}, "admin": {"address": ":0"}, "local": {"address": "unix:shop.sock"}},
            {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "shop.socket:admin"},
        ).wait_ready()
        assert service.address("http") == _where(one)
        assert service.address("admin") == _where(two)
        for name in ("http", "admin", "local"):
            assert service.get(listener=name).json()["listen"] == [], "the app is told nothing of them"

    def test_what_no_listener_wants_ends_it_with_its_name(self, launcher: Launcher, held: ExitStack) -> None:
        one, two = held.enter_context(listening()), held.enter_context(listening())
        service = passed(
            launcher, [one, two], {"http": {"address": ":0"}}, {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:other"}
        )
        assert f"descriptor 4 (LISTEN_FDS, named 'other'), listening on {_where(two)}: no listener" in refused(service)
        launcher.services.clear()
        service.destroy()

    def test_variables_for_another_process_are_said_and_not_used(self, launcher: Launcher) -> None:
        env = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        service = passed(launcher, [], {"http": {"address": "127.0.0.1:0"}}, env).wait_ready()
        assert service.wait_log("activation_ignored")["reason"].startswith("LISTEN_PID is 1 and this process")
        assert service.get().status == 200


class TestSharing:
    def test_the_workers_of_all_pools_of_a_listener_take_turns(self, launcher: Launcher) -> None:
        (launcher.folder / "app.py").write_text(APP)
        settings = {
            "listeners": {"http": {"address": "127.0.0.1:0"}, "own": {"address": "unix:own.sock"}},
            "pools": {
                "web": {"listeners": ["http", "own"], "steal_after": "0s"},
                "more": {"app": "app:app", "workers": 1, "listeners": ["http"], "steal_after": "0s"},
            },
        }
        service = launcher.start(APP, settings)
        pids = {pool: {one["pid"] for one in service.workers(pool)} for pool in ("web", "more")}
        shared = Counter(service.get().json()["pid"] for _ in range(30))
        assert shared == dict.fromkeys(pids["web"] | pids["more"], 10)
        own = Counter(service.get(listener="own").json()["pid"] for _ in range(10))
        assert own == dict.fromkeys(pids["web"], 5)
        (lone,) = pids["more"]
        os.kill(lone, signal.SIGKILL)
        service.wait_log("worker_exited", pool="more")
        assert {service.get().json()["pid"] for _ in range(4)} >= pids["web"], "the others go on"
        service.wait_log("worker_ready", count=4)
        assert len(Counter(service.get().json()["pid"] for _ in range(3))) == 3
        metrics = service.metrics()
        assert metrics.value("clusterd_connections_total", listener="own") == 10
        assert metrics.value("clusterd_connections_total", listener="own", pool="more") == 0


def _where(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"
