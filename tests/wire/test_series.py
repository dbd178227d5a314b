"""The memory of the app's metrics: what one end writes the other reads, and nothing in it hurts the reader."""

import json
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.wire import series
from clusterd.wire.series import Book, FamilyLine, Reader

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def board() -> memoryview:
    return memoryview(bytearray(series.SIZE))


def everything(reader: Reader, most: int = 64) -> tuple[list[series.Family], list[series.Series]]:
    families, found = [], []
    while True:
        new_families, new_series = reader.news(most)
        if not (new_families or new_series):
            return families, found
        families += new_families
        found += new_series


def values(reader: Reader) -> list[float]:
    return list(memoryview(reader.cells()).cast("d"))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["", "livesum", "mostrecent"]), TEXT, st.floats(allow_nan=False)
        ),
        max_size=30,
    ),
    st.integers(1, 5),
)
def test_what_is_defined_is_read_whatever_the_portions(wanted: list[tuple[str, str, str, float]], most: int) -> None:
    memory = board()
    book, reader = Book(memory), Reader(memory)
    told = []
    for name, mode, label, start in wanted:
        family = FamilyLine(name, "gauge", "help", mode, ("label",))
        place = book.define(family, "", (label,), "", start, 0.5)
        assert place is not None
        told.append((family.name, mode, label, place[1], start))
    families, found = everything(reader, most)
    assert [
        (families[one.family].name, families[one.family].mode, one.values[0], one.cell, values(reader)[one.cell])
        for one in found
    ] == told
    assert len(families) == len({(name, mode) for name, mode, _, _ in wanted})
    assert {one.inherited for one in found} <= {0.5}


def test_values_and_exemplars_are_read_as_they_become() -> None:
    memory = board()
    book, reader = Book(memory), Reader(memory)
    family = FamilyLine("a", "counter", "", "", ())
    number, cell = book.define(family, "_total", (), "", 0.0, 0.0) or (-1, -1)
    everything(reader)
    book.cells[cell] += 2.5
    assert values(reader) == [2.5]
    place = book.exemplar_cell(number)
    assert place is not None
    book.put_exemplar(place, {"trace": "long " * 20}, 1.0, 10.0)
    everything(reader)
    assert reader.exemplars() == [(0, {"trace": "long " * 20}, 1.0, 10.0)]
    assert reader.exemplars() == []
    book.put_exemplar(place, {"trace": "é"}, 2.0, 11.0)
    assert reader.exemplars() == [(0, {"trace": "é"}, 2.0, 11.0)]
    book.put_exemplar(place, {"trace": "x" * series.EXEMPLAR_SIZE}, 3.0, 12.0)  # too long: left out
    assert reader.exemplars() == []
    book.hide(cell)
    assert reader.cells() == series.ABSENT
    assert math.isnan(values(reader)[0])


def test_there_is_an_end_of_the_room_and_what_was_there_stays() -> None:
    memory = board()
    book, reader = Book(memory), Reader(memory)
    family = FamilyLine("a", "counter", "", "", ("n",))
    assert all(book.define(family, "_total", (str(n),), "", 1.0, 0.0) for n in range(series.CELLS))
    assert book.define(family, "_total", ("more",), "", 1.0, 0.0) is None
    assert book.define(FamilyLine("b", "counter", "", "", ()), "_total", (), "", 1.0, 0.0) is None
    assert book.define(family, "_total", ("\ud800",), "", 1.0, 0.0) is None
    assert len(everything(reader)[1]) == series.CELLS
    assert sum(values(reader)) == series.CELLS
    assert [book.exemplar_cell(0) for _ in range(series.EXEMPLARS + 1)][-1] is None


def _series_line(family: int, suffix: str, count: int, le: str) -> bytes:
    return json.dumps(["s", family, suffix, ["v"] * count, le, 0.0]).encode()


LINES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        _series_line, st.integers(-2, 3), st.just("_total"), st.integers(0, 2), st.sampled_from(["", "1.0"])
    ),
    st.builds(lambda n: f'["f","n{n}","gauge","","",["a"]]'.encode(), st.integers(0, 3)),
    st.builds(lambda n: f'["x",{n}]'.encode(), st.integers(-2, 5)),
)  # fmt: skip


@given(
    st.lists(LINES, max_size=20),
    st.integers(0, 2**64 - 1) | st.integers(0, 2000),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=64),
)
@settings(max_examples=200)
def test_whatever_a_worker_writes_reading_ends_and_stays_within_its_bounds(
    lines: list[bytes], used: int, cells: int, exemplar: bytes
) -> None:
    memory = board()
    text = b"".join(line + b"\n" for line in lines)
    memory[series.DEFINITIONS_AT : series.DEFINITIONS_AT + len(text)] = text
    memory[series.EXEMPLARS_AT : series.EXEMPLARS_AT + len(exemplar)] = exemplar
    for word, value in ((series.H_VERSION, 1), (series.H_DEFINITIONS, used), (series.H_CELLS, cells)):
        struct.pack_into("=Q", memory, 8 * word, value)
    reader = Reader(memory)
    families, found = everything(reader, 3)
    assert all(0 <= one.family < len(families) for one in found)
    assert all(len(one.values) == len(families[one.family].labels) for one in found)
    assert len(reader.cells()) <= 8 * sum(series.width(families[one.family].mode) for one in found)
    assert len(reader.exemplars()) <= len(lines)
    assert isinstance(reader.collects, bool)


def test_a_later_version_is_not_guessed_at() -> None:
    memory = board()
    Book(memory).define(FamilyLine("a", "counter", "", "", ()), "_total", (), "", 1.0, 0.0)
    struct.pack_into("=Q", memory, 8 * series.H_VERSION, 0)
    assert Reader(memory).news() == ([], [])


@pytest.mark.parametrize("mode", ["sum", "mostrecent", "livemostrecent"])
def test_a_gauge_with_a_time_has_two_cells(mode: str) -> None:
    memory = board()
    book = Book(memory)
    family = FamilyLine("g", "gauge", "", mode, ())
    book.define(family, "", (), "", 1.0, 0.0)
    assert book.used == series.width(mode) == (2 if "recent" in mode else 1)
