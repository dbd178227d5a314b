"""Where the app's ``prometheus_client`` metrics keep their values: in memory that the primary reads.

:class:`Value` takes the place of the library's own value class, which it is made to be exchanged for (its multi-process
mode does). In the zygote values lie in a list; a worker moves them into its board before it serves, each counting from
zero, and tells what had been counted until then, so that the primary counts that once. A value that finds no room any
more is the worker's own affair, and not on the page; neither is what a child counts that the app itself forks.
"""

import logging
import os
import threading
from collections import deque
from typing import Any, Final

from ..wire.series import CELLS, Book, FamilyLine, Kind

logger = logging.getLogger("clusterd")

MAX_TEXT: Final = 512
"""Characters of a help text; the rest is cut off. And of a label's value: a longer one is not on the page."""

RISING: Final = frozenset({"counter", "histogram", "summary"})

_lock = threading.Lock()
_cells: Any = []
_book: Book | None = None
_early: list["Value"] = []
_gone: deque[tuple[tuple[Any, ...], int, int]] = deque()
_free: dict[tuple[Any, ...], tuple[int, int]] = {}
_told_full = False


class Value:
    """One number. What prometheus_client calls and with which arguments stands in its ``values.py``."""

    _multiprocess = False
    __slots__ = ("__weakref__", "_at", "_base", "_exemplar", "_exemplar_cell", "_key", "_number")

    def __init__(
        self,
        typ: Kind,
        metric_name: str,
        name: str,
        labelnames: Any,
        labelvalues: Any,
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        self._base = 0.0
        self._exemplar: Any = None
        self._exemplar_cell = -1
        self._key = (typ, metric_name, name, tuple(labelnames), tuple(labelvalues), help_text, multiprocess_mode)
        with _lock:
            _tidy()
            known = _free.pop(self._key, None)
            if known is not None:  # a series that was removed and is there again
                self._number, self._at = known
                if typ in RISING:
                    self._base = -_cells[self._at]
                else:
                    _cells[self._at] = 0.0
            elif _book is None:
                self._number, self._at = -1, _append(multiprocess_mode)
                _early.append(self)
            else:
                self._place(_book, 0.0, 0.0)

    def inc(self, amount: float) -> None:
        """Add ``amount``."""
        with _lock:
            _cells[self._at] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Be ``value``, since ``timestamp`` where that counts."""
        with _lock:
            self._base = 0.0
            _cells[self._at] = value
            if timestamp is not None:
                _cells[self._at + 1] = timestamp

    def get(self) -> float:
        """The value as this process knows it, what was counted before the fork included."""
        return float(_cells[self._at]) + self._base

    def set_exemplar(self, exemplar: Any) -> None:
        """Remember an example of what was counted."""
        self._exemplar = exemplar
        with _lock:
            if _book is not None and self._number >= 0:
                if self._exemplar_cell < 0:
                    cell = _book.exemplar_cell(self._number)
                    if cell is None:
                        return
                    self._exemplar_cell = cell
                _book.put_exemplar(
                    self._exemplar_cell, exemplar.labels, float(exemplar.value), exemplar.timestamp or 0.0
                )

    def get_exemplar(self) -> Any:
        """The last one."""
        return self._exemplar

    def withdraw(self) -> None:
        """It is not this value that counts: a function gives it when asked."""
        with _lock:
            if _book is not None and self._number >= 0:
                _book.hide(self._at)
            self._keep(0.0)

    def _place(self, book: Book, start: float, inherited: float) -> None:
        """Take a cell of the board, or keep it to oneself if there is none."""
        typ, metric_name, name, labelnames, labelvalues, help_text, mode = self._key
        le = ""
        if name.endswith("_bucket") and typ == "histogram":
            labelnames, le, labelvalues = labelnames[:-1], labelvalues[-1], labelvalues[:-1]
        place = None
        if max(map(len, labelvalues), default=0) <= MAX_TEXT:
            family = FamilyLine(metric_name, typ, help_text[:MAX_TEXT], mode, labelnames)
            place = book.define(family, name[len(metric_name) :], labelvalues, le, start, inherited)
        if place is None:
            _say_full(metric_name)
            self._keep(start + inherited)
        else:
            self._number, self._at = place

    def _keep(self, value: float) -> None:
        """From now on it is this process's own."""
        self._base = value
        self._number = -1
        self.__class__ = Private

    def __del__(self) -> None:
        # Without the lock, which the thread that collects this garbage may hold.
        _gone.append((self._key, self._number, self._at))


class Private(Value):
    """A value that is on no page."""

    __slots__ = ()

    def inc(self, amount: float) -> None:
        """Add ``amount``."""
        with _lock:
            self._base += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Be ``value``."""
        with _lock:
            self._base = value

    def get(self) -> float:
        """The value."""
        return self._base


def _append(mode: str) -> int:
    assert isinstance(_cells, list)
    _cells.append(0.0)
    if mode.endswith("mostrecent"):
        _cells.append(0.0)
        return len(_cells) - 2
    return len(_cells) - 1


def _tidy() -> None:
    """Series that were removed: what they counted stays counted, a gauge is gone. With the lock held."""
    while _gone:
        key, number, at = _gone.popleft()
        if _book is not None and number >= 0:
            _free[key] = (number, at)
            if key[0] not in RISING:
                _book.hide(at)


def tidy() -> None:
    """Once a second: take note of series that were removed."""
    if _gone:
        with _lock:
            _tidy()


def attach(board: memoryview) -> Book:
    """In a new worker: keep all values in its board from now on.

    Args:
        board: the whole of it, as bytes, writable.
    """
    global _cells, _book
    with _lock:
        book = Book(board)
        before, _cells, _book = _cells, book.cells, book
        early = [value for value in _early if not isinstance(value, Private)]
        _early.clear()
        for value in early:
            had = before[value._at]
            rising = value._key[0] in RISING
            value._base = had if rising else 0.0
            value._place(book, 0.0 if rising else had, had if rising else 0.0)
    for value in early:
        if value._exemplar is not None:
            value.set_exemplar(value._exemplar)
    return book


def _detach() -> None:
    """In a child that the app has forked: the board is its parent's, who goes on counting in the same cells."""
    global _cells, _book, _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    if _book is not None:
        _cells, _book = list(_cells[: _book.used]), None


os.register_at_fork(after_in_child=_detach)


def _say_full(name: str) -> None:
    global _told_full
    if not _told_full:
        _told_full = True
        logger.warning(
            "metric %s: there is no room for a further series, or its labels are too long; what does not fit is not on"
            " the page of metrics (%d values a worker, %d characters a label)",
            name,
            CELLS,
            MAX_TEXT,
        )
