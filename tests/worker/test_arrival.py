"""The way in to a connection: a header is taken to the byte, whatever the pieces it comes in; nobody waits for it."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.wire.proxy import MAX_V2, Header
from clusterd.worker import arrival as module
from clusterd.worker.arrival import Arrival, Complaints
from clusterd.worker.options import Door

DEADLINE = 10.0
HEADERS = [
    b"PROXY UNKNOWN\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.9 51234 443\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x09\xc8\x22\x01\xbb",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x20\xc0\x00\x02\x07\xc6\x33\x64\x09\xc8\x22\x01\xbb" + b"t" * 20,
]


class Guest:
    """The connection's protocol."""

    told: Header | None = None


class Token:
    """Counts how often it is given back."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> None:
        self.reads += 1


class Way:
    """One connection, seen from both ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, door: Door) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.guest, self.token = Guest(), Token()
        self.entered: list[float] = []
        self.failed: list[str] = []
        self.arrival = Arrival(loop, self.near, door, self.token, self.guest, self.entered.append, self.failed.append)
        self._loop = loop

    def until(self, done: Callable[[], object], deadline: float = DEADLINE) -> None:
        """Turns the loop until that is so."""
        end = self._loop.time() + deadline
        while not done():
            assert self._loop.time() < end
            self._loop.run_until_complete(asyncio.sleep(0))

    def rest(self) -> bytes:
        """What is left in the socket."""
        self.near.setblocking(True)
        self.far.shutdown(socket.SHUT_WR)
        data = b""
        while part := self.near.recv(65536):
            data += part
        return data


@contextmanager
def way(door: Door) -> Iterator[Way]:
    loop = asyncio.new_event_loop()
    made = Way(loop, door)
    try:
        yield made
    finally:
        made.arrival.stop("")
        made.near.close()
        made.far.close()
        loop.close()


@given(
    header=st.sampled_from(HEADERS),
    behind=st.binary(max_size=3000),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_a_header_is_taken_to_the_byte_in_whatever_pieces_it_comes(
    header: bytes, behind: bytes, cuts: list[int]
) -> None:
    data = header + behind
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    with way(Door("http", proxy=True)) as one:
        one.arrival.go()
        for begin, end in pairwise(places):
            one.far.sendall(data[begin:end])
            if not one.entered:
                one.arrival.go()  # as the loop would call it
        one.until(lambda: one.entered)
        assert not one.failed
        assert one.guest.told is not None
        assert one.guest.told.size == len(header)
        assert one.token.reads
        assert one.rest() == behind


@given(data=st.binary(min_size=1, max_size=400))
def test_nothing_that_comes_does_more_than_fail_its_own_connection(data: bytes) -> None:
    with way(Door("http", proxy=True)) as one:
        one.far.sendall(data)
        one.far.shutdown(socket.SHUT_WR)
        one.arrival.go()
        one.until(lambda: one.entered or one.failed)
        assert len(one.entered) + len(one.failed) == 1
        assert len(data) <= MAX_V2 + 400


def test_without_a_header_the_first_byte_opens_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with way(Door("http")) as one:
        one.arrival.go()
        assert not one.entered
        assert not one.arrival.begun
        one.far.sendall(b"\x16")
        one.until(lambda: one.entered)
        assert one.token.reads == 1
        assert one.rest() == b"\x16"


@pytest.mark.parametrize(("sent", "why"), [(b"", ""), (b"PROXY ", "the PROXY header was not complete after 0.05 s")])
def test_who_does_not_get_on_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch, sent: bytes, why: str) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with way(Door("http", proxy=True)) as one:
        one.far.sendall(sent)
        one.arrival.go()
        one.until(lambda: one.failed)
        assert one.failed == [why]
        assert not one.entered
        one.far.sendall(b"UNKNOWN\r\n")
        one.arrival.stop("again")
        assert one.failed == [why], "told once"


def test_complaints_are_few(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    complaints = Complaints()
    with caplog.at_level(logging.WARNING, "clusterd"):
        for _ in range(1000):
            complaints.tell("http", "garbage")
        now += module.TELL_EVERY
        complaints.tell("http", "more of it")
    assert len(caplog.messages) == 2
    assert "1000 since the last such message" in caplog.messages[1]
