"""Packets with several descriptors between real sockets."""

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.unix import packets
from tests.unix.children import until_refused

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=packets.MAX_BYTES), st.integers(0, packets.MAX_FDS))
def test_a_packet_arrives_whole_with_its_descriptors_in_order(data: bytes, count: int) -> None:
    ours, theirs = packets.pair()
    files = [os.memfd_create("x") for _ in range(count)]
    packets.send(ours, data, files)
    got = packets.receive(theirs)
    assert got is not None
    assert (got.data, got.truncated) == (data, False)
    assert [os.fstat(fd).st_ino for fd in got.fds] == [os.fstat(fd).st_ino for fd in files]
    assert not any(os.get_inheritable(fd) for fd in got.fds)
    assert packets.receive(theirs) is None
    for fd in (*files, *got.fds):
        os.close(fd)
    ours.close()
    theirs.close()


def test_the_end_comes_after_the_packets() -> None:
    ours, theirs = packets.pair()
    packets.send(ours, b"last")
    ours.close()
    assert packets.receive(theirs) == packets.Packet(b"last", (), False)
    with pytest.raises(EOFError):
        packets.receive(theirs)
    with pytest.raises(BrokenPipeError):
        packets.send(theirs, b"x")
    theirs.close()


def test_a_full_pair_is_told_and_not_waited_for() -> None:
    ours, theirs = packets.pair()
    assert isinstance(until_refused(lambda: packets.send(ours, b"x" * packets.MAX_BYTES)), BlockingIOError)
    ours.close()
    theirs.close()


def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    ours, theirs = packets.pair()
    for data, fds in ((b"x" * (packets.MAX_BYTES + 1), []), (b"x", [0] * (packets.MAX_FDS + 1))):
        with pytest.raises(ValueError, match="a packet holds"):
            packets.send(ours, data, fds)
    assert packets.receive(theirs) is None
    ours.close()
    theirs.close()


def test_more_than_there_is_room_for_is_told_as_truncated() -> None:
    ours, theirs = packets.pair()
    socket.send_fds(ours, [b"x" * 70_000], [0] * 100)
    got = packets.receive(theirs)
    assert got is not None
    assert got.truncated
    assert len(got.fds) == packets.MAX_FDS
    for fd in got.fds:
        os.close(fd)
    ours.close()
    theirs.close()
