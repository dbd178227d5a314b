"""The app's own metrics in a worker's shared memory, behind its row: what the series are, and their values.

The worker is the one writer. Values are 64-bit floats, written in place at each increment, so that what a worker
counted is there whatever becomes of it. Definitions are only ever added, one JSON array a line: a family, a series of
it, or whose exemplar the next cell for exemplars holds. Families, series and cells are numbered in the order in which
they come. The reader believes nothing: sizes are clamped, lines are typed, values may be anything.

The memory is as large as it may ever become from the beginning: the kernel gives it pages as they are touched.
"""

import struct
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

import msgspec

from clusterd.wire.rows import WORDS

VERSION: Final = 1
PAGE: Final = 4096
HEADER_AT: Final = PAGE
CELLS: Final = 64 * 1024
"""Values a worker may have; a histogram is one for each bucket and one for its sum."""
CELLS_AT: Final = 2 * PAGE
EXEMPLARS: Final = 512
EXEMPLAR_SIZE: Final = 1024
EXEMPLARS_AT: Final = CELLS_AT + 8 * CELLS
DEFINITIONS_AT: Final = EXEMPLARS_AT + EXEMPLARS * EXEMPLAR_SIZE
SIZE: Final = 8 * 1024 * 1024
"""Bytes of the whole board, the row included."""
DEFINITIONS: Final = SIZE - DEFINITIONS_AT
MAX_LINE: Final = 4096
"""Bytes of one definition."""

assert 8 * WORDS <= HEADER_AT

