"""Connections over a worker's control channel: who holds them until they are accepted, who gets what is not."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from clusterd.primary.loop import Loop
from clusterd.primary.newconn import Newconn
from clusterd.unix.mail import Mail, Posted
from clusterd.unix.stream import FdStream
from clusterd.wire import mail as letters
from clusterd.wire import messages
from clusterd.wire.channel import Channel, Received
from clusterd.wire.conversation import Conversation

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 10.0


class Pair:
    """A ``Newconn`` and its worker, on one loop; the worker answers when it is told to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        near, far = socket.socketpair()
        self.refused: list[Mail] = []
        self.rooms = 0
        self.asked: list[Received] = []
        self.takes = 1_000  # descriptors that arrive; the others are lost, as by a worker that has no number left
        self.talk = Conversation(Channel(), lambda message: None, lambda error: None)
        self.talk.attach(FdStream(loop, near, self.talk.data, lambda: None))
        self.peer = Conversation(Channel(), self.asked.append, lambda error: None)
        self.peer.attach(FdStream(loop, far, self._heard, lambda: None))
        self.newconn = Newconn(loop, self.talk, "k", self._room, self.refused.append)

    def _heard(self, data: bytes, fds: list[int]) -> None:
        arrived, lost = fds[: self.takes], fds[self.takes :]
        self.takes -= len(arrived)
        for fd in lost:
            os.close(fd)
        self.peer.data(data, arrived)

    def _room(self) -> bool:
        self.rooms += 1
        return False

    def post(self) -> tuple[socket.socket, Posted]:
        """A connection handed over; the client's end."""
        client, ours = socket.socketpair()
        posted = self.newconn.post(b"letter", ours.fileno())
        if posted is Posted.SENT:
            ours.detach()
        ours.close()
        return client, posted

    def hand(self, address: object, now: int) -> socket.socket:
        """As :meth:`post`, the short way."""
        client, ours = socket.socketpair()
        try:
            self.newconn.hand(ours.fileno(), address, now)
        except OSError:
            client.close()
            ours.close()
            raise
        ours.detach()
        return client

    def answer(self, received: Received, accepted: bool) -> None:
        message = messages.read(received.message)
        assert isinstance(message, messages.NewConn)
        assert message.key == "k"
        assert received.fd is not None
        os.close(received.fd)
        self.peer.send(messages.accepted(message.seq, accepted))

    def close(self) -> None:
        self.newconn.close()
        for mail in [*self.newconn.take_back(), *self.refused]:
            os.close(mail.fd or 0)
        for received in self.asked:
            os.close(received.fd or 0)
        self.talk.close()
        self.peer.close()


