"""Whose ends the kernel's out-of-memory killer is to blame for."""

from collections.abc import Callable


class OomKills:
    """Whether an end by SIGKILL was the kernel's for want of memory: its counter says that there was one more.

    Args:
        count: the counter; ``None`` where the kernel has none.
    """

    def __init__(self, count: Callable[[], int | None]) -> None:
        self._count = count
        self._blamed = count() or 0
        self._before = self._blamed

    def blame(self) -> bool:
        """For one end by a SIGKILL that was not ours. Each count is one end's."""
        count = self._count() or 0
        if count <= self._blamed:
            return False
        self._blamed += 1
        return True

    def settle(self) -> None:
        """Once in a while: counts that no worker's end has taken were others', and are nobody's any more."""
        self._blamed = max(self._blamed, self._before)
        self._before = self._count() or 0