H_VERSION, H_CELLS, H_DEFINITIONS, H_EXEMPLARS, H_COLLECTS = range(HEADER_AT // 8, HEADER_AT // 8 + 5)
"""Words of the header: version; cells, bytes of definitions and exemplars in use; whether there are collectors."""

ABSENT: Final = struct.pack("=Q", 0x7FF4_DEAD_DEAD_DEAD)
"""The bits of a value that is none any more: a signalling NaN that no arithmetic makes."""

Kind = Literal["counter", "gauge", "histogram", "summary"]


class FamilyLine(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """A family. ``mode``: how a gauge is aggregated, as prometheus_client names it; else empty."""

    name: str
    kind: Kind
    help: str
    mode: str
    labels: tuple[str, ...]


class SeriesLine(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """A series, which has the next cell; of a ``mostrecent`` gauge the next two, the second is its time.

    Attributes:
        suffix: of the sample's name, ``_total``, ``_bucket`` …
        values: of the family's labels.
        le: a bucket's upper bound as text; else empty.
        inherited: what had been counted before the fork, which is in no worker's cell.
    """

    family: int
    suffix: str
    values: tuple[str, ...]
    le: str
    inherited: float


class ExemplarLine(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The next exemplar cell is that series'."""

    series: int


class Family(NamedTuple):
    """As :class:`FamilyLine`."""

    name: str
    kind: str
    help: str
    mode: str
    labels: tuple[str, ...]


class Series(NamedTuple):
    """As :class:`SeriesLine`, and where its value is."""

    family: int
    suffix: str
    values: tuple[str, ...]
    le: str
    inherited: float
    cell: int


Line = FamilyLine | SeriesLine | ExemplarLine
_decode: Final = msgspec.json.Decoder(Line).decode
_decode_exemplar: Final = msgspec.json.Decoder(tuple[dict[str, str], float, float]).decode
_encode: Final = msgspec.json.Encoder().encode


def width(mode: str) -> int:
    """Cells of a series."""
    return 2 if mode.endswith("mostrecent") else 1


class Book:
    """The worker's end: adds definitions. Not safe for threads by itself.

    Args:
        board: the whole board, as bytes.

    Attributes:
        cells: the values.
    """

    def __init__(self, board: memoryview) -> None:
        self._words = board.cast("Q")
        self._board = board
        self.cells = board[CELLS_AT : CELLS_AT + 8 * CELLS].cast("d")
        self._families: dict[FamilyLine, int] = {}
        self._series = 0
        self._words[H_VERSION] = VERSION

    def define(
        self, family: FamilyLine, suffix: str, values: tuple[str, ...], le: str, start: float, inherited: float
    ) -> tuple[int, int] | None:
        """Add a series; returns its number and its cell, or ``None`` if there is no room for it.

        Args:
            start: its value at first.
            inherited: see :class:`SeriesLine`.
        """
        words = self._words
        cell = words[H_CELLS]
        wide = width(family.mode)
        number = self._families.get(family)
        lines = b"" if number is not None else _encode(family) + b"\n"
        if number is None:
            number = len(self._families)
        try:
            # JSON has no infinity.
            line = _encode(SeriesLine(number, suffix, values, le, inherited if isfinite(inherited) else 0.0)) + b"\n"
        except UnicodeEncodeError:  # a lone surrogate, which is no text for anybody else either
            return None
        if cell + wide > CELLS or max(len(lines), len(line)) > MAX_LINE or not self._fits(lines + line):
            return None
        self.cells[cell] = start
        if wide > 1:
            self.cells[cell + 1] = 0.0
        words[H_CELLS] = cell + wide
        self._write(lines + line)
        self._families.setdefault(family, number)
        self._series += 1
        return self._series - 1, cell

    def exemplar_cell(self, series: int) -> int | None:
        """A cell for the exemplars of a series, or ``None`` if there is none left."""
        used = self._words[H_EXEMPLARS]
        line = _encode(ExemplarLine(series)) + b"\n"
        if used >= EXEMPLARS or not self._fits(line):
            return None
        self._words[H_EXEMPLARS] = used + 1
        self._write(line)
        return int(used)

    def put_exemplar(self, cell: int, labels: dict[str, str], value: float, timestamp: float) -> None:
        """Write an exemplar; one that is too long is left out. A reader may see it half written, and passes over it."""
        data = _encode((labels, value, timestamp)) + b"\n"
        if len(data) <= EXEMPLAR_SIZE:
            at = EXEMPLARS_AT + cell * EXEMPLAR_SIZE
            self._board[at : at + len(data)] = data

    @property
    def used(self) -> int:
        """Cells in use."""
        return int(self._words[H_CELLS])

    def hide(self, cell: int) -> None:
        """What is in this cell is no value any more, until one is written."""
        self._board[CELLS_AT + 8 * cell : CELLS_AT + 8 * cell + 8] = ABSENT

    def collects(self, whether: bool) -> None:
        """Say whether this worker has collectors that must be asked."""
        self._words[H_COLLECTS] = int(whether)

    def _fits(self, data: bytes) -> bool:
        return bool(self._words[H_DEFINITIONS] + len(data) <= DEFINITIONS)

    def _write(self, data: bytes) -> None:
        used = self._words[H_DEFINITIONS]
        self._board[DEFINITIONS_AT + used : DEFINITIONS_AT + used + len(data)] = data
        self._words[H_DEFINITIONS] = used + len(data)  # last: what it counts is complete


class Reader:
    """The primary's end. Every answer is a copy: nothing of the board is held, which may be closed at any time.

    Args:
        board: the whole board, as bytes.
    """

    def __init__(self, board: memoryview) -> None:
        self._board = board
        self._read = 0
        self._families: list[Family | None] = []
        self._cells = 0
        self._exemplars: list[int] = []
        self._shown: dict[int, bytes] = {}
        self._series = 0
        self._broken = False

    def keep(self) -> None:
        """Read on in a copy of what is there now: the board is about to be closed."""
        copy = memoryview(bytearray(SIZE))  # costs what is written into it
        for start, size in (
            (HEADER_AT, PAGE),
            (CELLS_AT, 8 * self._word(H_CELLS, CELLS)),
            (EXEMPLARS_AT, EXEMPLAR_SIZE * self._word(H_EXEMPLARS, EXEMPLARS)),
            (DEFINITIONS_AT, self._word(H_DEFINITIONS, DEFINITIONS)),
        ):
            copy[start : start + size] = self._board[start : start + size]
        self._board = copy

    def _word(self, word: int, most: int) -> int:
        (value,) = struct.unpack_from("=Q", self._board, 8 * word)
        return int(min(value, most))

    @property
    def collects(self) -> bool:
        """It has collectors that must be asked."""
        return bool(self._word(H_COLLECTS, 1))

    def news(self, most: int = 64) -> tuple[list[Family], list[Series]]:
        """At most so many definitions that were added since the last call; both empty if there are none.

        A definition that breaks the rules ends the reading of this worker's: what follows it could mean anything.
        """
        families: list[Family] = []
        series: list[Series] = []
        used = self._word(H_DEFINITIONS, DEFINITIONS)
        if self._broken or self._word(H_VERSION, VERSION) != VERSION or self._read >= used:
            return families, series
        end = min(used, self._read + most * MAX_LINE)
        data = bytes(self._board[DEFINITIONS_AT + self._read : DEFINITIONS_AT + end])
        for line in data.split(b"\n", most)[: min(most, data.count(b"\n"))]:
            self._read += len(line) + 1
            if not self._take(line, families, series):
                self._broken = True
                break
        else:
            if b"\n" not in data:  # longer than any line may be
                self._broken = True
        return families, series

    def _take(self, line: bytes, families: list[Family], series: list[Series]) -> bool:
        try:
            defined = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        match defined:
            case FamilyLine(name, kind, text, mode, labels):
                self._families.append(Family(name, kind, text, mode, labels))
                families.append(Family(name, kind, text, mode, labels))
            case SeriesLine(number, suffix, values, le, inherited):
                family = self._families[number] if 0 <= number < len(self._families) else None
                if family is None or len(values) != len(family.labels):
                    return False
                series.append(Series(number, suffix, values, le, inherited, self._cells))
                self._cells += width(family.mode)
                self._series += 1
            case ExemplarLine(number):
                if not 0 <= number < self._series or len(self._exemplars) >= EXEMPLARS:
                    return False
                self._exemplars.append(number)
        return True

    def cells(self) -> bytes:
        """The values of the series that :meth:`news` has told of so far, 8 bytes each."""
        used = min(self._cells, self._word(H_CELLS, CELLS))
        return bytes(self._board[CELLS_AT : CELLS_AT + 8 * used])

    def exemplars(self) -> list[tuple[int, dict[str, str], float, float]]:
        """Series' number, labels, value and Unix time of the exemplars that are new since the last call."""
        found = []
        for cell, series in enumerate(self._exemplars):
            at = EXEMPLARS_AT + cell * EXEMPLAR_SIZE
            data = bytes(self._board[at : at + EXEMPLAR_SIZE]).partition(b"\n")[0]
            if self._shown.get(cell) != data:
                try:
                    exemplar: Any = _decode_exemplar(data)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
                self._shown[cell] = data
                found.append((series, *exemplar))
        return found
