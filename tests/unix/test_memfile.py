"""Files in memory: what is written is read, and nobody changes it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.unix import memfile


@given(st.binary(max_size=5000))
def test_it_reads_as_what_was_written(data: bytes) -> None:
    fd = memfile.create("test", data)
    try:
        assert memfile.read(fd) == memfile.read(fd) == data
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    with memfile.path_to("test", data) as path, open(path, "rb") as file:
        assert file.read() == data
    assert not os.path.exists(path) or "memfd:test" not in os.readlink(path)


def test_nobody_can_change_it() -> None:
    fd = memfile.create("test", b"kept")
    try:
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 100)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(fd)
