"""A socket that programs tell that they are ready."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.unix.notified import MAX_BYTES, Notified
from clusterd.unix.notify import Notifier

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def test_what_the_other_end_of_the_protocol_sends_is_read_with_its_sender() -> None:
    notified = Notified()
    notifier = Notifier({"NOTIFY_SOCKET": notified.address})
    assert notified.receive() is None
    assert notifier.send("READY=1", "STATUS=well")
    assert notified.receive() == (os.getuid(), ("READY=1", "STATUS=well"))
    assert notified.receive() is None
    notifier.close()
    notified.close()
    notified.close()
    assert notified.fileno() == -1


def test_a_barrier_is_answered_when_it_is_read() -> None:
    notified = Notified()
    notifier = Notifier({"NOTIFY_SOCKET": notified.address})
    reading, writing = os.pipe()
    assert notifier.send("BARRIER=1", fds=[writing])
    os.close(writing)
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    assert notified.receive() == (os.getuid(), ("BARRIER=1",))
    assert os.read(reading, 1) == b""
    os.close(reading)
    notifier.close()
    notified.close()


def test_a_successor_in_this_process_goes_on_with_it() -> None:
    first = Notified()
    second = Notified(os.dup(first.fileno()))
    first.close()
    notifier = Notifier({"NOTIFY_SOCKET": second.address})
    assert notifier.send("READY=1")
    assert second.receive() == (os.getuid(), ("READY=1",))
    notifier.close()
    second.close()


def test_another_user_is_told_apart() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to be somebody else")
    notified = Notified()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            Notifier({"NOTIFY_SOCKET": notified.address}).send("READY=1")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert notified.receive() == (65534, ("READY=1",))
    notified.close()


@given(st.binary(max_size=3 * MAX_BYTES))
def test_any_bytes_are_read_and_too_many_say_nothing(data: bytes) -> None:
    notified = Notified()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, f"\0{notified.address[1:]}")
    uid, lines = notified.receive() or (-2, ())
    assert uid == os.getuid()
    assert (lines == ()) if len(data) > MAX_BYTES else (lines == tuple(data.decode("utf-8", "replace").splitlines()))
    notified.close()
