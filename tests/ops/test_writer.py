import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clusterd.ops.writer import Writer, weight
from tests.procfs import wait_for

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 10.0
PIPE_HOLDS = 65536


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    open_ends = {reading, writing}
    try:
        yield reading, writing
    finally:
        for fd in open_ends:
            try:
                os.close(fd)
            except OSError:
                pass


def lost(count: int) -> dict[str, Any]:
    return {"lost": count}


def read_to_end(fd: int) -> list[dict[str, Any]]:
    data = b""
    while piece := os.read(fd, 65536):
        data += piece
    return [json.loads(line) for line in data.splitlines()]


class Reader:
    """Reads a pipe to its end in a thread, from now on."""

    def __init__(self, fd: int) -> None:
        self.records: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=lambda: self.records.extend(read_to_end(fd)))
        self._thread.start()

    def join(self) -> list[dict[str, Any]]:
        self._thread.join(DEADLINE)
        return self.records


def test_records_are_written_in_order_and_closing_waits_for_them() -> None:
    with pipe() as (reading, writing):
        writer = Writer(writing, json.dumps, lost)
        reader = Reader(reading)
        for number in range(1000):
            assert writer.put({"n": number})
        assert writer.close(DEADLINE)
        assert writer.close(DEADLINE)
        os.close(writing)
        assert [record["n"] for record in reader.join()] == list(range(1000))


def test_a_full_pipe_that_nobody_reads_holds_nobody_up() -> None:
    with pipe() as (reading, writing):
        writer = Writer(writing, json.dumps, lost, max_records=500)
        record = {"text": "x" * 1000}
        slowest = 0.0
        for _ in range(5000):
            before = time.monotonic()
            writer.put(record)
            slowest = max(slowest, time.monotonic() - before)
        assert slowest < 1.0
        assert writer.dropped_total >= 5000 - 500 - PIPE_HOLDS // 1000 - 64
        before = time.monotonic()
        assert not writer.close(0.1)
        assert time.monotonic() - before < 2.0
        # So that the thread ends before the descriptors are closed under it.
        reader = Reader(reading)
        writer._thread.join(DEADLINE)
        os.close(writing)
        reader.join()


def test_what_was_dropped_is_told_where_the_gap_is_once_there_is_room() -> None:
    with pipe() as (reading, writing):
        writer = Writer(writing, json.dumps, lost, max_records=100)
        number = 0
        while not writer.dropped_total:
            writer.put({"n": number, "text": "x" * 1000})
            number += 1
        for _ in range(10):
            assert not writer.put({"n": number, "text": "x" * 1000})
            number += 1
        reader = Reader(reading)
        wait_for(lambda: not writer._queue, DEADLINE)
        writer.put({"n": number})
        assert writer.close(DEADLINE)
        os.close(writing)
        records = reader.join()
        gaps = [index for index, record in enumerate(records) if "lost" in record]
        assert len(gaps) == 1
        before, gap, after = records[gaps[0] - 1], records[gaps[0]], records[gaps[0] + 1]
        assert gap == {"lost": 11}
        assert after["n"] - before["n"] == 12


def test_the_queue_is_bounded_in_bytes_too() -> None:
    with pipe() as (reading, writing):
        writer = Writer(writing, json.dumps, lost, max_bytes=1_000_000)
        for _ in range(50):
            writer.put({"text": "x" * 100_000})
        assert writer._bytes <= 1_000_000
        assert writer.dropped_total >= 38
        reader = Reader(reading)
        assert writer.close(DEADLINE)
        os.close(writing)
        reader.join()


def test_workers_that_print_without_end_leave_room_for_the_service() -> None:
    with pipe() as (reading, writing):
        writer = Writer(writing, json.dumps, lost, max_records=1000)
        for _ in range(3000):
            writer.put({"text": "x" * 1000}, bulk=True)
        assert writer.put({"event": "crash_report"})
        reader = Reader(reading)
        assert writer.close(DEADLINE)
        os.close(writing)
        assert {"event": "crash_report"} in reader.join()


def test_a_reader_that_goes_away_costs_the_records_and_nothing_else() -> None:
    with pipe() as (reading, writing):
        writer = Writer(writing, json.dumps, lost)
        os.close(reading)
        for number in range(10):
            writer.put({"n": number})
        wait_for(lambda: writer.dropped_total == 10, DEADLINE)
        assert writer._thread.is_alive()
        assert not writer.close(DEADLINE)
        os.close(writing)


def test_a_full_disk_is_told_of_when_there_is_room_again(tmp_path: os.PathLike[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = Writer(full, json.dumps, lost)
        writer.put({"n": 1})
        wait_for(lambda: writer.dropped_total == 1, DEADLINE)
        room = os.open(os.path.join(tmp_path, "log"), os.O_RDWR | os.O_CREAT)
        os.dup2(room, full)
        writer.put({"n": 2})
        assert writer.close(DEADLINE)
        os.lseek(room, 0, os.SEEK_SET)
        assert read_to_end(room) == [{"lost": 1}, {"n": 2}]
        os.close(room)
    finally:
        os.close(full)


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        writer = Writer(writing, json.dumps, lost)
        for _ in range(200):
            writer.put({"text": "x" * 1000})
        reader = Reader(reading)
        assert writer.close(DEADLINE)
        os.close(writing)
        assert len(reader.join()) == 200


def test_closing_a_descriptor_that_does_not_block_and_is_full_ends_in_time() -> None:
    with pipe() as (_reading, writing):
        os.set_blocking(writing, False)
        writer = Writer(writing, json.dumps, lost)
        for _ in range(200):
            writer.put({"text": "x" * 1000})
        assert not writer.close(0.1)
        writer._thread.join(DEADLINE)
        assert not writer._thread.is_alive()


def test_a_record_that_cannot_be_rendered_does_not_end_the_log() -> None:
    def render(record: dict[str, Any]) -> str:
        if "bad" in record:
            raise ValueError("cannot")
        return json.dumps(record)

    with pipe() as (reading, writing):
        writer = Writer(writing, render, lost)
        writer.put({"event": "worse", "bad": 1})
        writer.put({"n": 1})
        assert writer.close(DEADLINE)
        os.close(writing)
        lines = os.read(reading, 65536).decode().splitlines()
        assert lines[0].startswith("worse: this record cannot be rendered")
        assert json.loads(lines[1]) == {"n": 1}


def test_weight_grows_with_what_a_record_holds() -> None:
    assert weight({"a": "x" * 1000}) > 1000
    assert weight({"a": ["x" * 1000] * 10}) > 10_000
