"""What a service manager passes: read from the environment, checked, adopted."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.errors import HostError
from clusterd.unix import activation
from clusterd.unix.activation import Passed, adopt

pytestmark = pytest.mark.usefixtures("no_fd_leak")

MINE = str(os.getpid())


def said(**variables: str) -> dict[str, str]:
    return {f"LISTEN_{name}": value for name, value in variables.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, []),
        (said(FDS="2"), []),
        (said(PID=MINE), []),
        (said(PID=MINE, FDS="0"), []),
        (said(PID=MINE, FDS="0", FDNAMES=""), []),
        (said(PID=MINE, FDS="1"), [Passed(3)]),
        (said(PID=MINE, FDS="1", FDNAMES=""), [Passed(3)]),
        (said(PID=MINE, FDS="2"), [Passed(3), Passed(4)]),
        (said(PID=MINE, FDS="2", FDNAMES="http:shop.socket"), [Passed(3, "http"), Passed(4, "shop.socket")]),
        (said(PID=MINE, FDS="3", FDNAMES="a::a"), [Passed(3, "a"), Passed(4), Passed(5, "a")]),
        (said(PID=MINE, FDS="1", FDNAMES="a", PIDFDID="12345"), [Passed(3, "a")]),
    ],
)
def test_the_variables_are_read_and_taken_out(environ: dict[str, str], expected: list[Passed]) -> None:
    environ["LISTEN_OTHER"] = "kept"
    assert activation.take(environ) == activation.Activation(tuple(expected))
    assert environ == {"LISTEN_OTHER": "kept"}


def test_variables_of_another_process_are_ignored_and_that_is_said() -> None:
    environ = said(PID="1", FDS="1", FDNAMES="http")
    found = activation.take(environ)
    assert found.passed == ()
    assert found.ignored.startswith(f"LISTEN_PID is 1 and this process {MINE}, so the sockets passed are not used;")
    assert environ == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (said(PID="me", FDS="1"), "LISTEN_PID is 'me', where a number from 0 to"),
        (said(PID="-1", FDS="1"), "LISTEN_PID is '-1'"),
        (said(PID="", FDS="1"), "LISTEN_PID is ''"),
        (said(PID=MINE, FDS="-1"), "LISTEN_FDS is '-1'"),
        (said(PID=MINE, FDS="1 "), "LISTEN_FDS is '1 '"),
        (said(PID=MINE, FDS="٣"), "LISTEN_FDS is '٣'"),
        (said(PID=MINE, FDS="4097"), "LISTEN_FDS is '4097', where a number from 0 to 4096"),
        (said(PID=MINE, FDS="9" * 5000), "LISTEN_FDS is '999"),
        (said(PID=MINE, FDS="2", FDNAMES="one"), "LISTEN_FDNAMES has 1 names for 2 descriptors"),
        (said(PID=MINE, FDS="1", FDNAMES="one:two"), "LISTEN_FDNAMES has 2 names for 1 descriptors"),
        (said(PID=MINE, FDS="0", FDNAMES="one"), "LISTEN_FDNAMES has 1 names for 0 descriptors"),
    ],
)
def test_variables_that_make_no_sense_are_one_sentence_and_taken_out(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(HostError) as caught:
        activation.take(environ)
    assert str(caught.value).startswith(expected)
    assert environ == {}


@given(
    st.dictionaries(
        st.sampled_from(["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]),
        st.one_of(st.text(max_size=20), st.integers().map(str), st.just(MINE)),
    )
)
def test_no_environment_makes_anything_but_that_error(environ: dict[str, str]) -> None:
    try:
        found = activation.take(environ)
    except HostError:
        return
    assert [one.fd for one in found.passed] == [*range(3, 3 + len(found.passed))]


@contextmanager
def inherited(make: Callable[[], socket.socket]) -> Iterator[int]:
    """The number of a descriptor that could have come through an exec, as for blocking use."""
    with make() as original:
        original.setblocking(True)
        fd = os.dup(original.fileno())
        os.set_inheritable(fd, True)
        try:
            yield fd
        finally:
            os.close(fd)


PLACES = {
    socket.AF_INET: ("127.0.0.1", 0),
    socket.AF_INET6: ("::1", 0),
    socket.AF_UNIX: f"\0clusterd-test-{os.getpid()}",
}


def listening(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family)
    sock.bind(PLACES[family])
    sock.listen(5)
    return sock


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_a_listening_socket_is_made_our_own(family: socket.AddressFamily) -> None:
    with inherited(lambda: listening(family)) as fd:
        sock = adopt(fd, "descriptor 3")
        assert sock.fileno() == fd
        assert sock.family == family
        assert not sock.getblocking()
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
        assert not os.get_inheritable(fd)
        with pytest.raises(BlockingIOError):
            sock.accept()
        sock.detach()


def bound_only(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    sock = socket.socket()
    sock.bind(address)
    return sock


def test_a_bound_one_is_made_to_listen_where_that_is_asked_for() -> None:
    with inherited(bound_only) as fd:
        with pytest.raises(HostError, match=r"^descriptor 3 does not listen"):
            adopt(fd, "descriptor 3")
        sock = adopt(fd, "descriptor 3", backlog=7)
        with socket.create_connection(sock.getsockname()):
            pass
        sock.detach()


def connected() -> socket.socket:
    with listening() as listener:
        return socket.create_connection(listener.getsockname())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: socket.socket(type=socket.SOCK_DGRAM), "is a socket of type SOCK_DGRAM; one of SOCK_STREAM"),
        (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), "is a socket of type SOCK_SEQPACKET"),
        (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), "is a socket of type SOCK_RAW"),
        (socket.socket, "is bound to no address"),
        (lambda: socket.socket(socket.AF_UNIX), "is bound to no address"),
        (connected, "cannot listen: Invalid argument"),
    ],
    ids=["datagram", "seqpacket", "netlink", "unbound", "unbound unix", "connected"],
)
def test_what_is_no_listener_is_one_sentence_and_left_open(make: Callable[[], socket.socket], expected: str) -> None:
    with inherited(make) as fd:
        with pytest.raises(HostError) as caught:
            adopt(fd, "listener http: descriptor 3", backlog=5)
        assert f"listener http: descriptor 3 {expected}" in str(caught.value)
        os.fstat(fd)


def test_what_is_no_socket_says_what_it_is() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    with pytest.raises(HostError, match="is no socket but a pipe or FIFO"):
        adopt(reading, "descriptor 3")
    os.close(reading)
    os.close(writing)


def test_what_is_not_open_or_our_own_was_not_passed() -> None:
    with pytest.raises(HostError, match="descriptor 9999 is not open"):
        adopt(9999, "descriptor 9999")
    with listening() as own, pytest.raises(HostError, match="was not passed to this process"):
        adopt(own.fileno(), "descriptor 3")
