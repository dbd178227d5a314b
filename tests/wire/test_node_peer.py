"""Our channel against Node's own: the same bytes, descriptors and order, whatever is sent and lost."""

import array
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.wire.channel import ATTEMPTS, NATIVE, SERVER, SOCKET, Channel, Received, is_internal
from clusterd.wire.lines import MAX_DEPTH

pytestmark = [pytest.mark.needs("node"), pytest.mark.usefixtures("no_fd_leak")]

SCRIPT = Path(__file__).with_name("node_peer.js")
DEADLINE = 20.0


class NodePeer:
    """A Node process at the other end of a channel, and a blocking owner of this end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with theirs:
            environ = {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}
            self.process = subprocess.Popen(
                [shutil.which("node") or "node", str(SCRIPT)],
                env={**environ, "NODE_CHANNEL_FD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
            )
        self.socket = ours
        self.channel = Channel()
        self.heard: list[Received] = []
        self.lose_sent = 0  # how many descriptors to leave out of what we send
        self.lose_received = 0  # how many to leave out of what we got
        self.said: list[bytes] = []  # every read, as it came
        assert self.next().message == {"hello": self.process.pid}

    def flush(self) -> None:
        for data, fd in self.channel.outgoing():
            fds = [] if fd is None else [fd]
            if fds and self.lose_sent:
                self.lose_sent -= 1
                fds = []
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sent = self.socket.sendmsg([data], ancillary)
            if sent < len(data):  # even an empty send fails once Node has gone
                self.socket.sendall(data[sent:])

    def pump(self) -> bool:
        """One read; whether there was anything."""
        data, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw)
        if fds and self.lose_received:
            self.lose_received -= 1
            os.close(fds.pop())
        self.said.append(data)
        self.heard += self.channel.feed(data, fds.tolist())
        self.flush()
        return bool(data)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            assert self.pump(), "Node closed the channel"

    def next(self) -> Received:
        self.until(lambda: bool(self.heard))
        return self.heard.pop(0)

    def send(self, message: Any, fd: int | None = None, kind: str = NATIVE) -> None:
        self.channel.send(message, None if fd is None else os.dup(fd), kind)
        self.flush()

    def ask_back(self, message: Any, fd: int | None = None, kind: str = NATIVE) -> Received:
        self.send(message, fd, kind)
        return self.next()

    def close(self) -> None:
        self.socket.close()
        self.channel.close()
        strays = [*self.channel.stray(), *self.channel.released()]
        strays += [handle.fd for handle in self.channel.returned()]
        for fd in [*strays, *(message.fd for message in self.heard if message.fd is not None)]:
            os.close(fd)
        self.process.kill()
        self.process.wait(DEADLINE)


@pytest.fixture
def node() -> Iterator[NodePeer]:
    peer = NodePeer()
    yield peer
    peer.close()


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    served.setblocking(False)
    with client, served:
        client.settimeout(DEADLINE)
        yield client, served


texts = st.text(st.characters(), max_size=30)
javascript_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-(2**53), 2**53) | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts.filter(lambda key: key not in {"cmd", "finish", "__proto__"}), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(javascript_values, max_size=10))
def test_any_values_come_back_from_node_in_order(node: NodePeer, values: list[Any]) -> None:
    for value in values:
        node.channel.send(value)
    node.flush()
    assert [node.next() for _ in values] == [Received({"echo": value, "handle": None}) for value in values]


@pytest.mark.parametrize(
    "message", [{"cmd": "NODE_X"}, {"cmd": "NODE_"}, {"cmd": "NODE_é"}, {"cmd": "node_x"}, {"cmd": 7}, ["NODE_X"]]
)
def test_node_agrees_on_what_is_internal(node: NodePeer, message: object) -> None:
    name = "internal" if is_internal(message) else "echo"
    assert node.ask_back(message).message == {name: message, "handle": None}


def test_a_megabyte_of_split_characters_and_the_deepest_nesting_come_back(node: NodePeer) -> None:
    text = "é€😀" * 120_000
    assert node.ask_back(text).message["echo"] == text
    deep: list[object] = []
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    assert node.ask_back(deep).message["echo"] == deep


def test_a_connection_comes_back_as_what_it_was_sent_as(
    node: NodePeer, connection: tuple[socket.socket, socket.socket]
) -> None:
    client, served = connection
    for kind, name in ((NATIVE, "TCP"), (SOCKET, "Socket")):
        received = node.ask_back({"n": 1}, served.fileno(), kind)
        assert received.message == {"echo": {"n": 1}, "handle": name}
        assert received.kind == kind
        assert received.fd is not None
        with socket.socket(fileno=received.fd) as back:
            back.send(b"through node")
        assert client.recv(100) == b"through node"
        node.until(lambda: node.channel.settled)
        (fd,) = node.channel.released()
        os.close(fd)


def test_a_listening_socket_comes_back_as_a_server(node: NodePeer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        received = node.ask_back(None, listener.fileno(), SERVER)
        assert received.message == {"echo": None, "handle": "Server"}
        assert received.kind == SERVER
        assert received.fd is not None
        with socket.socket(fileno=received.fd) as back:
            assert back.getsockname() == listener.getsockname()


def test_messages_and_handles_in_one_row_come_back_in_one_row(
    node: NodePeer, connection: tuple[socket.socket, socket.socket]
) -> None:
    row = [(n, n % 3 == 0) for n in range(60)]
    for n, with_handle in row:
        node.channel.send(n, os.dup(connection[1].fileno()) if with_handle else None, NATIVE)
    node.flush()
    for n, with_handle in row:
        received = node.next()
        assert received.message == {"echo": n, "handle": "TCP" if with_handle else None}
        assert (received.fd is not None) is with_handle
        if received.fd is not None:
            os.close(received.fd)
    node.until(lambda: node.channel.settled)
    released = node.channel.released()
    assert len(released) == 20
    for fd in released:
        os.close(fd)
    assert node.channel.returned() == []


def test_a_handle_that_gets_lost_on_the_way_to_node_arrives_in_the_end(
    node: NodePeer, connection: tuple[socket.socket, socket.socket]
) -> None:
    node.lose_sent = ATTEMPTS - 1
    received = node.ask_back("lost and found", connection[1].fileno())
    assert received.message == {"echo": "lost and found", "handle": "TCP"}
    assert received.fd is not None
    os.close(received.fd)
    node.until(lambda: node.channel.settled)
    assert node.channel.returned() == []


def test_a_handle_that_never_reaches_node_comes_back_and_holds_up_nothing(
    node: NodePeer, connection: tuple[socket.socket, socket.socket]
) -> None:
    node.lose_sent = ATTEMPTS
    node.send("lost", connection[1].fileno())
    assert node.ask_back("after").message == {"echo": "after", "handle": None}
    (lost,) = node.channel.returned()
    assert (lost.message, lost.attempts) == ("lost", ATTEMPTS)
    os.close(lost.fd)


def test_node_sends_again_what_we_refuse_as_often_as_we_do(
    node: NodePeer, connection: tuple[socket.socket, socket.socket]
) -> None:
    node.lose_received = ATTEMPTS - 1
    received = node.ask_back("again", connection[1].fileno(), SOCKET)
    assert received.message == {"echo": "again", "handle": "Socket"}
    assert received.fd is not None
    os.close(received.fd)
    envelopes = b"".join(node.said).count(b'{"cmd":"NODE_HANDLE","type":"net.Socket"')
    assert envelopes == ATTEMPTS
    node.lose_received = ATTEMPTS
    node.send("never", connection[1].fileno(), SOCKET)
    assert node.next().message == {"warning": "SentHandleNotReceivedWarning"}


@pytest.mark.parametrize("who", ["we", "node"])
def test_node_leaves_with_0_whoever_ends_the_channel(node: NodePeer, who: str) -> None:
    if who == "we":
        node.socket.shutdown(socket.SHUT_RDWR)
    else:
        node.send({"finish": True})
        node.socket.settimeout(DEADLINE)
        while node.pump():
            pass
    assert node.process.wait(DEADLINE) == 0
