"""The accept queue of unix listeners, as the kernel tells it."""

import os
import socket
from pathlib import Path

import pytest

from clusterd.unix import sockets
from clusterd.unix.diag import unix_accept_queue
from clusterd.unix.local import bind_unix
from tests.unix.children import until_refused

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.mark.parametrize("queue", [unix_accept_queue, sockets.accept_queue])
@pytest.mark.parametrize("place", ["s", "@clusterd-test-diag"])
def test_it_is_counted_as_it_grows_and_shrinks(run_dir: Path, place: str, queue: object) -> None:
    assert callable(queue)
    path = place if place.startswith("@") else str(run_dir / place)
    with bind_unix(path, 0o600, 3).sock as listener:
        assert queue(listener.fileno()) == (0, 3)
        clients: list[socket.socket] = []

        def connect() -> None:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            clients[-1].connect(path.replace("@", "\0") if place.startswith("@") else path)

        for number in range(1, 4):
            connect()
            assert queue(listener.fileno()) == (number, 3)
        assert isinstance(until_refused(connect), BlockingIOError)
        assert queue(listener.fileno()) == (len(clients) - 1, 3)
        listener.accept()[0].close()
        assert queue(listener.fileno()) == (len(clients) - 2, 3)
        for client in clients:
            client.close()


def test_what_does_not_listen_has_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError, match="does not listen"):
        unix_accept_queue(ours.fileno())


def test_what_is_no_unix_socket_is_an_error() -> None:
    with sockets.bind_tcp("127.0.0.1", 0, 4) as listener, pytest.raises(FileNotFoundError):
        unix_accept_queue(listener.fileno())
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="socket"):
        sockets.accept_queue(reading)
    os.close(reading)
    os.close(writing)
