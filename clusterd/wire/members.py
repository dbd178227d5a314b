"""Typed access to the members of a JSON object that a peer sent.

Types are compared exactly: JSON's ``true`` is no integer here, although Python's is.
"""

from collections.abc import Mapping
from typing import Any, Final

from clusterd.errors import PeerError

INT_MAX: Final = 2**31 - 1

MAX_TEXT: Final = 4096
"""Longest text that is read unless the reader says otherwise, in characters. A unix socket's path has 107 (unix(7))."""


class Members:
    """The members of one object. Every reader raises PeerError where a member is not what it must be.

    Args:
        members: the object.
        what: what it is, for the error's text; bounded by the caller.

    Attributes:
        get: the member as it came, ``None`` if it is not there.
    """

    __slots__ = ("_what", "get")

    def __init__(self, members: Mapping[str, Any], what: str) -> None:
        self.get = members.get
        self._what = what

    def wrong(self, name: str, expected: str) -> PeerError:
        """The error that says so."""
        value = self.get(name)
        if type(value) is str:
            shown = repr(value[:60])
        elif type(value) is int and abs(value) < 2**64:  # str() refuses an integer of very many digits
            shown = str(value)
        else:
            shown = "null" if value is None else type(value).__name__
        return PeerError(f"the peer sent {self._what} with {name} = {shown}; expected {expected}")

    def integer(self, name: str, low: int = 0, high: int = INT_MAX) -> int:
        """An integer within the bounds, both included."""
        value = self.get(name)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def integer_or_none(self, name: str, low: int = 0, high: int = INT_MAX) -> int | None:
        """As ``integer``; ``None`` for null or nothing."""
        return None if self.get(name) is None else self.integer(name, low, high)

    def text(self, name: str, *, limit: int | None = MAX_TEXT) -> str:
        """Text that can be written anywhere. With ``limit`` ``None`` any, half surrogate pairs among it."""
        value = self.get(name)
        if type(value) is not str or (limit is not None and (len(value) > limit or not _is_unicode(value))):
            raise self.wrong(name, "text" if limit is None else f"text of at most {limit} characters")
        return value

    def text_or_none(self, name: str) -> str | None:
        """As ``text``; ``None`` for null or nothing."""
        return None if self.get(name) is None else self.text(name)

    def truth_or_none(self, name: str) -> bool | None:
        """True or false; ``None`` for null or nothing."""
        value = self.get(name)
        if value is not None and type(value) is not bool:
            raise self.wrong(name, "true, false or null")
        return value

    def mapping_or_none(self, name: str) -> dict[str, Any] | None:
        """An object; ``None`` for null or nothing."""
        value = self.get(name)
        if value is not None and type(value) is not dict:
            raise self.wrong(name, "an object or null")
        return value


def _is_unicode(text: str) -> bool:
    """Whether ``text`` is no half of a surrogate pair: JSON can carry one, files and terminals cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
