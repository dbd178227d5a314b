"""The channel under any bytes, any cutting and any interleaving, with real descriptors that must not leak."""

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clusterd.errors import PeerError
from clusterd.wire.arrivals import LOST
from clusterd.wire.channel import ATTEMPTS, NATIVE, Channel, Outgoing, Received, is_internal
from clusterd.wire.flights import WINDOW
from clusterd.wire.lines import encode
from clusterd.wire.messages import online
from tests.procfs import open_descriptors

pytestmark = pytest.mark.usefixtures("no_fd_leak")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
).filter(lambda value: not is_internal(value))


def new_descriptor() -> int:
    """A real one, all its own."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.close(writer)
    return reader


def identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


@contextmanager
def nothing_left_open() -> Iterator[None]:
    before = open_descriptors().keys()
    yield
    left = open_descriptors().keys() - before
    assert not left, f"left open: {left}"


def close_all(channel: Channel, received: Sequence[Received] = ()) -> None:
    """What an owner does at the end, as the channel's text has it."""
    channel.close()
    for fd in (*channel.stray(), *channel.released(), *(handle.fd for handle in channel.returned())):
        os.close(fd)
    for message in received:
        if message.fd is not None:
            os.close(message.fd)


fragments = st.one_of(
    st.binary(max_size=30),
    json_values.map(encode),
    st.sampled_from(
        [
            b'{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":"k","seq":1}}\n',
            b'{"cmd":"NODE_HANDLE","type":7}\n',
            b'{"cmd":"NODE_HANDLE_ACK"}\n',
            b'{"cmd":"NODE_HANDLE_NACK"}\n',
            b'{"cmd":"NODE_CLUSTER","ack":0}\n',
            b'{"cmd":"NODE_CLUSTER","ack":true}\n',
            b'{"cmd":"NODE_',
            b"\n",
            b'"\\ud800"\n',
            b"[" * 400 + b"]" * 400 + b"\n",
            b"x" * 600,
        ]
    ),
)


@settings(deadline=None)
@given(st.lists(st.tuples(fragments, st.integers(0, 3)), max_size=12), st.booleans())
def test_any_bytes_give_messages_or_a_peer_error_and_every_descriptor_is_accounted_for(
    pieces: list[tuple[bytes, int]], handle_in_flight: bool
) -> None:
    with nothing_left_open():
        channel = Channel(max_line=512, max_queued=4096)
        received: list[Received] = []
        if handle_in_flight:
            channel.ask({"cmd": "NODE_CLUSTER", "act": "newconn"}, new_descriptor())
        raised: list[PeerError | None] = []
        for data, fds in pieces:
            try:
                received += channel.feed(data, [new_descriptor() for _ in range(fds)])
                channel.outgoing()
                raised.append(None)
            except PeerError as error:
                raised.append(error)
        assert raised == sorted(raised, key=lambda error: error is not None), "a dead channel spoke again"
        assert set(raised) <= {None, channel.broken}
        close_all(channel, received)


messages = st.lists(st.tuples(json_values, st.booleans()), max_size=8)


@settings(deadline=None)
@given(messages, st.lists(st.integers(1, 60), min_size=1))
def test_values_and_handles_survive_any_cutting(said: list[tuple[Any, bool]], sizes: list[int]) -> None:
    with nothing_left_open():
        cuts = cycle(sizes)
        a, b = Channel(), Channel()
        received: list[Received] = []
        sent: list[tuple[int, int] | None] = []
        for value, with_handle in said:
            fd = new_descriptor() if with_handle else None
            sent.append(None if fd is None else identity(fd))
            a.send(value, fd)
        while pieces := a.outgoing():
            for piece in pieces:
                rest, fds = piece.data, [] if piece.fd is None else [os.dup(piece.fd)]
                while rest:
                    size = next(cuts)
                    received += b.feed(rest[:size], fds)
                    rest, fds = rest[size:], []
            for piece in b.outgoing():
                a.feed(piece.data)
        assert [message.message for message in received] == [value for value, _ in said]
        assert [None if message.fd is None else identity(message.fd) for message in received] == sent
        assert a.settled
        close_all(a)
        close_all(b, received)


