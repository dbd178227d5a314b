"""A channel on a stream: what is owed is written, what is left over is closed, a breach is told once."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from clusterd.errors import PeerError
from clusterd.wire.channel import Channel, Received, Returned
from clusterd.wire.conversation import Conversation

pytestmark = pytest.mark.usefixtures("no_fd_leak")


class Wire:
    """A stream that keeps what is written to it, or says that it is full."""

    def __init__(self) -> None:
        self.written: list[tuple[bytes, tuple[int, ...]]] = []
        self.unsent = 0
        self.closed = 0

    def write(self, data: bytes, fds: Sequence[int] = ()) -> bool:
        self.written.append((data, tuple(fds)))
        return True

    def pending(self) -> int:
        return self.unsent

    def close(self) -> None:
        self.closed += 1

    def text(self) -> bytes:
        return b"".join(data for data, _ in self.written)


class End:
    """A conversation and all that it tells."""

    def __init__(self, **limits: Any) -> None:
        self.heard: list[Received] = []
        self.broken: list[PeerError] = []
        self.returned: list[Returned] = []
        self.wire = Wire()
        self.talk = Conversation(Channel(**limits), self.heard.append, self.broken.append, self.returned.append)
        self.talk.attach(self.wire)


@pytest.fixture
def fd() -> Iterator[int]:
    """A descriptor that is closed by whoever is given it."""
    reading, writing = os.pipe()
    os.close(writing)
    yield reading
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_messages_are_written_and_heard() -> None:
    one, other = End(), End()
    assert one.talk.send({"a": 1})
    other.talk.data(one.wire.text(), [])
    assert [received.message for received in other.heard] == [{"a": 1}]


def test_what_is_sent_before_there_is_a_stream_goes_when_there_is_one() -> None:
    talk = Conversation(Channel(), lambda received: None, lambda error: None)
    talk.send("early")
    wire = Wire()
    talk.attach(wire)
    assert wire.text() == b'"early"\n'


def test_a_handle_is_acknowledged_and_its_sender_closes_its_copy(fd: int) -> None:
    one, other = End(), End()
    one.talk.send({"with": "handle"}, fd)
    data, fds = one.wire.written[0]
    assert fds == (fd,)
    other.talk.data(data, [os.dup(fd)])
    (received,) = other.heard
    assert received.fd is not None
    os.close(received.fd)
    one.talk.data(other.wire.text(), [])  # the acknowledgement


def test_a_handle_without_a_message_is_closed_at_the_end(fd: int) -> None:
    end = End()
    end.talk.data(b'"half', [fd])
    end.talk.close()


def test_a_breach_is_told_once_and_nothing_is_said_after_it(fd: int) -> None:
    end = End()
    end.talk.data(b'"before"\nno JSON\n', [fd])
    end.talk.data(b'"after"\n', [])
    end.talk.data(b"more", [])
    end.talk.send("into the void")
    assert [received.message for received in end.heard] == ["before"]
    assert len(end.broken) == 1
    assert end.wire.written == []
    end.talk.close()
    assert len(end.broken) == 1


def test_a_peer_that_does_not_read_is_a_breach_when_the_bound_is_reached() -> None:
    end = End(max_queued=10_000)
    end.wire.unsent = 9_990
    end.talk.send("x" * 100)
    assert len(end.broken) == 1


def test_a_handle_that_is_under_way_at_the_end_is_given_back() -> None:
    reading, writing = os.pipe()
    end = End()
    end.talk.send("one", reading)
    end.talk.send("two", writing)
    end.talk.close()
    assert [(handle.message, handle.attempts) for handle in end.returned] == [("one", 1), ("two", 0)]
    for handle in end.returned:
        os.close(handle.fd)


def test_closing_twice_closes_the_stream_once() -> None:
    end = End()
    end.talk.close()
    end.talk.close()
    assert end.wire.closed == 1
    assert end.talk.send("late") is False