def run(test: Callable[[Pair], Awaitable[None]], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def body() -> None:
        pair = Pair(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(DEADLINE):
                await test(pair)
        finally:
            pair.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(body())


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  # what is waited for is a state of three objects
        await asyncio.sleep(0.001)


LOOPS = pytest.mark.parametrize("loop", [Loop, asyncio.new_event_loop])


@LOOPS
def test_several_are_on_their_way_up_to_a_bound(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(pair: Pair) -> None:
        clients = []
        for _ in range(pair.newconn.limit):
            client, posted = pair.post()
            assert posted is Posted.SENT
            clients.append(client)
        client, posted = pair.post()
        assert posted is Posted.FULL
        assert pair.newconn.full
        client.close()
        await until(lambda: len(pair.asked) == pair.newconn.limit)
        while pair.asked:
            pair.answer(pair.asked.pop(), True)
        await until(lambda: not pair.newconn.queued())
        assert pair.rooms == 1
        assert pair.newconn.answered == pair.newconn.limit
        for client in clients:  # nobody holds its other end any more
            with client:
                assert client.recv(1) == b""

    run(test, loop)


@LOOPS
def test_what_is_refused_comes_back_open_and_the_worker_is_left_alone(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(pair: Pair) -> None:
        client, _ = pair.post()
        with client:
            await until(lambda: pair.asked)
            pair.answer(pair.asked.pop(), False)
            await until(lambda: pair.refused)
            assert pair.newconn.full
            other, posted = pair.post()
            other.close()
            assert posted is Posted.FULL
            os.write(pair.refused[0].fd or 0, b"still open")
            assert client.recv(32) == b"still open"
        await until(lambda: pair.rooms)
        assert not pair.newconn.full

    run(test, loop)


@LOOPS
def test_what_a_worker_that_is_gone_had_not_accepted_is_taken_back_open(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(pair: Pair) -> None:
        clients = [pair.post()[0] for _ in range(3)]
        await until(lambda: len(pair.asked) == 3)
        pair.answer(pair.asked.pop(0), True)
        await until(lambda: pair.newconn.answered)
        pair.newconn.close()
        left = pair.newconn.take_back()
        assert len(left) == 2
        assert not pair.newconn.queued()
        for mail, client in zip(left, clients[1:], strict=True):
            os.write(mail.fd or 0, b"x")
            assert client.recv(1) == b"x"
            os.close(mail.fd or 0)
        for client in clients:
            client.close()

    run(test, loop)


@LOOPS
def test_one_that_was_accepted_just_now_goes_the_short_way_and_comes_back_with_its_letter(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(pair: Pair) -> None:
        clients = [pair.hand(("192.0.2.7", 4711), 99), pair.hand(("192.0.2.8", 4712), 100), pair.hand("", 101)]
        assert pair.newconn.emptied != [101]
        await until(lambda: len(pair.asked) == 3)
        assert {flown[1:2] for flown in pair.newconn.describe().flying} == {
            (letters.pack("192.0.2.7", 4711, 99),),
            (letters.pack("192.0.2.8", 4712, 100),),
            (letters.pack("", 0, 101),),
        }
        pair.answer(pair.asked.pop(0), True)
        pair.answer(pair.asked.pop(0), False)
        await until(lambda: pair.newconn.answered and pair.refused)
        assert [mail.payload for mail in pair.refused] == [letters.pack("192.0.2.8", 4712, 100)]
        (left,) = pair.newconn.take_back()
        assert left.payload == letters.pack("", 0, 101)
        os.close(left.fd or 0)
        for client in clients:
            client.close()

    run(test, loop)


@LOOPS
def test_it_tells_that_nothing_is_on_its_way_of_the_last_that_was_handed_and_of_no_other(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(pair: Pair) -> None:
        for now in (7, 8):
            pair.hand(("192.0.2.7", 4711), now).close()
        await until(lambda: len(pair.asked) == 2)
        pair.answer(pair.asked.pop(0), True)
        await until(lambda: pair.newconn.answered == 1)
        assert pair.newconn.emptied[0] not in (7, 8)
        pair.answer(pair.asked.pop(0), True)
        await until(lambda: pair.newconn.answered == 2)
        assert pair.newconn.emptied == [8]
        pair.hand(("192.0.2.7", 4711), 9).close()
        await until(lambda: pair.asked)
        pair.answer(pair.asked.pop(0), False)
        await until(lambda: pair.refused)
        assert pair.newconn.emptied[0] not in (8, 9)  # left alone for a while, though nothing is on its way

    run(test, loop)


@LOOPS
def test_the_short_way_refuses_what_the_long_one_would(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(pair: Pair) -> None:
        for _ in range(pair.newconn.limit):
            pair.hand(("192.0.2.7", 4711), 7).close()
        with pytest.raises(BlockingIOError):
            pair.hand(("192.0.2.7", 4711), 8)
        await until(lambda: len(pair.asked) == pair.newconn.limit)
        while pair.asked:
            pair.answer(pair.asked.pop(), True)
        await until(lambda: not pair.newconn.queued())
        pair.newconn.close()
        with pytest.raises(BlockingIOError):
            pair.hand(("192.0.2.7", 4711), 9)

    run(test, loop)


def test_behind_a_handle_it_takes_its_turn() -> None:
    async def test(pair: Pair) -> None:
        reading, writing = os.pipe()
        os.close(writing)
        pair.talk.send("a handle first", reading)
        client, posted = pair.post()
        assert posted is Posted.SENT
        await until(lambda: len(pair.asked) == 2)
        assert pair.asked[0].message == "a handle first"
        pair.answer(pair.asked.pop(), True)
        await until(lambda: pair.newconn.answered)
        with client:
            assert client.recv(1) == b""

    run(test, Loop)


@LOOPS
def test_behind_a_handle_and_never_taken_it_is_refused_and_leaves_no_place_behind(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(pair: Pair) -> None:
        reading, writing = os.pipe()
        os.close(writing)
        pair.takes = 1
        pair.talk.send("a handle first", reading)
        client, posted = pair.post()
        assert posted is Posted.SENT
        await until(lambda: pair.refused)
        assert [received.message for received in pair.asked] == ["a handle first"]
        with client:
            os.write(pair.refused[0].fd or 0, b"still open")
            assert client.recv(32) == b"still open"
        await until(lambda: pair.rooms)
        assert pair.newconn.queued() == 0

    run(test, loop)
