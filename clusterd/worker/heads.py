"""What is read of a connection: a bound on the head of a request, and the token of the unread returned at once.

Both are put around uvicorn's ``data_received``, which runs for every read: no more is called than must be.
"""

from collections.abc import Callable
from typing import Any, Final

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's head that httptools, which has no bound of its own, is fed after the first read of it; h11
takes 16 KiB."""


def limited(base: Any, *, freeing: bool = False) -> Callable[[Any, bytes], None]:
    """``data_received`` with a limit on the head. The base's is called directly: this runs for every read.

    Args:
        freeing: that returns the token at the first byte, as :func:`freeing`, without a call more.
    """
    base_data_received = base.data_received

    def data_received(self: Any, data: bytes) -> None:
        base_data_received(self, data)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            return  # that head is complete
        unfinished(self, data)

    def freeing_data_received(self: Any, data: bytes) -> None:
        if self.token is not None:
            self.free()
        base_data_received(self, data)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            return
        unfinished(self, data)

    def unfinished(self: Any, data: bytes) -> None:
        if self.scope is not self.headed:  # it begins somewhere in this read
            self.headed, self.head = self.scope, 0
            return
        self.head += len(data)
        if self.head > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("Request head too large.")

    return freeing_data_received if freeing else data_received


def freeing(reading: Callable[[Any, bytes], None]) -> Callable[[Any, bytes], None]:
    """``data_received`` with the token returned at the first byte."""

    def data_received(self: Any, data: bytes) -> None:
        if self.token is not None:
            self.free()
        reading(self, data)

    return data_received
