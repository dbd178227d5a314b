"""The beat, on real loops, of this very process."""

import asyncio
import os
import resource
import time

import pytest

from clusterd.unix import scoreboard
from clusterd.wire.rows import LOOP_LAG, WORDS, Row
from clusterd.worker import beat
from clusterd.worker.beat import Beat

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def board() -> scoreboard.Board:
    fd = scoreboard.create(WORDS)
    try:
        return scoreboard.Board.attach(fd, WORDS, writable=True)
    finally:
        os.close(fd)


def test_the_first_beat_is_at_once_and_says_what_the_process_uses(board: scoreboard.Board) -> None:
    loop = asyncio.new_event_loop()
    beating = Beat(loop, board)
    began = time.monotonic_ns()
    beating.start()
    row = board.words
    assert began <= row[Row.HEARTBEAT_NS] <= time.monotonic_ns()
    assert abs(row[Row.OPEN_FDS] - len(os.listdir("/proc/self/fd"))) <= 2
    assert row[Row.MAX_FDS] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 5e6 < row[Row.RESIDENT_BYTES] < 4e9
    assert 0 < row[Row.CPU_NS] <= time.process_time_ns()
    assert (row[Row.PROPORTIONAL_BYTES], row[Row.UNIQUE_BYTES]) == (0, 0)  # too dear for a worker that just begins
    beating.stop()
    beating.stop()
    loop.close()
    board.close()


def test_it_beats_again_and_tells_how_late(board: scoreboard.Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "EVERY", 0.02)
    monkeypatch.setattr(beat, "WEIGH_EVERY", 0.0)
    loop = asyncio.new_event_loop()
    beating = Beat(loop, board)
    beating.start()
    first = board.words[Row.HEARTBEAT_NS]

    async def work() -> None:
        await asyncio.sleep(0.05)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:  # the loop does not turn
            pass
        await asyncio.sleep(0.01)

    loop.run_until_complete(work())
    row = board.words
    assert row[Row.HEARTBEAT_NS] > first
    assert row[Row.LOOP_LAG_NS] < 5e9  # of the last beat, which on a busy machine may be one more
    late = [word for word, bound in zip(LOOP_LAG.buckets, (*LOOP_LAG.bounds, 1e9), strict=True) if bound > 0.1]
    assert sum(row[word] for word in late) >= 1
    assert sum(row[word] for word in LOOP_LAG.buckets) >= 2
    assert row[LOOP_LAG.sum_ns] > 0.1e9
    assert 0 < row[Row.UNIQUE_BYTES] <= row[Row.PROPORTIONAL_BYTES] <= 2 * row[Row.RESIDENT_BYTES]
    beating.stop()
    beats = row[Row.HEARTBEAT_NS]
    loop.run_until_complete(asyncio.sleep(0.05))
    assert row[Row.HEARTBEAT_NS] == beats
    loop.close()
    board.close()
