"""The primary's loop: asyncio's in everything, and a listener's callback in between that costs no turn."""

import asyncio
import os
import selectors
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clusterd.primary.loop import Loop, Selector

DEADLINE = 10.0


def run(test: Callable[[Loop], Awaitable[None]]) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        async with asyncio.timeout(DEADLINE):
            await test(loop)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(body())


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def selector() -> Selector:
    def failed(error: BaseException) -> None:
        raise AssertionError from error

    return Selector(failed)


def test_a_served_descriptor_is_served_without_a_turn_until_it_asks_for_one() -> None:
    with pipe() as (reading, writing):
        made = selector()
        left = [5]

        def callback() -> bool:
            os.read(reading, 1)
            left[0] -= 1
            return left[0] == 0

        os.write(writing, bytes(5))
        made.serve(reading, callback)
        assert made.select(DEADLINE) == []
        assert left == [0]
        made.leave(reading)
        os.write(writing, b"x")
        assert made.select(0) == []
        assert left == [0]
        made.close()


def test_what_else_is_ready_is_told_at_once_however_busy_a_served_descriptor_is() -> None:
    with pipe() as (busy, filled), pipe() as (reading, writing):
        made = selector()
        calls = [0]

        def callback() -> bool:  # takes nothing: it is readable for ever
            calls[0] += 1
            return False

        os.write(filled, b"x")
        os.write(writing, b"x")
        made.serve(busy, callback)
        key = made.register(reading, selectors.EVENT_READ, "data")
        assert made.select(DEADLINE) == [(key, selectors.EVENT_READ)]
        made.unregister(reading)
        before = calls[0]
        assert made.select(0.05) == []  # and the timeout holds
        assert calls[0] > before
        made.close()


def test_a_turn_that_another_thread_asks_for_comes_while_a_descriptor_is_served() -> None:
    async def body(loop: Loop) -> None:
        with pipe() as (busy, filled):
            os.write(filled, b"x")
            loop.serve(busy, lambda: False)
            came = asyncio.Event()
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(came.set,))
            thread.start()
            await came.wait()
            await asyncio.sleep(0.01)  # timers go on too
            loop.leave(busy)
            thread.join()

    run(body)


def test_an_error_in_a_callback_is_told_and_ends_nothing() -> None:
    async def body(loop: Loop) -> None:
        with pipe() as (reading, writing):
            told: list[dict[str, Any]] = []
            loop.set_exception_handler(lambda _, context: told.append(context))

            def callback() -> bool:
                os.read(reading, 1)
                raise ValueError("no")

            os.write(writing, b"x")
            loop.serve(reading, callback)
            while not told:  # noqa: ASYNC110 - the handler is asyncio's, and plain
                await asyncio.sleep(0)
            assert isinstance(told[0]["exception"], ValueError)
            loop.leave(reading)

    run(body)


def test_streams_are_asyncios_and_end_as_they_do() -> None:
    async def body(loop: Loop) -> None:
        ended = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            writer.close()
            await writer.wait_closed()
            ended.set()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(1 << 20))  # more than the sockets hold: both ends wait to read and to write
        writer.write_eof()
        assert len(await reader.read()) == 1 << 20
        await ended.wait()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(body)


@pytest.mark.parametrize("kind", [Selector, selectors.EpollSelector])
def test_the_selector_is_as_the_standard_librarys(kind: type[selectors.BaseSelector]) -> None:
    made = selector() if kind is Selector else kind()
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        first = made.register(near, selectors.EVENT_READ, "one")
        assert (first.fd, first.events, first.data) == (near.fileno(), selectors.EVENT_READ, "one")
        assert made.get_key(near) == first
        assert list(made.get_map().values()) == [first]
        with pytest.raises(KeyError):
            made.register(near, selectors.EVENT_READ)
        assert made.select(0) == []
        both = made.modify(near, selectors.EVENT_READ | selectors.EVENT_WRITE, "two")
        assert made.select(0) == [(both, selectors.EVENT_WRITE)]
        far.send(b"x")
        assert made.select(0) == [(both, selectors.EVENT_READ | selectors.EVENT_WRITE)]
        made.modify(near, selectors.EVENT_READ, "three")
        far.close()  # a hang-up is told to who waits for anything
        assert [mask for _, mask in made.select(0)] == [selectors.EVENT_READ]
        near.close()
        assert made.unregister(near).data == "three"
        with pytest.raises((KeyError, ValueError)):
            made.unregister(near)
        with pytest.raises(KeyError):
            made.get_key(9999)
    made.close()


def test_a_hasty_reader_is_called_in_waiting_until_it_asks_for_a_turn_or_is_taken_out() -> None:
    with pipe() as (reading, writing):
        made = selector()
        made.register(reading, selectors.EVENT_READ, "reader")
        calls: list[bytes] = []

        def read() -> bool:
            calls.append(os.read(reading, 1))
            return calls[-1] == b"!"

        made.hasten(reading, read)
        os.write(writing, b"ab!c")
        assert made.select(DEADLINE) == []
        assert calls == [b"a", b"b", b"!"]
        made.unregister(reading)
        made.register(reading, selectors.EVENT_READ, "reader")
        assert [key.data for key, _ in made.select(DEADLINE)] == ["reader"]
        assert len(calls) == 3
        made.close()


def test_a_hasty_reader_waits_to_write_as_any_other() -> None:
    near, far = socket.socketpair()
    with near, far:
        made = selector()
        made.register(near, selectors.EVENT_READ, "both")
        made.hasten(near.fileno(), lambda: bool(near.recv(1)) and False)
        made.modify(near, selectors.EVENT_READ | selectors.EVENT_WRITE, "both")
        far.send(b"x")
        assert [(key.data, mask) for key, mask in made.select(DEADLINE)] == [("both", selectors.EVENT_WRITE)]
        made.close()


def test_a_hasty_reader_that_fails_is_told() -> None:
    told: list[BaseException] = []
    with pipe() as (reading, writing):
        made = Selector(told.append)
        made.register(reading, selectors.EVENT_READ, None)

        def fail() -> bool:
            os.read(reading, 1)
            raise ValueError("of its own")

        made.hasten(reading, fail)
        os.write(writing, b"x")
        assert made.select(DEADLINE) == []
        assert [str(error) for error in told] == ["of its own"]
        made.close()
