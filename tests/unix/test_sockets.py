"""Listening sockets, accepting, and what the kernel tells, on real sockets."""

import errno
import os
import resource
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.errors import HostError
from clusterd.unix import sockets
from tests.procfs import wait_for
from tests.unix.children import become_nobody, in_child, python, use_up_descriptors

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def connect(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "ipv6_only", "by_v4", "by_v6"),
    [
        ("127.0.0.1", None, True, False),
        ("0.0.0.0", None, True, False),
        ("localhost", None, True, False),
        ("::1", None, False, True),
        ("[::1]", None, False, True),
        ("::", None, True, True),
        ("[::]", None, True, True),
        ("[::]", True, False, True),
        ("[::]", False, True, True),
        ("", None, True, True),
        (None, None, True, True),
        (None, True, False, True),
    ],
)
def test_an_address_listens_where_it_says(host: str | None, ipv6_only: bool | None, by_v4: bool, by_v6: bool) -> None:
    with sockets.bind_tcp(host, 0, 16, ipv6_only=ipv6_only) as listener:
        port = listener.getsockname()[1]
        assert (connect("127.0.0.1", port), connect("::1", port)) == (by_v4, by_v6)
        assert not listener.getblocking()
        assert not listener.get_inheritable()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_an_international_name_is_looked_up_as_what_it_stands_for() -> None:
    with sockets.bind_tcp("\uff4cocalhost", 0, 16) as listener:  # with a full-width l
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


def test_a_taken_port_is_refused_with_the_name_and_pid_of_who_has_it() -> None:
    code = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
input()
"""
    holder = python(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    port = int(holder.stdout.readline())
    name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
    for host in ("127.0.0.1", "0.0.0.0", None):
        with pytest.raises(HostError) as caught:
            sockets.bind_tcp(host, port, 16)
        assert f":{port}: the port is in use by {name} (pid {holder.pid}); stop that process" in str(caught.value)
    holder.communicate(b"\n", timeout=10)
    assert sockets.port_holder(port) is None
    sockets.bind_tcp("127.0.0.1", port, 16).close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("203.0.113.1", "203.0.113.1:0: this machine has no such address"),
        ("2001:db8::1", r"\[2001:db8::1\]:0: this machine has no such address"),
        ("no such host.invalid", "no such host.invalid:0: no such host.invalid is no address of this machine"),
        ("1.2.3.4.5", "is no address of this machine"),
        ("a" * 300, "is no address of this machine"),
        ("\0", "cannot listen on"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_sentence(host: str, expected: str) -> None:
    with pytest.raises(HostError, match=expected):
        sockets.bind_tcp(host, 0, 16)


def test_a_port_that_is_none_is_one_sentence() -> None:
    for host in ("127.0.0.1", "localhost", None):
        for port in (-1, 65_536, 70_000, 1 << 70):
            with pytest.raises(HostError, match="a port is a number from 0 to 65535"):
                sockets.bind_tcp(host, port, 16)


def test_a_port_below_the_privileged_ones_is_explained_to_whoever_may_not_have_it() -> None:
    if sockets._first_free_port() <= 81:
        pytest.skip("every port is free for everybody here")

    def bind() -> str:
        become_nobody()
        with pytest.raises(HostError) as caught:
            sockets.bind_tcp("127.0.0.1", 81, 16)
        return str(caught.value)

    assert "need root or CAP_NET_BIND_SERVICE" in in_child(bind)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None), max_size=30).filter(lambda text: "." not in text))
def test_no_text_for_a_host_makes_anything_but_one_error(text: str) -> None:
    # No name may have a colon, so that the resolver does not ask the network.
    with pytest.raises(HostError, match=r"^cannot listen on "):
        sockets.bind_tcp(text + "::%", 0, 1).close()


def test_accepted_descriptors_are_bare_and_close_on_exec() -> None:
    with sockets.bind_tcp("127.0.0.1", 0, 16) as listener:
        assert sockets.accept(listener) is None
        with socket.create_connection(listener.getsockname()) as client:
            got = wait_for(lambda: sockets.accept(listener), 5, "the connection")
            assert got is not None
            fd, address = got
            assert address == client.getsockname()
            assert not os.get_inheritable(fd)
            os.close(fd)
        assert sockets.accept(listener) is None


def test_accepting_without_a_descriptor_left_says_so_and_the_connection_waits() -> None:
    with sockets.bind_tcp("127.0.0.1", 0, 16) as listener:

        def accept_without_room() -> list[Any]:
            client = socket.create_connection(listener.getsockname())
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            use_up_descriptors()
            with pytest.raises(OSError, match="Too many open files") as caught:
                sockets.accept(listener)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            again = sockets.accept(listener)
            client.close()
            return [caught.value.errno in sockets.EXHAUSTED, again is not None]

        assert in_child(accept_without_room) == [True, True]


def test_a_listener_that_is_closed_is_an_error_and_not_an_empty_queue() -> None:
    listener = sockets.bind_tcp("127.0.0.1", 0, 16)
    listener.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        sockets.accept(listener)
    assert caught.value.errno == errno.EBADF


def test_the_accept_queue_is_counted_and_bounded() -> None:
    with sockets.bind_tcp("127.0.0.1", 0, 7) as listener:
        assert sockets.accept_queue(listener.fileno()) == (0, 7)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        wait_for(lambda: sockets.accept_queue(listener.fileno()) == (3, 7), 5, "three connections in the queue")
        for client in clients:
            client.close()
    with socket.socket(type=socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="not"):
        sockets.accept_queue(other.fileno())


def test_the_kernels_own_figures_can_be_read() -> None:
    assert sockets.somaxconn() == int(Path("/proc/sys/net/core/somaxconn").read_text())
    before = sockets.listen_overflows()
    with sockets.bind_tcp("127.0.0.1", 0, 0) as listener:
        clients = []
        for _ in range(4):  # one waits; for the others there is no room
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            clients.append(client)
        wait_for(lambda: sockets.listen_overflows() > before, 5, "an overflow")
        for client in clients:
            client.close()


def test_what_was_sent_and_not_taken_is_counted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert sockets.outq(ours.fileno()) == 0
        ours.send(b"x" * 100)
        assert sockets.outq(ours.fileno()) >= 100
        theirs.recv(100)
        assert sockets.outq(ours.fileno()) == 0


def test_unread_is_true_for_data_an_end_and_a_connection() -> None:
    ours, theirs = socket.socketpair()
    assert not sockets.unread(ours.fileno())
    theirs.send(b"x")
    assert sockets.unread(ours.fileno())
    ours.recv(1)
    assert not sockets.unread(ours.fileno())
    theirs.close()
    assert sockets.unread(ours.fileno())
    ours.close()


def test_a_unix_peer_is_known_by_pid_and_user() -> None:
    ours, theirs = socket.socketpair()
    assert sockets.peer_credentials(ours) == (os.getpid(), os.getuid(), os.getgid())
    assert sockets.peer_groups(ours) == frozenset(os.getgroups())
    ours.close()
    theirs.close()
