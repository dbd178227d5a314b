"""JSON lines between processes: one value a line, both ways, with bounds on what the peer may send.

The framing is that of Node's IPC channel in its ``json`` serialization: UTF-8 text, ``\\n`` after every value
(its documentation, "Advanced serialization"). msgspec does the work; the standard library's decoder and encoder see
only what msgspec refuses although JSON has it: lone surrogates (``"\\ud800"``, which ``JSON.stringify`` writes) and
numbers that no double holds. The standard library alone would be eight times slower on messages of the usual hundred
bytes.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from clusterd.errors import PeerError

MAX_LINE: Final = 16 * 1024 * 1024
"""Longest line taken from a peer, in bytes without its end, unless the owner says otherwise."""

MAX_DEPTH: Final = 256
"""Deepest nesting of arrays and objects, either way. Below the interpreter's recursion limit by a margin that lets
whoever gets a message log, copy or forward it: a message that kills at its first ``repr`` is no better than one that
kills its decoder."""

_EXCERPT: Final = 60

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_stdlib_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Lines:
    """Cuts a byte stream into lines; a half line is held until its rest comes.

    Args:
        max_line: the longest line, in bytes without its end.
    """

    __slots__ = ("_max", "_partial")

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max = max_line
        self._partial = bytearray()

    def rest(self) -> bytes:
        """The beginning of a line whose end has not come."""
        return bytes(self._partial)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields every line that ``data`` completes, without its end; to be run to its end before the next call.

        Every byte is looked at once, whatever the splitting: only ``data`` is searched, never what is held.

        Raises:
            PeerError: a line, complete or not, is longer than ``max_line``. The lines before it were yielded.
        """
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if end - start + len(self._partial) > self._max:
                raise self._too_long()
            if self._partial:
                self._partial += data[start:end]
                line = bytes(self._partial)
                self._partial.clear()
            else:
                line = data[start:end]
            start = end + 1
            yield line
        if len(data) - start + len(self._partial) > self._max:
            raise self._too_long()
        self._partial += data[start:] if start else data

    def _too_long(self) -> PeerError:
        self._partial = bytearray()
        return PeerError(f"the peer sent a line of more than {self._max} bytes, the most that is taken")


def decode(line: bytes) -> Any:
    """Returns the value of one line.

    Numbers are as Python reads them: ``1`` is an int, ``1.0`` a float, ``1e999`` infinite as it is in JavaScript.

    Args:
        line: the line without its end.

    Raises:
        PeerError: it is not one JSON value, is blank, or is nested deeper than ``MAX_DEPTH``. Nothing else is ever
            raised, whatever the bytes.
    """
    try:
        value = _decode(line)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        value = _decode_rest(line)
    # Brackets are counted first because it is a memchr: only a message with more of them than may nest is walked.
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and not _shallow(value):
        raise _too_deep()
    return value


def encode(message: object) -> bytes:
    """Returns ``message`` as one line, with its end.

    NaN and the infinities become ``null``, as ``JSON.stringify`` has it; tuples and sets become arrays; bytes become
    base64 text.

    Raises:
        TypeError: ``message`` holds something that JSON has no form for, holds itself, or is nested deeper than
            ``MAX_DEPTH``.
    """
    try:
        data = _encode(message)
    except RecursionError:
        raise _unsayable("it holds itself or is nested too deep") from None
    except TypeError as error:
        raise _unsayable(str(error)) from None
    except ValueError:
        data = _encode_rest(message)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        try:
            decode(data)
        except PeerError:
            raise _unsayable(f"it is nested deeper than {MAX_DEPTH} levels") from None
    return data + b"\n"


def _decode_rest(line: bytes) -> Any:
    """Decodes what msgspec refuses; PeerError if it is no JSON either."""
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        what = "a blank line" if not line.strip() else f"a line that is no JSON: {line[:_EXCERPT]!r}"
        raise PeerError(f"the peer sent {what}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _encode_rest(message: object) -> bytes:
    """Encodes what msgspec refuses, lone surrogates above all; TypeError if the standard library refuses it too."""
    try:
        return _stdlib_encode(message).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise _unsayable(str(error)) from None


def _shallow(value: object) -> bool:
    """Whether ``value`` nests at most ``MAX_DEPTH`` containers; level by level, as recursion is the very danger."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return True
    return False


def _too_deep() -> PeerError:
    return PeerError(f"the peer sent a message nested deeper than {MAX_DEPTH} levels")


def _unsayable(why: str) -> TypeError:
    return TypeError(f"a message cannot be sent ({why}); send what JSON can say")
