"""From metrics to the bytes of a page, in pieces so small that the loop that makes them can do others' work between.

The formats are prometheus_client's own; it is only asked for a few hundred samples at a time.
"""

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from time import monotonic
from typing import Any, TypeVar

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Sample

PIECE = 128
"""Samples encoded at once: about half a millisecond."""

SLICE = 0.001
"""Seconds of work in one turn of the loop; a piece more at most."""

_END = b"# EOF\n"

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that can be left after each step and taken up again; what it returns is its result."""


class _One:
    """A registry of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class Encoder:
    """The format that a client accepts.

    Args:
        accept: the header's value; nonsense is Prometheus' text format.

    Attributes:
        content_type: as the response is to name it.
        end: what the page ends with.
    """

    def __init__(self, accept: str) -> None:
        self._encode: Callable[[Any], bytes]
        try:
            self._encode, self.content_type = choose_encoder(
                accept if accept.isascii() and accept.isprintable() else ""
            )
        except (ValueError, TypeError):  # a version that is no number
            self._encode, self.content_type = choose_encoder("")
        self.end = _END if self.content_type.startswith("application/openmetrics-text") else b""

    def pieces(self, metric: Metric, samples: Iterable[Sample]) -> Iterator[bytes]:
        """The bytes of a family: its head, and its samples in pieces. ``metric`` brings the head alone.

        A family without samples has a head all the same: that it is known is worth a line.
        """
        first = True
        piece = _empty(metric)
        for sample in samples:
            piece.samples.append(sample)
            if len(piece.samples) >= PIECE:
                yield self._piece(piece, first)
                first, piece = False, _empty(metric)
        if first or piece.samples:
            yield self._piece(piece, first)

    def _piece(self, metric: Metric, first: bool) -> bytes:
        text = self._encode(_One(metric))
        if self.end:
            text = text.removesuffix(_END)
        while not first and text.startswith(b"# "):
            text = text.partition(b"\n")[2]
        return text


def _empty(metric: Metric) -> Metric:
    return Metric(metric.name, metric.documentation, metric.type, metric.unit)


class Timed(Iterable[None]):
    """Work that measures itself: not what others do between its steps.

    Attributes:
        spent: seconds so far.
    """

    def __init__(self, steps: Steps[bytes]) -> None:
        self._steps = steps
        self.spent = 0.0

    def __iter__(self) -> Steps[bytes]:
        while True:
            began = monotonic()
            try:
                next(self._steps)
            except StopIteration as done:
                result: bytes = done.value
                return result
            finally:
                self.spent += monotonic() - began
            yield


def at_once(steps: Steps[T]) -> T:
    """The result of work, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


async def in_turns(steps: Steps[T]) -> T:
    """The result of work that lets the loop turn whenever it has had its slice."""
    began = monotonic()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        if monotonic() - began > SLICE:
            await asyncio.sleep(0)
            began = monotonic()
