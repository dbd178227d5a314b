"""Lines to a service manager that is a real socket, in all its moods."""

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.unix.notify import Notifier
from tests.procfs import open_descriptors

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def manager(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(5)
    return sock


def test_lines_reach_a_path_in_one_message(run_dir: Path) -> None:
    path = str(run_dir / "notify")
    with manager(path) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        assert notifier.available
        assert notifier.send("READY=1", "STATUS=4 of 4 → ready")
        assert sock.recv(4096) == "READY=1\nSTATUS=4 of 4 → ready".encode()
        notifier.close()


def test_lines_reach_an_abstract_name() -> None:
    name = f"clusterd-test-{os.getpid()}"
    with manager("\0" + name) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
        assert notifier.send("STOPPING=1")
        assert sock.recv(4096) == b"STOPPING=1"
        notifier.close()


@given(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=5))
def test_any_text_is_so_many_lines_of_utf_8(lines: list[str]) -> None:
    name = f"clusterd-test-any-{os.getpid()}"
    with manager("\0" + name) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
        assert notifier.send(*lines)
        got = sock.recv(65536).decode()
        assert got.split("\n") == [line.replace("\n", " ") for line in lines]
        notifier.close()


def test_the_environment_is_the_given_one_and_the_variable_can_be_taken_out(run_dir: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(run_dir / "n"), "OTHER": "x"}
    assert Notifier(environ).available
    assert "NOTIFY_SOCKET" in environ
    notifier = Notifier(environ, unset=True)
    assert environ == {"OTHER": "x"}
    with manager(str(run_dir / "n")) as sock:
        assert notifier.send("READY=1")
        assert sock.recv(100) == b"READY=1"
    notifier.close()


@pytest.mark.parametrize("address", [None, "", "@", "/", "relative", "vsock:2:1", "/no/such", "/" + "x" * 200, "/a\0b"])
def test_without_a_manager_nothing_happens(address: str | None) -> None:
    notifier = Notifier({} if address is None else {"NOTIFY_SOCKET": address})
    assert not notifier.send("READY=1")
    notifier.close()
    notifier.close()


def test_a_manager_that_does_not_read_is_not_waited_for(run_dir: Path) -> None:
    path = str(run_dir / "notify")
    with manager(path) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        sent = 0
        while notifier.send("STATUS=again"):
            sent += 1
        assert sent > 0
        assert not notifier.send("STATUS=again")
        sock.recv(100)
        assert notifier.send("STATUS=again"), "and it goes on when there is room"
        notifier.close()


def test_a_manager_that_goes_and_comes_back_is_found_again(run_dir: Path) -> None:
    path = run_dir / "notify"
    notifier = Notifier({"NOTIFY_SOCKET": str(path)})
    assert not notifier.send("READY=1")
    for round_ in range(3):
        with manager(str(path)) as sock:
            assert notifier.send(f"STATUS={round_}")
            assert sock.recv(100) == f"STATUS={round_}".encode()
        path.unlink()
        assert not notifier.send("STATUS=lost")
    notifier.close()


def test_the_socket_is_not_for_children(run_dir: Path) -> None:
    path = str(run_dir / "notify")
    with manager(path):
        notifier = Notifier({"NOTIFY_SOCKET": path})
        before = set(open_descriptors())
        notifier.send("READY=1")
        (fd,) = set(open_descriptors()) - before
        assert not os.get_inheritable(fd)
        notifier.close()


# -- descriptors, the barrier, the watchdog ---------------------------------------------------------------------------


def test_descriptors_go_with_their_message(run_dir: Path) -> None:
    path = str(run_dir / "notify")
    with manager(path) as sock, socket.socket() as stored:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        assert notifier.send("FDSTORE=1", "FDNAME=http", fds=[stored.fileno()])
        data, fds, _, _ = socket.recv_fds(sock, 4096, 8)
        assert data == b"FDSTORE=1\nFDNAME=http"
        assert os.path.samestat(os.fstat(fds[0]), os.fstat(stored.fileno()))
        os.close(fds[0])
        notifier.close()


def test_a_barrier_waits_for_the_manager(run_dir: Path) -> None:
    path = str(run_dir / "notify")
    with manager(path) as sock:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        seen = []

        def read() -> None:
            seen.append(sock.recv(4096))
            data, fds, _, _ = socket.recv_fds(sock, 4096, 8)
            seen.append(data)
            os.close(fds[0])

        reader = threading.Thread(target=read)
        reader.start()
        notifier.send("STOPPING=1")
        assert notifier.barrier(5.0)
        assert seen == [b"STOPPING=1", b"BARRIER=1"]
        reader.join()
        notifier.close()


def test_a_barrier_does_not_wait_for_ever(run_dir: Path) -> None:
    path = str(run_dir / "notify")
    with manager(path):
        notifier = Notifier({"NOTIFY_SOCKET": path})
        assert not notifier.barrier(0.01)
        notifier.close()
    assert not Notifier({}).barrier(60.0)
    unreachable = Notifier({"NOTIFY_SOCKET": str(run_dir / "none")})
    assert not unreachable.barrier(60.0)


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", "", 30.0),
        ("500000", "own", 0.5),
        ("500000", "1", None),
        ("0", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("٣", "", None),
        ("9" * 21, "", None),
        ("18446744073709551615", "", 366 * 24 * 3600.0),
    ],
)
def test_the_watchdogs_interval(usec: str, pid: str, expected: float | None) -> None:
    pid = str(os.getpid()) if pid == "own" else pid
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec} | ({"WATCHDOG_PID": pid} if pid else {})
    assert Notifier(environ, unset=True).watchdog == expected
    assert environ == {}
