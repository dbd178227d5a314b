"""What a worker says of the mail it takes spares asking the kernel; what it may lie is bounded by its mailbox."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.primary.box import Box
from clusterd.primary.loop import Loop
from clusterd.unix import mail
from clusterd.wire import mail as letters
from clusterd.wire.rows import TAKEN_MAILBOXES, TAKEN_NS, WORDS
from tests.primary.test_dispatch import DEADLINE, Scene, scene, until


def rows(s: Scene) -> dict[int, memoryview]:
    """Give each box's worker a row to tell in."""
    found = {}
    for number, box in s.boxes.items():
        found[number] = memoryview(bytearray(WORDS * 8)).cast("Q")
        box.believe(found[number], 0)
    return found


def take(s: Scene, worker: int, row: memoryview) -> int | None:
    """Take one as a worker does, telling so; returns the client's port."""
    got = s.inboxes[worker].take()
    if got is None or got.fd is None:
        return None
    os.close(got.fd)
    letter = letters.unpack(got.payload)
    row[TAKEN_NS] = letter.accepted_ns
    return letter.port


async def handed(s: Scene, count: int) -> None:
    await until(lambda: sum(s.handed()) == count)


@given(st.lists(st.one_of(st.just(-1), st.integers(0, 2)), max_size=40))
def test_of_an_honest_worker_it_is_what_the_kernel_would_say(steps: list[int]) -> None:
    """-1 is a new connection, another number the worker that takes one: whoever is next is told by the kernel alone."""

    async def body() -> None:
        with scene(3) as s:
            told = rows(s)
            turn, count = 0, 0
            for step in steps:
                if step >= 0:
                    take(s, step, told[step])
                    continue
                order = [(turn + by) % 3 for by in range(3)]
                lying = [s.boxes[number].outbox.queued() for number in range(3)]
                room = [number for number in order if not s.boxes[number].outbox.full]
                if not room:
                    continue
                before, count = s.handed(), count + 1
                s.connect(1)
                await handed(s, count)
                chosen = next(number for number in range(3) if s.handed()[number] > before[number])
                assert chosen == min(room, key=lying.__getitem__)  # the first of those that hold least
                turn = (chosen + 1) % 3

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(body())


@given(st.lists(st.tuples(st.sampled_from(["last", "none", "ones", "first"]), st.booleans()), min_size=1, max_size=30))
def test_a_worker_that_lies_gets_no_more_than_its_box_holds_and_nothing_is_lost(
    lies: list[tuple[str, bool]],
) -> None:
    """It says of what it has not taken that it has, or anything else; the other is honest and takes, or does not."""

    async def body() -> None:
        with scene(2) as s:
            told = rows(s)
            ports: list[int] = []
            for lie, honest_takes in lies:
                values = {"last": s.boxes[0].last_ns, "none": 0, "ones": 2**64 - 1, "first": 1}
                told[0][TAKEN_NS] = max(0, values[lie])
                if honest_takes and (port := take(s, 1, told[1])) is not None:
                    ports.append(port)
                if not all(box.outbox.full for box in s.boxes.values()):
                    s.connect(1)
                    await handed(s, len(s.clients))
                assert s.boxes[0].outbox.queued() <= s.boxes[0].outbox.limit + 768, "the kernel's bound"
            # It is found out, and loses what it holds: nobody has been lost by it.
            s.dispatch.remove(0)
            s.dispatch.reclaim(mail.drain(s.inboxes[0]))
            async with asyncio.timeout(DEADLINE):
                while len(ports) < len(s.clients):
                    if (port := take(s, 1, told[1])) is not None:
                        ports.append(port)
                    else:
                        await asyncio.sleep(0)
            assert sorted(ports) == sorted(client.getsockname()[1] for client in s.clients)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(body())


def test_what_is_handed_on_out_of_turn_is_asked_of_the_kernel() -> None:
    """A letter that was read back is older than the last: that one being taken says nothing of it."""

    async def body() -> None:
        with scene(2) as s:
            told = rows(s)
            s.connect(2)
            await handed(s, 2)
            take(s, 0, told[0])
            s.dispatch.remove(1)
            s.dispatch.reclaim(mail.drain(s.inboxes[1]))
            assert s.boxes[0].outbox.queued(), "it lies there now"
            assert told[0][TAKEN_NS] != s.boxes[0].last_ns

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(body())


@pytest.mark.parametrize("number", [-1, TAKEN_MAILBOXES, TAKEN_MAILBOXES + 5])
def test_of_a_mailbox_without_a_word_and_of_a_row_that_has_ended_nothing_is_believed(number: int) -> None:
    writing, reading = mail.pair()
    box, inbox = Box(1, mail.Outbox(writing)), mail.Inbox(reading)
    row = memoryview(bytearray(WORDS * 8)).cast("Q")
    try:
        box.believe(row, number)
        assert box.words[box.word] != box.last_ns
        assert box.describe(0).number == -1, "nor by a successor"
        box.believe(row, 3)
        assert box.describe(0).number == 3
        box.doubt()
        row.release()
        assert box.words[box.word] != box.last_ns
    finally:
        box.outbox.close()
        inbox.close()
