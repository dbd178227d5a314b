"""Connections past a channel's queue: several on their way; answers mean the same by the short and the long way."""

import os
from collections.abc import Container, Sequence
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.wire.channel import Channel, Received
from clusterd.wire.conversation import Conversation

HEAD = b'{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":"k","seq":'
ACK = b'{"cmd":"NODE_HANDLE_ACK"}\n'
NACK = b'{"cmd":"NODE_HANDLE_NACK"}\n'


def yes(seq: int) -> bytes:
    return b'{"cmd":"NODE_CLUSTER","ack":%d,"accepted":true,"seq":9}\n' % seq


class Slow(Channel):
    """Knows no short way."""

    def accepted(self, data: bytes, among: Container[int]) -> tuple[list[int], int]:
        return [], 0


class Wire:
    """A stream that keeps what is written to it."""

    def __init__(self) -> None:
        self.written: list[tuple[bytes, bool]] = []
        self.takes = True

    def write(self, data: bytes, fds: Sequence[int] = ()) -> bool:
        self.written.append((data, bool(fds)))
        return True

    def write_now(self, data: bytes, fd: int) -> bool:
        if self.takes:
            self.written.append((data, True))
        return self.takes

    def pending(self) -> int:
        return 0

    def close(self) -> None:
        pass


class End:
    """A conversation and all that it tells."""

    def __init__(self, kind: type[Channel] = Channel) -> None:
        self.heard: list[Received] = []
        self.broken: list[str] = []
        self.answers: list[tuple[int, bool]] = []
        self.wire = Wire()
        self.talk = Conversation(kind(seq=count(1)), self.heard.append, self._broke)
        self.talk.attach(self.wire)

    def _broke(self, error: PeerError) -> None:
        self.broken.append(str(error))

    def _answered(self, seq: int, accepted: bool) -> bool:
        self.answers.append((seq, accepted))
        return False

    def post(self) -> int | None:
        return self.talk.ask_at_once(HEAD, b"}}\n", self._answered, 0)


@pytest.mark.parametrize("kind", [Channel, Slow])
def test_several_are_on_their_way_and_each_is_answered(kind: type[Channel]) -> None:
    end = End(kind)
    assert [end.post() for _ in range(3)] == [1, 2, 3]
    assert end.wire.written == [(HEAD + b"%d}}\n" % seq, True) for seq in (1, 2, 3)]
    assert not end.talk.quiet
    assert not end.talk.channel.settled
    assert end.talk.data(ACK + yes(1) + ACK + ACK + yes(3) + yes(2), []) is (kind is Slow)
    assert end.answers == [(1, True), (3, True), (2, True)]
    assert end.talk.channel.settled
    assert end.talk.channel.quiet


def test_one_that_did_not_arrive_is_refused_and_the_others_are_not() -> None:
    end = End()
    first, second, third = (end.post() for _ in range(3))
    end.talk.data(ACK + NACK + ACK, [])
    assert end.answers == [(second, False)]
    end.talk.data(yes(third or 0) + yes(first or 0) + yes(second or 0), [])
    assert end.answers == [(second, False), (third, True), (first, True)]


def test_a_handle_waits_for_those_that_went_ahead_and_they_for_it() -> None:
    end = End()
    assert end.post() == 1
    assert end.post() == 2
    reading, writing = os.pipe()
    os.close(writing)
    end.talk.send("with a handle", reading)
    end.talk.send("behind it")
    assert len(end.wire.written) == 2  # one flight of acknowledgements could not be told from the other
    assert end.post() is None
    end.talk.data(ACK, [])
    assert len(end.wire.written) == 2
    end.talk.data(yes(1) + yes(2) + ACK, [])
    assert b"with a handle" in end.wire.written[2][0]
    assert len(end.wire.written) == 3
    end.talk.data(ACK, [])
    assert b"behind it" in end.wire.written[3][0]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    assert end.post() is not None


def test_what_the_kernel_does_not_take_now_was_not_asked() -> None:
    end = End()
    end.wire.takes = False
    assert end.post() is None
    assert end.talk.quiet


PIECES = st.lists(
    st.one_of(
        st.sampled_from([ACK, NACK, b'{"a":1}\n', b"\n", b'{"cmd":"NODE_CLUSTER","ack":2,"accepted":false,"seq":1}\n']),
        st.integers(0, 6).map(yes),
        st.binary(max_size=4),
    ),
    max_size=16,
)


@given(PIECES, st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_mean_the_same_by_the_short_way(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    told = []
    for kind in (Channel, Slow):
        end = End(kind)
        for _ in range(4):
            end.post()
        for start, stop in pairwise(edges):
            end.talk.data(data[start:stop], [])
        channel = end.talk.channel
        told.append((end.answers, end.heard, end.broken, channel.settled, channel.quiet, end.wire.written))
    assert told[0] == told[1]
