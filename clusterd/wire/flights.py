"""Messages with descriptors, from ``send`` to their acknowledgement."""

from typing import Any


class Handle:
    """A message with a descriptor, from ``send`` to its acknowledgement."""

    __slots__ = ("attempts", "data", "fd", "handed_out", "kind", "message")

    def __init__(self, data: bytes, fd: int, message: Any, kind: str) -> None:
        self.data = data
        self.fd = fd
        self.message = message
        self.kind = kind
        self.attempts = 0
        self.handed_out = False
