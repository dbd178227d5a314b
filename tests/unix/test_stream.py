"""Streams with descriptors between two ends in one loop, and against peers that break off."""

import array
import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.unix import stream
from clusterd.unix.stream import FdStream
from tests.unix.children import become_nobody, in_child, until_refused

pytestmark = pytest.mark.usefixtures("no_fd_leak")

uvloop.new_event_loop().close()  # its library opens a pipe once in a process's life, which is no leak


def run(main: Callable[[], Coroutine[Any, Any, Any]], factory: Callable[[], Any] = asyncio.new_event_loop) -> Any:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(main(), 10))


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], Any]:
    factory: Callable[[], Any] = request.param
    return factory


class End:
    """A stream that keeps what it got, as bytes, inodes of descriptors and a count of ends."""

    def __init__(self, sock: socket.socket, *, tells_truncation: bool = True, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.reads: list[int] = []
        self.inodes: list[int] = []
        self.truncated = 0
        self.lost = 0
        self.ends = 0
        self.changed = asyncio.Event()
        if tells_truncation:
            options["on_truncated"] = self.got_truncated
        self.stream = FdStream(self.loop, sock, self.got_data, self.got_end, **options)

    def got_data(self, data: bytes, fds: list[int]) -> None:
        self.data += data
        self.reads.append(len(data))
        for fd in fds:
            if fd == stream.LOST:
                self.lost += 1
                continue
            assert not os.get_inheritable(fd)
            self.inodes.append(os.fstat(fd).st_ino)
            os.close(fd)
        self.changed.set()

    def got_truncated(self) -> None:
        self.truncated += 1

    def got_end(self) -> None:
        self.ends += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def plain_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def fill(sock: FdStream) -> int:
    """Write until the kernel takes no more; how much was given."""
    given_bytes = 0
    while not sock.pending():
        assert sock.write(b"x" * 65536)
        given_bytes += 65536
    return given_bytes


chunks = st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.integers(0, stream.MAX_FDS)), max_size=20)


@settings(max_examples=50, deadline=None)
@given(chunks)
def test_bytes_and_descriptors_arrive_complete_and_in_order(written: list[tuple[bytes, int]]) -> None:
    async def main() -> None:
        ours, theirs = map(End, plain_pair())
        inodes = []
        for data, count in written:
            files = [os.memfd_create("x") for _ in range(count)]
            inodes += [os.fstat(fd).st_ino for fd in files]
            assert ours.stream.write(data, files)
            for fd in files:
                os.close(fd)  # the stream has what it needs
        expected = b"".join(data for data, _ in written)
        await theirs.until(lambda: len(theirs.data) == len(expected))
        assert bytes(theirs.data) == expected
        assert theirs.inodes == inodes
        ours.stream.close()
        await theirs.until(lambda: theirs.ends == 1)
        theirs.stream.close()
        assert (ours.ends, theirs.ends, theirs.truncated) == (0, 1, 0)

    run(main)


@given(chunks)
@settings(max_examples=30, deadline=None)
def test_what_is_unsent_goes_on_from_another_process_s_end(written: list[tuple[bytes, int]]) -> None:
    """The descriptor and what is unsent are all that it takes, as over execve(2)."""

    async def main() -> None:
        near, far = plain_pair()
        ours = End(near)
        before = fill(ours.stream)
        inodes = []
        for data, count in written:
            files = [os.memfd_create("x") for _ in range(count)]
            inodes += [os.fstat(fd).st_ino for fd in files]
            assert ours.stream.write(data, files)
            for fd in files:
                os.close(fd)
        left = [(data, [*map(os.dup, fds)]) for data, fds in ours.stream.unsent()]
        successor = End(near.dup())
        ours.loop.remove_writer(ours.stream.fileno())
        pending = ours.stream.pending()
        ours.stream._drop_queue()  # that process has become another: nothing of it is sent any more
        ours.stream.close()
        for data, fds in left:
            successor.stream.take_up(data, fds)
        assert successor.stream.pending() == pending
        theirs = End(far)
        expected = b"x" * before + b"".join(data for data, _ in written)
        await theirs.until(lambda: len(theirs.data) == len(expected))
        assert bytes(theirs.data) == expected
        assert theirs.inodes == inodes
        successor.stream.close()
        theirs.stream.close()

    run(main)


