"""Both ends of the file by which a worker shows its stacks, with a real process that is blocked or not."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clusterd.primary import stacks
from clusterd.wire import stacks as wire

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_fd_leak")]

DEADLINE = 20.0

PROGRAM = """
import asyncio, os, sys, threading
from clusterd.worker import asgi, stacks

loop = {loop}
asyncio.set_event_loop(loop)
loop.add_signal_handler(15, loop.stop)  # as each worker does: from then on a signal wakes the loop
{arm}

async def inner_wait():
    await asyncio.get_running_loop().create_future()

async def outer_wait():
    await inner_wait()

async def turn():
    data = await loop.run_in_executor(None, sys.stdin.buffer.read, 1)
    os.write(1, data)
    await turn()

def spin():
    os.write(1, b"!")
    while True:
        pass

def hold():
    os.write(1, b"!")
    sum(range(10**15))  # C code that keeps the interpreter's lock

async def main():
    waiting = [asyncio.create_task(outer_wait(), name=f"shop's {{number}}") for number in range({tasks})]
    threading.Thread(target=threading.Event().wait, name="background", daemon=True).start()
    await asyncio.sleep(0)
    {then}
    os.write(1, b"!")
    await turn()

loop.run_until_complete(main())
"""


class Shown:
    """A process that shows its stacks, and the primary's end."""

    def __init__(self, process: "subprocess.Popen[bytes]", pidfd: int, ours: stacks.Stacks) -> None:
        self.process = process
        self.pidfd = pidfd
        self.stacks = ours

    async def ask(self) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stacks.ask(self.pidfd, answer.set_result)
        return await asyncio.wait_for(answer, DEADLINE)

    def turns(self) -> bool:
        """Whether its loop still turns, by an answer to a byte."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(b"?")
        self.process.stdin.flush()
        return bool(select.select([self.process.stdout], [], [], DEADLINE)[0]) and self.process.stdout.read(1) == b"?"


@asynccontextmanager
async def shown(
    then: str = "", *, loop: str = "asyncio.new_event_loop()", tasks: int = 1, arm: str = "stacks.arm({fd}, loop)"
) -> AsyncIterator[Shown]:
    fd = stacks.create()
    program = PROGRAM.format(loop=loop, then=then, tasks=tasks, arm=arm.format(fd=fd))
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", program], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    pidfd = os.pidfd_open(process.pid)
    ours = stacks.Stacks(asyncio.get_running_loop(), fd)
    try:
        assert process.stdout
        assert select.select([process.stdout], [], [], DEADLINE)[0]
        assert process.stdout.read(1) == b"!"
        yield Shown(process, pidfd, ours)
    finally:
        ours.close()
        ours.close()
        process.kill()
        process.communicate()
        os.close(pidfd)


@pytest.mark.parametrize("loop", ["asyncio.new_event_loop()", "asgi.new_event_loop()"])
def test_threads_and_tasks_are_shown_and_nothing_stops(loop: str) -> None:
    async def scenario() -> None:
        async with shown(loop=loop, tasks=2) as one:
            for _ in range(3):
                text = await one.ask()
                assert "in main" in text  # C's part
                assert "is background" in text
                assert "Tasks of the event loop: 3" in text
                order = [
                    text.index(part) for part in ("Task shop's 0", "in outer_wait", "in inner_wait", "Task shop's 1")
                ]
                assert order == sorted(order)
                assert "waits for Future" in text
                assert one.turns()

    asyncio.run(scenario())


def test_a_loop_that_is_blocked_by_python_is_shown_where_it_is() -> None:
    async def scenario() -> None:
        async with shown("spin()") as one:
            text = await one.ask()
            assert "in spin" in text
            assert "Task shop's 0" in text

    asyncio.run(scenario())


def test_c_code_that_holds_the_interpreter_is_shown_without_tasks() -> None:
    async def scenario() -> None:
        async with shown("hold()") as one:
            while "no tasks are shown" not in (text := await one.ask()):
                pass  # it was on its way there
            assert "in hold" in text
            assert "Task shop's" not in text
            assert "in hold" in await one.ask()

    asyncio.run(scenario())


def test_those_who_ask_at_the_same_time_get_one_answer() -> None:
    async def scenario() -> None:
        async with shown() as one:
            first, second = await asyncio.gather(one.ask(), one.ask())
            assert first == second
            assert first.count("Tasks of the event loop") == 1

    asyncio.run(scenario())


def test_one_that_has_no_handler_yet_is_not_ended_by_the_question() -> None:
    async def scenario() -> None:
        async with shown(arm="") as one:
            assert "shows no stacks" in await one.ask()
            assert one.turns()

    asyncio.run(scenario())


def test_a_stopped_process_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with shown() as one:
            one.process.send_signal(signal.SIGSTOP)
            assert "is stopped" in await one.ask()
            one.process.send_signal(signal.SIGCONT)
            assert one.turns()
            assert "Task shop's 0" in await one.ask()

    asyncio.run(scenario())


def test_more_than_the_file_holds_is_cut() -> None:
    async def scenario() -> None:
        async with shown(tasks=5000) as one:
            text = await one.ask()
            assert len(text.encode()) <= wire.STATE
            assert "and 4501 more" in text
            assert one.turns()

    asyncio.run(scenario())


def test_a_worker_that_ends_meanwhile_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        async with shown("hold()") as one:
            asked = asyncio.ensure_future(one.ask())
            await asyncio.sleep(0)
            one.process.kill()
            one.process.wait()
            one.stacks.close()
            await asked

    asyncio.run(scenario())


@pytest.mark.parametrize("garbage", [b"\xff" * wire.SIZE, b"\x1b[2J" * 10, b"\0" * 9 + b"x"])
def test_whatever_a_worker_writes_there_is_text_in_the_end(garbage: bytes) -> None:
    async def scenario() -> None:
        fd = stacks.create()
        theirs = os.dup(fd)
        ours = stacks.Stacks(asyncio.get_running_loop(), fd)
        pidfd = os.pidfd_open(os.getpid())
        told = asyncio.Event()
        signal.signal(wire.SIGNAL, lambda number, frame: os.pwrite(theirs, garbage, 0) and told.set())
        try:
            os.pwrite(theirs, wire.ARMED, wire.STATE)
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            ours.ask(pidfd, answer.set_result)
            assert isinstance(await asyncio.wait_for(answer, DEADLINE), str)
            assert told.is_set()
        finally:
            signal.signal(wire.SIGNAL, signal.SIG_DFL)
            ours.close()
            os.close(theirs)
            os.close(pidfd)

    asyncio.run(scenario())
