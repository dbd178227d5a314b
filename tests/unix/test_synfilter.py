"""A listener that lets no new client in while its queue can still be accepted."""

import socket

import pytest

from clusterd.unix import sockets, synfilter


def test_after_it_new_clients_wait_and_those_in_the_queue_are_still_accepted() -> None:
    listener = sockets.bind_tcp("127.0.0.1", 0, 8)
    with listener, socket.create_connection(listener.getsockname()) as early:
        if not synfilter.refuse_new(listener):
            pytest.fail("attaching a filter to a TCP socket needs CAP_NET_ADMIN here; run the tests with it")
        with socket.socket() as late:
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.connect(listener.getsockname())
            assert not sockets.unread(late.fileno()), "its handshake was dropped, not refused"
            accepted, _ = listener.accept()
            with accepted:
                early.sendall(b"x")
                accepted.setblocking(True)
                assert accepted.recv(1) == b"x"
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_a_unix_socket_has_no_handshake_to_drop() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        assert synfilter.refuse_new(listener) is False
