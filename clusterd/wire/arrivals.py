"""Descriptors that a channel has received, until the message comes that they belong to."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

LOST: Final = -1
"""In the place of a descriptor that did not arrive: the kernel dropped it (``MSG_CTRUNC``), its message comes."""


class Arrivals:
    """The descriptors of one channel that wait for their message, and those that wait in vain.

    Args:
        most: how many may wait.
    """

    __slots__ = ("_fds", "_missed", "_most", "_stray")

    def __init__(self, most: int) -> None:
        self._most = most
        self._fds: deque[int] = deque()
        self._missed = False  # the last message got none
        self._stray: list[int] = []

    def __len__(self) -> int:
        return len(self._fds)

    def come(self, fds: Iterable[int]) -> None:
        """They came, in this order, ``LOST`` ones among them."""
        self._fds.extend(fds)

    def take(self, *, behind: bool) -> int | None:
        """The descriptor of the next message; ``None`` if it has none, or is ``behind`` one that had none."""
        fd = self._fds.popleft() if self._fds else LOST
        if behind and self._missed:
            self.refuse((fd,))
            return None
        self._missed = fd == LOST
        return None if self._missed else fd

    def trim(self) -> None:
        """What is beyond the bound waits in vain."""
        while len(self._fds) > self._most:
            self.refuse((self._fds.pop(),))

    def refuse(self, fds: Sequence[int]) -> None:
        """They belong to nothing."""
        self._stray.extend(fd for fd in fds if fd != LOST)

    def end(self) -> None:
        """No more messages come."""
        self.refuse(tuple(self._fds))
        self._fds.clear()

    @property
    def strayed(self) -> bool:
        """Some wait in vain."""
        return bool(self._stray)

    def stray(self) -> list[int]:
        """Those that wait in vain, once."""
        stray, self._stray = self._stray, []
        return stray