def test_much_more_than_the_kernel_holds_arrives_with_its_descriptors_in_bounded_reads(
    loop_factory: Callable[[], Any],
) -> None:
    async def main() -> None:
        ours, theirs = map(End, plain_pair())
        inodes = []
        for _ in range(40):
            fd = os.memfd_create("x")
            inodes.append(os.fstat(fd).st_ino)
            assert ours.stream.write(os.urandom(100_000), [fd])
            os.close(fd)
        assert ours.stream.pending() > 0
        await theirs.until(lambda: len(theirs.data) == 4_000_000)
        assert theirs.inodes == inodes
        assert max(theirs.reads) <= stream.READ_SIZE
        assert ours.stream.pending() == 0
        ours.stream.close()
        theirs.stream.close()

    run(main, loop_factory)


def test_both_ends_may_flood_each_other(loop_factory: Callable[[], Any]) -> None:
    async def main() -> None:
        ends = [End(sock) for sock in plain_pair()]
        for end in ends:
            for number in range(30):
                assert end.stream.write(bytes([number]) * 50_000)
        for end in ends:
            await end.until(lambda end=end: len(end.data) == 1_500_000)  # type: ignore[misc]
            assert bytes(end.data) == b"".join(bytes([number]) * 50_000 for number in range(30))
            end.stream.close()

    run(main, loop_factory)


def test_the_last_words_of_a_peer_that_left_arrive_before_the_end_although_writing_failed(
    loop_factory: Callable[[], Any],
) -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock)
        peer.send(b"last words" * 10_000)
        peer.close()
        assert not end.stream.write(b"too late")
        assert end.ends == 0, "not from within the write"
        await end.until(lambda: end.ends > 0)
        assert len(end.data) == 100_000
        assert not end.stream.write(b"still too late")
        await asyncio.sleep(0)
        assert end.ends == 1
        end.stream.close()

    run(main, loop_factory)


def test_a_peer_that_left_with_unread_data_is_one_end_and_what_it_sent_is_kept() -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock)
        assert end.stream.write(b"never read")
        peer.send(b"last words")
        peer.close()  # ECONNRESET here
        await end.until(lambda: end.ends > 0)
        assert bytes(end.data) == b"last words"
        end.stream.close()

    run(main)


def test_a_peer_that_takes_nothing_any_more_is_an_end_although_it_is_open() -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock)
        peer.shutdown(socket.SHUT_RD)
        peer.send(b"word")
        assert not end.stream.write(b"x")
        await end.until(lambda: end.ends > 0)
        assert bytes(end.data) == b"word"
        assert end.stream.ended
        end.stream.close()
        peer.close()

    run(main)


def test_a_queue_that_waits_ends_with_the_peer_and_its_descriptors_are_closed() -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock)
        fill(end.stream)
        fd = os.memfd_create("x")
        for _ in range(3):
            assert end.stream.write(b"with a file", [fd])
        os.close(fd)
        peer.close()
        await end.until(lambda: end.ends > 0)
        assert end.stream.pending() == 0
        end.stream.close()

    run(main)


def test_the_last_words_of_a_peer_known_to_be_dead_can_be_had_at_once() -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock)
        end.stream.read_now()
        assert (bytes(end.data), end.ends) == (b"", 0)
        fd = os.memfd_create("x")
        socket.send_fds(peer, [b"x" * 100_000], [fd])
        peer.close()
        end.stream.read_now()
        assert (len(end.data), end.inodes, end.ends) == (100_000, [os.fstat(fd).st_ino], 1)
        os.close(fd)
        end.stream.read_now()
        await asyncio.sleep(0)
        assert end.ends == 1
        end.stream.close()

    run(main)


def test_closing_gives_the_kernel_what_it_takes_and_drops_the_rest() -> None:
    async def main() -> None:
        ours, theirs = plain_pair()
        end = End(ours)
        given_bytes = fill(end.stream)
        in_the_kernel = given_bytes - end.stream.pending()
        fd = os.memfd_create("x")
        for _ in range(10):
            assert end.stream.write(b"x" * 100_000, [fd])
        os.close(fd)
        room = len(theirs.recv(100_000))  # the loop had no turn to notice
        end.stream.close()
        end.stream.close()
        assert end.stream.fileno() == -1
        assert not end.stream.write(b"x")
        received = room
        while data := theirs.recv(1 << 20):
            received += len(data)
        assert in_the_kernel < received < given_bytes + 1_000_000
        theirs.close()
        await asyncio.sleep(0)
        assert end.ends == 0

    run(main)


