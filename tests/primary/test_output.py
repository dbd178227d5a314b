"""What processes print: line by line, bounded, the last lines kept, and the loop never held up by it."""

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.primary import output

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 5.0


class Reader:
    """A pipe, its reader, and what that told."""

    def __init__(self, keep: int = 3) -> None:
        reading, self.held, self.writing = output.pipe()
        self.lines: list[str] = []
        self.kept: deque[str] = deque(maxlen=keep)
        self.changed = asyncio.Event()
        self.output = output.Output(asyncio.get_running_loop(), reading, "stdout", self.told, self.kept)

    def told(self, stream: str, line: str) -> None:
        assert stream == "stdout"
        self.lines.append(line)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), DEADLINE)

    def end(self) -> None:
        self.output.close()
        os.close(self.held)
        if self.writing >= 0:
            os.close(self.writing)


def play(scene: Callable[[Reader], Awaitable[None]]) -> None:
    async def main() -> None:
        reader = Reader()
        try:
            await scene(reader)
        finally:
            reader.end()

    asyncio.run(main())


def test_lines_are_told_however_they_are_cut() -> None:
    async def scene(reader: Reader) -> None:
        for piece in (b"one\ntw", b"o\r\n\xff\n", b"\n", b"rest"):
            os.write(reader.writing, piece)
        await reader.until(lambda: len(reader.lines) == 4)
        assert reader.lines == ["one", "two", "\\xff", ""]
        reader.output.finish()
        assert reader.lines[4:] == ["rest"]
        assert list(reader.kept) == ["\\xff", "", "rest"]

    play(scene)


def test_an_overlong_line_is_told_in_pieces() -> None:
    async def scene(reader: Reader) -> None:
        os.write(reader.writing, b"x" * 20_000 + b"\n")
        await reader.until(lambda: sum(map(len, reader.lines)) == 20_000)
        assert max(map(len, reader.lines)) <= output.MAX_LINE

    play(scene)


def test_a_flood_of_empty_lines_lets_others_have_their_turn() -> None:
    async def scene(reader: Reader) -> None:
        turns: list[int] = []

        def turn() -> None:
            turns.append(len(reader.lines))
            if len(reader.lines) < 60_000:
                asyncio.get_running_loop().call_soon(turn)

        os.write(reader.writing, b"\n" * 60_000)
        turn()
        await reader.until(lambda: len(reader.lines) == 60_000)
        assert max(after - before for before, after in pairwise(turns)) <= output.LINES_A_TURN
        os.write(reader.writing, b"and on\n")
        await reader.until(lambda: reader.lines[-1] == "and on")

    play(scene)


def test_last_words_are_bounded_and_the_last_of_them_are_told() -> None:
    async def scene(reader: Reader) -> None:
        os.write(reader.writing, b"".join(b"%d\n" % number for number in range(10_000)))
        reader.output.finish()
        assert reader.lines[0] == f"… {10_000 - output.LAST_LINES} lines left out …"
        assert reader.lines[1:] == [str(number) for number in range(10_000 - output.LAST_LINES, 10_000)]
        assert list(reader.kept) == ["9997", "9998", "9999"]

    play(scene)


def test_end_of_file_closes_it() -> None:
    async def scene(reader: Reader) -> None:
        os.write(reader.writing, b"no newline")
        os.close(reader.writing)
        reader.writing = -1
        await reader.until(lambda: reader.lines == ["no newline"])

    play(scene)


def test_the_workers_own_reading_end_shares_no_flags_with_ours() -> None:
    async def scene(reader: Reader) -> None:
        os.set_blocking(reader.held, True)
        os.set_blocking(reader.writing, False)
        os.write(reader.writing, b"still here\n")
        await reader.until(lambda: reader.lines == ["still here"])
        flags = fcntl.fcntl(reader.held, fcntl.F_GETFD)
        assert flags & fcntl.FD_CLOEXEC

    play(scene)


def test_who_prints_without_end_is_cut_short_and_it_is_told_where_and_how_much() -> None:
    async def scene(reader: Reader) -> None:
        reader.output._budget.spend(1e6)  # others have used it up
        os.set_blocking(reader.writing, False)
        written = 0
        while written < 200_000 and not reader.lines:
            try:
                written += os.write(reader.writing, b"".join(b"%d\n" % line for line in range(5000)))
            except BlockingIOError:
                await asyncio.sleep(0)
        reader.output._budget = output.Budget(asyncio.get_running_loop().time)  # they have become quiet
        os.set_blocking(reader.writing, True)
        await reader.until(lambda: any("left out" in line for line in reader.lines))
        os.write(reader.writing, b"the end\n")
        await reader.until(lambda: reader.lines[-1] == "the end")
        (gap,) = [line for line in reader.lines if "left out" in line]
        assert int(gap.split()[1]) > 1000

    play(scene)


def test_a_burst_after_a_flood_is_told_whole() -> None:
    async def scene(reader: Reader) -> None:
        reader.output._rest = output.LONGEST_REST  # of lines so long that each turn told all of a read
        os.write(reader.writing, b"".join(b"%d\n" % line for line in range(3 * output.LINES_A_TURN)))
        await reader.until(lambda: len(reader.lines) == 3 * output.LINES_A_TURN)
        assert reader.lines[-1] == str(3 * output.LINES_A_TURN - 1)

    play(scene)


def test_the_last_lines_are_kept_also_of_what_is_left_out() -> None:
    async def scene(reader: Reader) -> None:
        reader.output._budget.spend(1e6)
        os.write(reader.writing, b"".join(b"%d\n" % line for line in range(2000)))
        await asyncio.wait_for(asyncio.sleep(0.05), DEADLINE)
        os.close(reader.writing)
        reader.writing = -1
        await reader.until(lambda: len(reader.lines) > 3)
        assert reader.lines == ["… 1997 lines left out …", "1997", "1998", "1999"]
        assert list(reader.kept) == ["1997", "1998", "1999"]

    play(scene)


def test_the_budget_is_a_share_of_the_time() -> None:
    now = 0.0
    budget = output.Budget(lambda: now)
    for _ in range(100):
        now += 1.0
        budget.spend(output.SHARE)
        assert not budget.overdrawn
    budget.spend(output.BURST)
    assert budget.overdrawn
    now += 10.0
    assert not budget.overdrawn


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=2 * output.MAX_LINE) | st.just(b"\n"), max_size=3))
def test_whatever_is_printed_is_told_in_lines_of_bounded_length(pieces: list[bytes]) -> None:
    """Nothing is lost but the line ends, nothing is told twice, and no line is longer than the bound."""

    async def scene(reader: Reader) -> None:
        data = b"".join(pieces)
        for piece in pieces:
            os.write(reader.writing, piece)
        os.close(reader.writing)
        reader.writing = -1
        os.close(reader.held)
        reader.held = os.open(os.devnull, os.O_RDONLY)
        await reader.until(lambda: reader.output._fd < 0 or not data)
        assert all(len(line.encode("utf-8", "backslashreplace")) <= 4 * output.MAX_LINE for line in reader.lines)
        told = "".join(reader.lines)
        expected = "".join(
            line[start : start + output.MAX_LINE].decode("utf-8", "backslashreplace").rstrip("\r")
            for line in data.split(b"\n")
            for start in range(0, len(line), output.MAX_LINE)
        )
        assert told == expected

    play(scene)
