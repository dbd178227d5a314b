"""``WATCHDOG=1`` to the service manager while the primary is sound, and ``WATCHDOG=trigger`` when it is not.

Sound is: the loop turns, and what the rules have due is done on time. A pool's trouble never withholds it: to restart
the good pools would not help the bad one.
"""

import asyncio

from clusterd.ops.notify import Sends
from clusterd.ops.source import Source

BEATS = 3
"""So many times at least in each interval that the manager allows: one that is lost must not be the end."""

LOOK = 5.0
"""Seconds between two looks at most, whatever interval the manager wants: it acts on a trigger in any case."""


class Watchdog:
    """Beats in the primary's loop from its making on, until :meth:`close`.

    Args:
        notifier: where to.
        source: what is looked at.
        interval: seconds within which the manager wants a beat; ``None`` if it wants none.
    """

    def __init__(self, notifier: Sends, source: Source, interval: float | None) -> None:
        self._notifier = notifier
        self._source = source
        self._interval = interval
        self._pause = LOOK if interval is None else min(LOOK, interval / BEATS)
        self._triggered = False
        self._next: asyncio.TimerHandle | None = None
        if notifier.available:
            self._beat()

    def close(self) -> None:
        """Beat no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _beat(self) -> None:
        self._next = asyncio.get_running_loop().call_later(self._pause, self._beat)
        if why := self._source.broken():
            if not self._triggered:
                self._triggered = self._notifier.send("WATCHDOG=trigger", f"STATUS=broken: {why}")
        elif self._interval is not None and self._source.overdue() < self._interval / BEATS:
            self._notifier.send("WATCHDOG=1")
