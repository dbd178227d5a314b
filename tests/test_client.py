import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.client import CHECKS, Client, find_socket
from clusterd.client import places as room
from clusterd.config.derive import CONTROL_SOCKET
from clusterd.errors import NotRunning, PeerError, Refused, RequestFailed, TimedOut, UsageError
from clusterd.ops import roles
from clusterd.ops.exchange import JSON, Response, text
from tests.ops.serving import Running, serving_unix
from tests.ops.staged import Staged, control

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def path(run_dir: Path) -> str:
    return str(run_dir / "control.sock")


@pytest.fixture
def served(path: str) -> Iterator[Running]:
    with serving_unix(path, control(Staged())) as running:
        yield running


@pytest.fixture
def places(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parents of run directories, empty: ``run``, ``tmp`` and ``xdg``."""
    for name in ("run", "tmp", "xdg"):
        (run_dir / name).mkdir()
    monkeypatch.setattr(room, "SYSTEM_DIR", str(run_dir / "run"))
    monkeypatch.setattr(room, "FALLBACK_DIR", str(run_dir / "tmp"))
    return run_dir


def place(parent: Path, name: str) -> str:
    (parent / name).mkdir(parents=True)
    return str(parent / name / "control.sock")


def test_the_status_is_the_document(served: Running, path: str) -> None:
    client = Client(path)
    assert client.status()["service"]["name"] == "shop"
    assert json.loads(client.status_json()).keys() == client.status().keys()


@pytest.mark.parametrize("check", CHECKS)
def test_a_health_check_has_a_verdict_and_its_lines(served: Running, path: str, check: str) -> None:
    well, lines = Client(path).health(check, verbose=True)
    assert well
    assert "web/0: ready" in lines


def test_a_check_that_fails_is_no_error(path: str) -> None:
    with serving_unix(path, control(Staged(age=1000.0))):
        well, lines = Client(path).health("live")
    assert not well
    assert lines.startswith("FAIL loop")


def test_the_names_of_run_directories_are_those_of_the_configuration() -> None:
    assert room.CONTROL_SOCKET == CONTROL_SOCKET


def test_nobody_there_is_not_running(path: str) -> None:
    with pytest.raises(NotRunning, match=r"no clusterd is running at .*control\.sock"):
        Client(path).status()


def test_a_stale_socket_is_not_running(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with pytest.raises(NotRunning):
        Client(path).status()


def test_another_user_is_refused(served: Running, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "own_uid", lambda: os.getuid() + 1)
    monkeypatch.setattr(roles, "ROOT", 2**31)
    with pytest.raises(Refused, match="only root, the user the service"):
        Client(path).status()


def test_a_primary_that_does_not_answer_times_out(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        with pytest.raises(TimedOut, match=r"did not answer within 0\.1 s"):
            Client(path, timeout=0.1).status()


def test_a_primary_of_another_version_is_said_to_be(path: str) -> None:
    with serving_unix(path, {}), pytest.raises(RequestFailed, match="its version is another"):
        Client(path).status()


@pytest.mark.parametrize("body", [b"", b"hello", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_an_answer_that_is_no_status_is_said_to_be(path: str, body: bytes) -> None:
    routes = {"/v1/status": lambda request: Response(200, body, JSON)}
    with serving_unix(path, routes), pytest.raises(PeerError):
        Client(path).status()


def test_an_internal_error_is_a_failed_request(path: str) -> None:
    with serving_unix(path, {"/v1/status": lambda request: text(500, "oh")}), pytest.raises(RequestFailed, match="oh"):
        Client(path).status()


def test_one_that_is_too_busy_for_a_check_has_not_failed_it(path: str) -> None:
    busy = {"/readyz": lambda request: text(503, "too many connections")}
    with serving_unix(path, busy), pytest.raises(RequestFailed, match="too many"):
        Client(path).health()


def test_what_is_no_http_is_no_primary(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        # What is to be answered can be written before it is asked.
        probe = Client(path, timeout=5.0)

        def answer() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(PeerError, match="no clusterd primary"):
            probe.status()
        thread.join(5.0)


def test_a_run_directory_is_taken_at_its_word(run_dir: Path) -> None:
    assert find_socket(run_dir=str(run_dir)) == str(run_dir / "control.sock")


@pytest.mark.parametrize("parent", ["run", "tmp", "xdg/clusterd"])
def test_a_name_is_looked_for_where_services_are(places: Path, parent: str) -> None:
    environ = {"XDG_RUNTIME_DIR": str(places / "xdg")}
    path = place(places / parent, "shop")
    with pytest.raises(NotRunning, match="no clusterd named shop is running; looked in"):
        find_socket(name="shop", environ=environ)
    with serving_unix(path, {}):
        assert find_socket(name="shop", environ=environ) == path


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a service"):
        find_socket(name=name)


def test_the_only_one_running_is_meant(places: Path) -> None:
    with pytest.raises(NotRunning):
        find_socket(environ={})
    place(places / "run", "dead")
    path = place(places / "tmp", "shop")
    with serving_unix(path, {}):
        assert find_socket(environ={}) == path


def test_one_that_two_rules_lead_to_is_one(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.client.places.SYSTEM_DIR", str(places / "run" / "clusterd"))
    path = place(places / "run" / "clusterd", "shop")
    with serving_unix(path, {}):
        assert find_socket(environ={"XDG_RUNTIME_DIR": str(places / "run")}) == path


def test_several_running_are_listed(places: Path) -> None:
    one, two = place(places / "run", "shop"), place(places / "tmp", "blog")
    with serving_unix(one, {}), serving_unix(two, {}), pytest.raises(UsageError) as raised:
        find_socket(environ={})
    assert raised.value.exit_code == 2
    for path in (one, two):
        assert f"--run-dir {os.path.dirname(path)}" in str(raised.value)


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to others, which only root may")
def test_another_users_service_counts_where_only_root_could_have_put_it(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place(places / "run", "shop")
    with serving_unix(path, {}):
        os.chown(path, 500, 500)
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        (places / "run").chmod(0o755)
        assert room.is_running(Path(path))
        (places / "run").chmod(0o777)
        assert not room.is_running(Path(path))


def test_a_file_of_that_name_is_no_service(places: Path) -> None:
    Path(place(places / "run", "shop")).write_text("")
    with pytest.raises(NotRunning):
        find_socket(environ={})


def test_a_primary_that_accepts_nothing_any_more_has_not_answered_in_time(run_dir: Path) -> None:
    path = run_dir / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                client.close()
                break
            waiting.append(client)
        with pytest.raises(TimedOut):
            Client(str(path), timeout=0.2).status()
        for client in waiting:
            client.close()
