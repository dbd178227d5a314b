"""Shared memory between a reader and writers that may be hostile."""

import ctypes
import fcntl
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.unix import scoreboard
from clusterd.unix.scoreboard import Board
from tests.unix.children import in_child

pytestmark = pytest.mark.usefixtures("no_fd_leak")

words = st.integers(0, 2**64 - 1)


@given(st.lists(words, min_size=1, max_size=64))
def test_what_one_writes_the_other_reads(values: list[int]) -> None:
    fd = scoreboard.create(len(values))
    writer = Board.attach(fd, len(values), writable=True)
    reader = Board.attach(fd, len(values), writable=False)
    os.close(fd)
    assert list(reader.words) == [0] * len(values)
    for index, value in enumerate(values):
        writer.words[index] = value
    assert list(reader.words) == values
    writer.close()
    reader.close()


def test_a_child_writes_what_its_parent_reads() -> None:
    fd = scoreboard.create(8)
    reader = Board.attach(fd, 8, writable=False)

    def write() -> None:
        board = Board.attach(fd, 8, writable=True)
        board.words[7] = 2**64 - 1

    in_child(write)
    assert reader.words[7] == 2**64 - 1
    reader.close()
    os.close(fd)


def test_a_hostile_writer_can_neither_shrink_nor_grow_nor_unseal_and_the_reader_lives() -> None:
    fd = scoreboard.create(8)
    reader = Board.attach(fd, 8, writable=False)

    def attack() -> list[str]:
        refused = []
        attempts: dict[str, Callable[[], object]] = {
            "shrink": lambda: os.ftruncate(fd, 0),
            "grow": lambda: os.ftruncate(fd, 1 << 20),
            "shrink by another description": lambda: os.truncate(f"/proc/self/fd/{fd}", 0),
            "open anew and cut": lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC),
            "seal writing": lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except OSError:
                refused.append(name)
        # A hole takes the pages away, which is only zeros for the reader.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(64))
        return sorted(set(attempts) - set(refused))

    assert in_child(attack) == []
    assert list(reader.words) == [0] * 8
    assert os.fstat(fd).st_size == 8 * scoreboard.WORD
    reader.close()
    os.close(fd)


def test_a_reader_cannot_write() -> None:
    fd = scoreboard.create(1)
    reader = Board.attach(fd, 1, writable=False)
    with pytest.raises(TypeError):
        reader.words[0] = 1
    reader.close()
    reader.close()
    os.close(fd)


def test_a_value_that_is_no_word_is_refused_and_nothing_written() -> None:
    fd = scoreboard.create(1)
    board = Board.attach(fd, 1, writable=True)
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="invalid value"):
            board.words[0] = value
    assert board.words[0] == 0
    board.close()
    os.close(fd)


def test_memory_that_is_too_small_is_refused_before_it_can_kill() -> None:
    fd = scoreboard.create(1)
    with pytest.raises(ValueError, match="mmap length"):
        Board.attach(fd, 100_000, writable=False)
    os.close(fd)


def test_a_board_without_words_is_none() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        scoreboard.create(0)


def test_a_slice_still_held_keeps_the_memory() -> None:
    fd = scoreboard.create(2)
    board = Board.attach(fd, 2, writable=True)
    os.close(fd)
    held = board.words[:1]
    with pytest.raises(BufferError):
        board.close()
    held.release()
    board.close()


def test_the_descriptor_is_close_on_exec() -> None:
    fd = scoreboard.create(1)
    assert not os.get_inheritable(fd)
    os.close(fd)
