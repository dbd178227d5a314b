"""From a listening socket to mailboxes: the turn, the bound, the wake-up, what a dead worker leaves, the close."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from clusterd.primary.box import Box
from clusterd.primary.dispatch import Dispatch
from clusterd.primary.loop import Loop
from clusterd.unix import mail, sockets
from clusterd.wire import mail as letters

DEADLINE = 10.0


class Scene:
    """One listener, some boxes, nobody who takes unless told to."""

    def __init__(self, boxes: int, backlog: int = 64, *, inherited: bool = False) -> None:
        self.listener = sockets.bind_tcp("127.0.0.1", 0, backlog)
        self.address = self.listener.getsockname()
        self.short: list[str] = []
        self.broken: list[int] = []
        self.dispatch = Dispatch(
            asyncio.get_running_loop(),
            "http",
            self.listener,
            self.short.append,
            self.broken.append,
            inherited=inherited,
        )
        self.inboxes: dict[int, mail.Inbox] = {}
        self.boxes: dict[int, Box] = {}
        self.clients: list[socket.socket] = []
        for worker in range(boxes):
            self.join(worker)

    def join(self, worker: int) -> None:
        writing, reading = mail.pair()
        self.boxes[worker] = Box(worker, mail.Outbox(writing))
        self.inboxes[worker] = mail.Inbox(reading)
        self.dispatch.add(self.boxes[worker])

    def connect(self, count: int) -> None:
        for _ in range(count):
            self.clients.append(socket.create_connection(self.address))

    def take(self, worker: int) -> int | None:
        """Take one connection out of a box; returns the client's port."""
        got = self.inboxes[worker].take()
        if got is None:
            return None
        assert got.fd is not None
        os.close(got.fd)
        return letters.unpack(got.payload).port

    def handed(self) -> list[int]:
        return [self.boxes[worker].handed for worker in sorted(self.boxes)]

    def close(self) -> None:
        self.dispatch.close(False, lambda: None)
        self.dispatch.discard()
        for box in self.boxes.values():
            box.outbox.close()
        for inbox in self.inboxes.values():
            for got in mail.drain(inbox):
                if got.fd is not None:
                    os.close(got.fd)
            inbox.close()
        for client in self.clients:
            client.close()


@contextmanager
def scene(boxes: int, backlog: int = 64, *, inherited: bool = False) -> Iterator[Scene]:
    made = Scene(boxes, backlog, inherited=inherited)
    try:
        yield made
    finally:
        made.close()


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until it is so; a deadline fails the test."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event: sockets and kernel queues
            await asyncio.sleep(0)


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, Loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "primary"], autouse=True)
def factory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is so on asyncio's own loop, which a program that becomes a primary may have, and on ours."""
    monkeypatch.setitem(globals(), "loop_factory", request.param)


loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def run(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(test())  # type: ignore[arg-type]


def test_connections_one_after_another_go_to_empty_boxes_in_turn() -> None:
    async def body() -> None:
        with scene(4) as s:
            for number in range(40):
                s.connect(1)
                await until(lambda: sum(s.handed()) == len(s.clients))
                assert s.take(number % 4) == s.clients[number].getsockname()[1]
            assert s.handed() == [10, 10, 10, 10]

    run(body)


@pytest.mark.timeout(30)
def test_a_socket_that_another_has_made_blocking_is_accepted_from_only_when_it_is_readable() -> None:
    async def body() -> None:
        with scene(4, inherited=True) as s:
            s.listener.setblocking(True)
            for count in range(1, 6):
                s.connect(4)
                await until(lambda: sum(s.handed()) == len(s.clients))
                for worker in range(4):
                    assert s.take(worker)
                assert s.handed() == [count] * 4

    run(body)


def test_a_burst_is_spread_evenly_and_a_second_message_goes_only_where_none_is_empty() -> None:
    async def body() -> None:
        with scene(4) as s:
            s.connect(6)
            await until(lambda: sum(s.handed()) == 6)
            assert sorted(s.handed()) == [1, 1, 2, 2]
            # One box is emptied: it is the only empty one, so it is next, wherever the turn stood.
            while s.take(3) is not None:
                pass
            before = s.handed()[3]
            s.connect(1)
            await until(lambda: sum(s.handed()) == 7)
            assert s.handed()[3] == before + 1

    run(body)


def test_when_every_box_is_full_nothing_is_accepted_and_the_kernel_keeps_the_rest() -> None:
    async def body() -> None:
        with scene(2) as s:
            s.connect(40)
            await until(lambda: all(box.outbox.full for box in s.boxes.values()))
            await until(lambda: sockets.accept_queue(s.listener.fileno())[0] == 40 - sum(s.handed()))
            held = sum(s.handed())
            assert held <= 2 * 6
            # One taken box is room again: the kernel says so, nobody polls.
            taken = 0
            while taken < 40:
                for worker in (0, 1):
                    if s.take(worker) is not None:
                        taken += 1
                await asyncio.sleep(0)
            assert sum(s.handed()) == 40

    run(body)


def test_a_worker_that_never_takes_does_not_stop_the_others() -> None:
    async def body() -> None:
        with scene(2) as s:
            for _ in range(60):
                s.connect(1)
                await until(lambda: sum(s.handed()) == len(s.clients))
                s.take(0)
            assert s.handed()[1] == 1, "its box was never empty again while the other's always was"

    run(body)


def test_what_a_dead_worker_had_not_taken_goes_to_others_in_order_and_before_new_connections() -> None:
    async def body() -> None:
        with scene(1) as s:
            s.connect(5)
            await until(lambda: s.handed() == [5])
            ports = [client.getsockname()[1] for client in s.clients]
            s.dispatch.remove(0)
            s.connect(1)
            assert s.dispatch.reclaim(mail.drain(s.inboxes[0])) == 5
            s.join(1)
            taken: list[int] = []
            async with asyncio.timeout(DEADLINE):
                while len(taken) < 6:
                    port = s.take(1)
                    if port is None:
                        await asyncio.sleep(0)
                    else:
                        taken.append(port)
            assert taken[:5] == ports

    run(body)


def test_without_a_box_connections_wait_in_the_kernel_for_the_first_worker() -> None:
    async def body() -> None:
        with scene(0) as s:
            s.connect(3)
            await asyncio.sleep(0)
            s.join(7)
            await until(lambda: s.boxes[7].handed == 3)

    run(body)


def test_a_box_whose_reader_shut_it_down_is_reported_and_its_connection_goes_to_another() -> None:
    async def body() -> None:
        with scene(2) as s:
            hostile = socket.socket(fileno=os.dup(s.inboxes[0].fileno()))
            hostile.shutdown(socket.SHUT_RDWR)
            hostile.close()
            s.connect(2)
            await until(lambda: s.boxes[1].handed == 2)
            assert s.broken == [0]

    run(body)


def test_closing_hands_on_what_the_kernel_had_accepted_and_refuses_who_comes_after() -> None:
    async def body() -> None:
        with scene(2) as s:
            s.connect(30)
            await until(lambda: all(box.outbox.full for box in s.boxes.values()))
            closed = asyncio.Event()
            s.dispatch.close(True, closed.set)
            taken = 0
            async with asyncio.timeout(DEADLINE):
                while not closed.is_set():
                    taken += sum(s.take(worker) is not None for worker in (0, 1))
                    await asyncio.sleep(0)
            for worker in (0, 1):
                while s.take(worker) is not None:
                    taken += 1
            assert taken == 30
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(s.address)

    run(body)


def test_closing_without_anybody_to_take_closes_at_once() -> None:
    async def body() -> None:
        with scene(0) as s:
            s.connect(2)
            closed = asyncio.Event()
            s.dispatch.close(True, closed.set)
            async with asyncio.timeout(DEADLINE):
                await closed.wait()
            assert s.listener.fileno() == -1

    run(body)


OUT_OF_DESCRIPTORS = """
import asyncio, os, resource, socket
from clusterd.primary.box import Box
from clusterd.primary.dispatch import Dispatch
from clusterd.unix import mail, sockets

async def body():
    listener = sockets.bind_tcp("127.0.0.1", 0, 64)
    said = []
    dispatch = Dispatch(asyncio.get_running_loop(), "http", listener, said.append, lambda worker: None)
    writing, reading = mail.pair()
    box, inbox = Box(1, mail.Outbox(writing)), mail.Inbox(reading)
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
    spare = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    while True:
        try:
            spare.append(os.dup(0))
        except OSError:
            break
    dispatch.add(box)
    turns = 0
    async with asyncio.timeout(10):
        while not said:
            await asyncio.sleep(0)
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begun + 0.35:
            await asyncio.sleep(0.01)
        assert len(said) == 1, said
        for fd in spare:
            os.close(fd)
        while box.handed == 0:
            await asyncio.sleep(0.01)
    print(said[0])

asyncio.run(body())
"""


def test_out_of_descriptors_it_says_so_once_does_not_spin_and_recovers_by_itself() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", OUT_OF_DESCRIPTORS], capture_output=True, text=True, timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "listener http: cannot accept connections: Too many open files" in done.stdout
    assert after.ru_utime - before.ru_utime < 3.0
