"""Mail of a blocked worker, with real boxes: it goes to who works, comes back to nobody twice, and is never lost."""

import asyncio
import os
import socket
from collections import Counter

import pytest

from clusterd.primary.box import Box
from clusterd.primary.dispatch import Dispatch
from clusterd.unix import mail, sockets
from clusterd.wire import mail as letters

DEADLINE = 10.0


class Worker:
    """Takes its mail at once while it works; counts ports and probes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, steal_after: float) -> None:
        writing, reading = mail.pair()
        self.loop = loop
        self.inbox = mail.Inbox(os.dup(reading))
        self.box = Box(number, mail.Outbox(writing), mail.Inbox(reading), steal_after)
        self.ports: list[int] = []
        self.probes = 0

    def work(self) -> None:
        self.loop.add_reader(self.inbox.fileno(), self._take)

    def block(self) -> None:
        self.loop.remove_reader(self.inbox.fileno())

    def _take(self) -> None:
        got = self.inbox.take()
        if got is None:
            return
        if got.fd is None:
            self.probes += 1
            return
        os.close(got.fd)
        self.ports.append(letters.unpack(got.payload).port)

    def close(self) -> None:
        self.block()
        self.inbox.close()
        self.box.outbox.close()
        assert self.box.inbox
        self.box.inbox.close()


async def until(condition: object) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - kernel queues have no event of ours
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("busy", [True, False], ids=["under load", "idle but for one connection"])
def test_what_a_blocked_worker_does_not_take_others_get_and_it_comes_back_when_it_takes_a_probe(busy: bool) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        listener = sockets.bind_tcp("127.0.0.1", 0, 512)
        stolen: list[int] = []
        dispatch = Dispatch(loop, "http", listener, pytest.fail, pytest.fail)
        dispatch.thief.on_steal = stolen.append
        workers = [Worker(loop, number, 0.02) for number in range(3)]
        for worker in workers:
            worker.work()
            dispatch.add(worker.box)
        workers[0].block()
        clients = []
        for _ in range(60 if busy else 1):
            clients.append(socket.create_connection(listener.getsockname()))
            await asyncio.sleep(0)
        if busy:
            await until(lambda: sum(len(worker.ports) for worker in workers) == 60)
        else:
            await until(lambda: sum(len(worker.ports) for worker in workers) == 1)
        assert workers[0].ports == []
        assert stolen
        assert set(stolen) == {0}
        assert workers[0].box.robbed
        workers[0].work()
        await until(lambda: not workers[0].box.robbed)
        for _ in range(6):
            clients.append(socket.create_connection(listener.getsockname()))
        await until(lambda: sum(len(worker.ports) for worker in workers) == len(clients))
        assert workers[0].ports
        taken = Counter(port for worker in workers for port in worker.ports)
        assert taken == Counter(client.getsockname()[1] for client in clients), "each once, none lost"
        dispatch.close(False, lambda: None)
        assert dispatch.discard() == 0
        for worker in workers:
            worker.close()
        for client in clients:
            client.close()

    asyncio.run(body())


def test_if_nobody_takes_mail_nobody_is_robbed() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        listener = sockets.bind_tcp("127.0.0.1", 0, 512)
        stolen: list[int] = []
        dispatch = Dispatch(loop, "http", listener, pytest.fail, pytest.fail)
        dispatch.thief.on_steal = stolen.append
        workers = [Worker(loop, number, 0.005) for number in range(3)]
        for worker in workers:
            dispatch.add(worker.box)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(9)]
        await until(lambda: sum(worker.box.handed for worker in workers) == 9)
        looks = [worker.box.posted[0] for worker in workers]
        await until(lambda: loop.time() > max(looks) + 0.1)
        assert stolen == []
        for worker in workers:
            worker.work()
        await until(lambda: [len(worker.ports) for worker in workers] == [3, 3, 3])
        dispatch.close(False, lambda: None)
        dispatch.discard()
        for worker in workers:
            worker.close()
        for client in clients:
            client.close()

    asyncio.run(body())


def test_a_primary_that_was_late_itself_blames_nobody_for_that_time() -> None:
    """Stopped with all others, or kept from its processor: nobody has looked, so nobody knows who would have taken."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        listener = sockets.bind_tcp("127.0.0.1", 0, 512)
        stolen: list[int] = []
        dispatch = Dispatch(loop, "http", listener, pytest.fail, pytest.fail)
        dispatch.thief.on_steal = stolen.append
        workers = [Worker(loop, number, 0.02) for number in range(2)]
        for worker in workers:
            dispatch.add(worker.box)
        fd = os.open(os.devnull, os.O_RDONLY)
        assert workers[0].box.outbox.post(letters.pack("127.0.0.1", 1, 0), fd) is mail.Posted.SENT
        os.close(fd)
        workers[0].box.posted.append(loop.time() - 0.4)
        workers[1].box.taken_at = loop.time() + 1.0
        before = loop.time()
        dispatch.thief.look()
        assert stolen == []
        assert workers[0].box.posted[0] > before - 0.02
        workers[1].work()
        dispatch.thief.arm()
        await until(lambda: stolen == [0])
        dispatch.close(False, lambda: None)
        dispatch.discard()
        for worker in workers:
            worker.close()

    asyncio.run(body())