class Wire:
    """One direction of a stream socket: at most one descriptor a write, reads that stop behind one (unix(7))."""

    def __init__(self) -> None:
        self.chunks: deque[tuple[bytes, int | None]] = deque()

    def write(self, piece: Outgoing, lose: bool) -> None:
        fd = None if piece.fd is None else LOST if lose else os.dup(piece.fd)
        self.chunks.append((piece.data, fd))

    def read(self, size: int) -> tuple[bytes, list[int]]:
        data = b""
        fds: list[int] = []
        while self.chunks and size and not fds:
            chunk, fd = self.chunks.popleft()
            if fd is not None:
                fds = [fd]
            data += chunk[:size]
            if chunk[size:]:
                self.chunks.appendleft((chunk[size:], None))
            size -= len(chunk[:size])
        return data, fds

    def close(self) -> None:
        for _, fd in self.chunks:
            if fd is not None and fd != LOST:
                os.close(fd)


class TwoEnds(RuleBasedStateMachine):
    """Two channels back to back: nothing is lost, doubled or overtaken, whatever is read when and however often handles
    fail to arrive, as long as no handle fails as often as it is tried; and whoever has said that it is one of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.before = open_descriptors().keys()
        self.ends = [Channel(), Channel()]
        self.wires = [Wire(), Wire()]  # by writer
        self.said: list[list[tuple[Any, tuple[int, int] | None]]] = [[], []]  # by writer
        self.heard: list[list[tuple[Any, tuple[int, int] | None]]] = [[], []]  # by reader
        self.failures: Counter[tuple[int, int]] = Counter()  # by what did not arrive

    def flush(self, end: int, lose: bool = False) -> None:
        for piece in self.ends[end].outgoing():
            loses = lose and piece.fd is not None and self.failures[identity(piece.fd)] < ATTEMPTS - 1
            if loses:
                self.failures[identity(piece.fd or 0)] += 1
            self.wires[end].write(piece, loses)

    def pump(self, end: int, size: int) -> None:
        data, fds = self.wires[1 - end].read(size)
        for message in self.ends[end].feed(data, fds):
            if message.internal:
                continue
            self.heard[end].append((message.message, None if message.fd is None else identity(message.fd)))
            if message.fd is not None:
                os.close(message.fd)

    @rule(end=st.integers(0, 1), value=json_values, handle=st.booleans())
    def send(self, end: int, value: Any, handle: bool) -> None:
        fd = new_descriptor() if handle else None
        self.said[end].append((value, None if fd is None else identity(fd)))
        self.ends[end].send(value, fd, NATIVE)

    @rule(end=st.integers(0, 1))
    def is_ours(self, end: int) -> None:
        self.ends[end].send(online(WINDOW))

    @rule(end=st.integers(0, 1), lose=st.booleans())
    def write(self, end: int, lose: bool) -> None:
        self.flush(end, lose)

    @precondition(lambda self: self.wires[0].chunks or self.wires[1].chunks)
    @rule(end=st.integers(0, 1), size=st.integers(1, 200))
    def read(self, end: int, size: int) -> None:
        self.pump(end, size)

    @invariant()
    def what_was_heard_was_said_in_this_order(self) -> None:
        for end in (0, 1):
            assert self.heard[1 - end] == self.said[end][: len(self.heard[1 - end])]

    @invariant()
    def descriptors_are_released_once_the_other_end_has_them(self) -> None:
        for end in self.ends:
            for fd in end.released():
                os.close(fd)
            for fd in end.stray():  # it came behind one that did not, and will come again
                os.close(fd)
            assert end.returned() == []

    def teardown(self) -> None:
        for _ in range(10 * (2 + len(self.said[0]) + len(self.said[1]))):
            for end in (0, 1):
                self.flush(end)
            for end in (0, 1):
                while self.wires[1 - end].chunks:
                    self.pump(end, 1 << 16)
        for end in (0, 1):
            assert self.heard[1 - end] == self.said[end]
            assert self.ends[end].settled
            close_all(self.ends[end])
            self.wires[end].close()
        assert open_descriptors().keys() == self.before


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
