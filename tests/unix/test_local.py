"""Listening unix sockets: mode, owner, the stale and the living, abstract ones, and who removes what."""

import os
import select
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from clusterd.errors import HostError
from clusterd.unix import local
from clusterd.unix.local import bind_unix
from tests.unix.children import become_nobody, in_child, python, until_refused

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def bind(path: Path | str, mode: int = 0o600, backlog: int = 16, *, user: str = "", group: str = "") -> socket.socket:
    return bind_unix(path, mode, backlog, user=user, group=group).sock


def reaches(path: Path | str, listener: socket.socket) -> bool:
    """Whether who connects to ``path`` comes to ``listener``."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        found = bool(poll.poll(5000))
        if found:
            listener.accept()[0].close()
        return found


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_mode_is_exact_whatever_the_umask(run_dir: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = bind(run_dir / "s", mode, 16)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(run_dir / "s").st_mode) == mode
    assert not listener.getblocking()
    assert not listener.get_inheritable()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(run_dir / "s"))
    listener.close()


def test_a_socket_that_nobody_serves_any_more_is_replaced(run_dir: Path) -> None:
    for _ in range(3):
        listener = bind(run_dir / "s", 0o600, 16)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(run_dir / "s"))
        listener.close()  # the file stays, as after a SIGKILL


def test_a_socket_that_is_served_is_refused_with_the_pid_of_who_serves_it(run_dir: Path) -> None:
    code = "import socket, sys; s = socket.socket(1); s.bind(sys.argv[1]); s.listen(0); print(flush=True); input()"
    holder = python(code, str(run_dir / "s"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(HostError, match=f"is already served by pid {holder.pid}; stop that process"):
        bind(run_dir / "s", 0o600, 16)
    holder.communicate(b"\n", timeout=10)
    bind(run_dir / "s", 0o600, 16).close()


def test_a_server_whose_queue_is_full_is_alive(run_dir: Path) -> None:
    with bind(run_dir / "s", 0o600, 0):
        clients: list[socket.socket] = []

        def join_the_queue() -> None:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            clients[-1].connect(str(run_dir / "s"))

        assert isinstance(until_refused(join_the_queue), BlockingIOError)
        with pytest.raises(HostError, match="is already served; stop"):
            bind(run_dir / "s", 0o600, 16)
        for client in clients:
            client.close()


def test_a_file_that_is_no_socket_is_left_alone(run_dir: Path) -> None:
    (run_dir / "s").write_text("precious")
    with pytest.raises(HostError, match="a file that is no socket is there"):
        bind(run_dir / "s", 0o600, 16)
    assert (run_dir / "s").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("missing/s", "No such file or directory"), ("x" * 200, "at most 107 bytes")],
)
def test_a_path_that_cannot_be_had_is_one_sentence(run_dir: Path, name: str, expected: str) -> None:
    with pytest.raises(HostError, match=expected):
        bind(run_dir / name, 0o600, 16)


def test_a_lock_that_somebody_holds_for_ever_is_not_waited_for_for_ever(run_dir: Path) -> None:
    lock = local._lock(str(run_dir / "s"), 1.0)
    with pytest.raises(HostError, match=r"another process holds .*s\.lock"):
        bind(run_dir / "s", 0o600, 16)
    os.close(lock)


def test_of_many_that_start_at_once_over_a_stale_socket_exactly_one_serves(run_dir: Path) -> None:
    path = run_dir / "s"
    bind(path, 0o600, 16).close()
    start = threading.Barrier(8)
    won: list[socket.socket] = []
    refused: list[str] = []

    def begin() -> None:
        start.wait()
        try:
            won.append(bind(path, 0o600, 16))
        except HostError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(refused) == 7
    assert reaches(path, won[0]), "the winner's is the socket at the path"
    won[0].close()


def test_nothing_but_the_socket_is_left_behind(run_dir: Path) -> None:
    bind(run_dir / "s").close()
    assert os.listdir(run_dir) == ["s"]
    (run_dir / "s.lock").write_text("somebody's")
    bind(run_dir / "s").close()
    assert (run_dir / "s.lock").read_text() == "somebody's"


def test_a_lock_that_was_removed_while_it_was_waited_for_is_not_held_by_two(run_dir: Path) -> None:
    path = str(run_dir / "s")
    inside, most, order = 0, 0, threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        for _ in range(200):
            with local._locked(path, 30.0):
                with order:
                    inside += 1
                    most = max(most, inside)
                with order:
                    inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


class TestOwner:
    """``user`` and ``group``."""

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    @pytest.mark.parametrize(
        ("user", "group", "expected"),
        [("nobody", "", (65534, 0)), ("", "65533", (0, 65533)), ("12345", "12346", (12345, 12346)), ("", "", (0, 0))],
    )
    def test_are_given_the_file(self, run_dir: Path, user: str, group: str, expected: tuple[int, int]) -> None:
        listener = bind(run_dir / "s", 0o640, user=user, group=group)
        found = os.stat(run_dir / "s")
        assert (found.st_uid, found.st_gid) == expected
        assert stat.S_IMODE(found.st_mode) == 0o640
        listener.close()

    @pytest.mark.parametrize(("key", "what"), [("user", "user"), ("group", "group")])
    def test_that_do_not_exist_are_told_and_nothing_is_made(self, run_dir: Path, key: str, what: str) -> None:
        with pytest.raises(HostError, match=f"there is no {what} 'nobody-of-that-name' on this machine"):
            bind_unix(run_dir / "s", 0o600, 16, **{key: "nobody-of-that-name"})
        assert os.listdir(run_dir) == []

    def test_without_the_right_it_says_which_right_and_leaves_no_file(self, run_dir: Path) -> None:
        run_dir.chmod(0o777)

        def attempt() -> str:
            become_nobody()
            with pytest.raises(HostError) as caught:
                bind(run_dir / "s", user="0")
            return str(caught.value)

        said = in_child(attempt)
        assert "may not give it to user 0" in said
        assert "CAP_CHOWN" in said
        assert os.listdir(run_dir) == []


class TestRemoval:
    """By the one who made it, and by nobody else."""

    def test_takes_the_file_away_while_those_in_the_queue_wait_on(self, run_dir: Path) -> None:
        bound = bind_unix(run_dir / "s", 0o600, 16)
        with socket.socket(socket.AF_UNIX) as early, socket.socket(socket.AF_UNIX) as late:
            early.connect(str(run_dir / "s"))
            bound.remove()
            assert os.listdir(run_dir) == []
            with pytest.raises(FileNotFoundError):
                late.connect(str(run_dir / "s"))
            taken = bound.sock.accept()[0]
            taken.send(b"served")
            assert early.recv(16) == b"served"
            taken.close()
        bound.sock.close()

    def test_leaves_what_another_has_put_there(self, run_dir: Path) -> None:
        ours = bind_unix(run_dir / "s", 0o600, 16)
        os.unlink(run_dir / "s")
        theirs = bind_unix(run_dir / "s", 0o600, 16)
        ours.remove()
        assert reaches(run_dir / "s", theirs.sock)
        ours.sock.close()
        theirs.remove()
        theirs.sock.close()
        assert os.listdir(run_dir) == []

    def test_is_done_once_because_later_the_number_may_be_anothers(self, run_dir: Path) -> None:
        ours = bind_unix(run_dir / "s", 0o600, 16)
        ours.remove()
        file = ours.file
        ours.sock.close()
        theirs = bind_unix(run_dir / "s", 0o600, 16)
        ours.remove()
        assert file is None
        assert reaches(run_dir / "s", theirs.sock)
        theirs.sock.close()

    def test_does_not_wait_for_one_who_is_binding(self, run_dir: Path) -> None:
        bound = bind_unix(run_dir / "s", 0o600, 16)
        with local._locked(str(run_dir / "s"), 1.0):
            bound.remove()
            assert (run_dir / "s").exists(), "stale from now on, and taken away by who holds the lock"
        bound.sock.close()
        bind(run_dir / "s").close()

    def test_finds_nothing_where_the_directory_is_gone(self, run_dir: Path) -> None:
        (run_dir / "d").mkdir()
        bound = bind_unix(run_dir / "d" / "s", 0o600, 16)
        os.unlink(run_dir / "d" / "s")
        (run_dir / "d").rmdir()
        bound.remove()
        bound.sock.close()


class TestAbstract:
    """``@name``: no file."""

    def test_is_served_and_gone_with_its_socket(self) -> None:
        name = f"@clusterd-test-{os.getpid()}"
        bound = bind_unix(name, 0o600, 16)
        assert bound.file is None
        assert not bound.sock.getblocking()
        assert not bound.sock.get_inheritable()
        assert reaches("\0" + name[1:], bound.sock)
        with pytest.raises(HostError, match=f"{name}: it is already served by pid {os.getpid()}"):
            bind_unix(name, 0o600, 16)
        bound.remove()
        bound.sock.close()
        bind(name).close()

    def test_one_that_is_bound_and_does_not_listen_is_taken_too(self) -> None:
        name = f"@clusterd-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind("\0" + name[1:])
            bind(name).close()  # another type, another name space
        with socket.socket(socket.AF_UNIX) as other:
            other.bind("\0" + name[1:])
            with pytest.raises(HostError, match="it is already served; stop"):
                bind(name)