def test_a_peer_that_does_not_read_is_bounded() -> None:
    async def main() -> None:
        ours, theirs = plain_pair()
        end = End(ours, limit=200_000)
        accepted = 0
        while end.stream.write(b"x" * 10_000):
            accepted += 10_000
        assert end.stream.pending() <= 200_000
        assert not end.stream.ended
        theirs.setblocking(False)
        received = 0
        while received < accepted:
            received += len(await asyncio.get_running_loop().sock_recv(theirs, 1 << 20))
        assert end.stream.pending() == 0
        assert end.stream.write(b"again")
        end.stream.close()
        theirs.close()

    run(main)


def send_many(sock: socket.socket, count: int) -> None:
    files = [os.memfd_create("x") for _ in range(count)]
    sock.sendmsg([b"many"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
    for fd in files:
        os.close(fd)


def test_lost_descriptors_are_told_before_the_data_they_belonged_to() -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock)
        send_many(peer, stream.MAX_FDS)
        await end.until(lambda: bytes(end.data) == b"many")
        assert (end.truncated, len(end.inodes)) == (0, stream.MAX_FDS)
        send_many(peer, 253)
        await end.until(lambda: bytes(end.data) == b"manymany")
        assert (end.truncated, end.lost) == (1, 1)
        assert len(end.inodes) == 2 * stream.MAX_FDS
        end.stream.close()
        peer.close()

    run(main)


def test_lost_descriptors_end_a_stream_whose_owner_does_not_want_to_know() -> None:
    async def main() -> None:
        sock, peer = plain_pair()
        end = End(sock, tells_truncation=False)
        send_many(peer, 100)
        await end.until(lambda: end.ends == 1)
        assert end.data == b""
        end.stream.close()
        peer.close()

    run(main)


def test_an_owner_may_close_in_every_callback() -> None:
    async def main() -> None:
        for where in ("on_truncated", "on_data", "on_eof"):
            sock, peer = plain_pair()
            closed = asyncio.Event()
            streams: list[FdStream] = []

            def close(*_: Any, streams: list[FdStream] = streams, closed: asyncio.Event = closed) -> None:
                streams[0].close()
                closed.set()

            def ignore(*arguments: Any) -> None:
                for fd in arguments[1] if len(arguments) > 1 else ():
                    os.close(fd)

            callbacks = {"on_data": ignore, "on_eof": ignore, "on_truncated": ignore} | {where: close}
            streams.append(FdStream(asyncio.get_running_loop(), sock, **callbacks))  # type: ignore[arg-type]
            if where == "on_truncated":
                send_many(peer, 100)
            else:
                peer.send(b"x")
            peer.close()
            await closed.wait()
            await asyncio.sleep(0)

    run(main)


def test_a_bad_descriptor_is_the_writers_error_and_nothing_is_sent() -> None:
    async def main() -> None:
        ours, theirs = plain_pair()
        end = End(ours)
        gone = os.memfd_create("x")
        os.close(gone)
        with pytest.raises(OSError, match="Bad file descriptor"):
            end.stream.write(b"x", [gone])
        with pytest.raises(ValueError, match="travel with a byte"):
            end.stream.write(b"", [0])
        assert end.stream.write(b"")
        fill(end.stream)
        pending = end.stream.pending()
        with pytest.raises(OSError, match="Bad file descriptor"):
            end.stream.write(b"x", [gone])
        assert end.stream.pending() == pending
        assert not end.stream.ended
        end.stream.close()
        theirs.close()

    run(main)


def test_the_flags_of_other_holders_do_not_matter() -> None:
    async def main() -> None:
        ours, theirs = plain_pair()
        end = End(ours)
        os.set_blocking(end.stream.fileno(), True)
        fill(end.stream)
        end.stream.close()
        theirs.close()

    run(main)


def test_too_many_descriptors_in_flight_are_sent_later_by_timer() -> None:
    def flood() -> list[int]:
        become_nobody()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        async def main() -> list[int]:
            # Another pair holds as many in flight as the limit allows, and more.
            hoard, hoarded = plain_pair()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 20))]
            assert until_refused(lambda: hoard.sendmsg([b"x"], rights)).errno == errno.ETOOMANYREFS
            ours, theirs = map(End, plain_pair())
            assert ours.stream.write(b"with a file", [0])
            waiting = ours.stream.pending()
            assert ours.stream.write(b" and after it")
            hoard.close()
            hoarded.close()
            await theirs.until(lambda: len(theirs.data) == 24)
            ours.stream.close()
            theirs.stream.close()
            return [waiting, len(theirs.inodes), ours.ends]

        result: list[int] = run(main)
        return result

    assert in_child(flood) == [11, 1, 0]
