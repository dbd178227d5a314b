"""A conversation that is set down and taken up, at any moment, means the same as one that never was."""

import os
from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.wire.channel import Channel
from clusterd.wire.conversation import Conversation
from clusterd.wire.suspended import Suspended, Unsent, suspend, take_up
from tests.wire.test_ahead import ACK, NACK, End, yes

pytestmark = pytest.mark.usefixtures("no_fd_leak")

HANDLE = b'{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"a":1}}\n'


class Handed(End):
    """An end whose process is another one after each ``hand_on``."""

    def __init__(self) -> None:
        super().__init__()
        self.open: set[int] = set()
        self.seq = 1

    def post(self) -> int | None:
        seq = super().post()
        self.open |= {seq} if seq is not None else set()
        return seq

    def _answered(self, seq: int, accepted: bool) -> bool:
        self.open.discard(seq)
        return super()._answered(seq, accepted)

    def hand_on(self) -> Suspended:
        document = msgspec.msgpack.encode(suspend(self.talk, ()))
        left = msgspec.msgpack.decode(document, type=Suspended)
        self.seq = next(self.talk.channel._seq)  # as the primary's own handover has it
        self.talk = Conversation(Channel(seq=count(self.seq)), self.heard.append, self._broke)
        take_up(self.talk, left)
        for seq in self.open:
            self.talk.expect(seq, self._answered)
        self.talk.attach(self.wire)
        return left


def null() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def do(end: End, step: object) -> None:
    match step:
        case "post":
            end.post()
        case "say":
            end.talk.send({"said": [1, 1 << 80]})
        case "handle":
            end.talk.send({"with": "a handle", "big": 1 << 80}, null())
        case ("come", bytes(data)):
            end.talk.data(data, [null()])
        case bytes():
            end.talk.data(step, [])


OURS = b'{"cmd":"NODE_CLUSTER","act":"online","handles":4}\n'
BEHIND = HANDLE.replace(b"}}\n", b'},"behind":true}\n')
PIECE = st.sampled_from([ACK, ACK, NACK, HANDLE, BEHIND, OURS, b'{"a":', b"1}\n", b"7\n", *map(yes, range(1, 6))])
STEPS = st.lists(
    st.sampled_from(["post", "say", "handle"])
    | PIECE
    | st.tuples(st.just("come"), PIECE)
    | st.tuples(PIECE, PIECE).map(b"".join),
    max_size=20,
)


@given(STEPS, st.sets(st.integers(0, 20)))
def test_it_goes_on_as_if_nothing_had_been(steps: list[object], handed_on_before: set[int]) -> None:
    told = []
    for end in (End(), Handed()):
        for number, step in enumerate(steps):
            if isinstance(end, Handed) and number in handed_on_before:
                end.hand_on()
            do(end, step)
        end.talk.close()
        for received in end.heard:
            if received.fd is not None:
                os.close(received.fd)
        heard = [received._replace(fd=received.fd is not None) for received in end.heard]
        told.append((end.answers, heard, end.broken, end.wire.written))
    assert told[0] == told[1]


def test_all_its_descriptors_are_named() -> None:
    end = Handed()
    first, second, third = null(), null(), null()
    end.talk.send("in flight", first)
    end.talk.send("waits", second)
    end.talk.data(b'{"cmd":"NODE', [third])
    assert suspend(end.talk, ()).descriptors() == {first, second, third}
    assert suspend(end.talk, [(b"x", (99,))]).descriptors() == {first, second, third, 99}
    assert suspend(end.talk, [(b"x", (99,))]).unsent == (Unsent(b"x", (99,)),)
    end.talk.close()


def test_a_peer_that_is_broken_stays_so_and_is_told_once() -> None:
    end = Handed()
    end.talk.data(b"no json\n", [])
    assert len(end.broken) == 1
    end.hand_on()
    assert str(end.talk.channel.broken) == end.broken[0]
    assert not end.talk.send("for nobody")
    assert len(end.broken) == 1
