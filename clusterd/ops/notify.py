"""What the service manager is told: READY, STATUS and STOPPING, as facts come (sd_notify(3))."""

import asyncio
from typing import Protocol

from clusterd.core import facts as f
from clusterd.ops.source import Source

PAUSE = 0.2
"""Seconds between two STATUS lines: a crash row of a hundred slots must not become a stream of datagrams."""

LONGEST = 400
"""Characters of a STATUS line."""


class Sends(Protocol):
    """What is needed of :class:`clusterd.unix.notify.Notifier`.

    Attributes:
        available: whether there is a service manager at all.
    """

    available: bool

    def send(self, *lines: str) -> bool:
        """Send the lines in one datagram; never blocks, never raises. False: not taken, to be sent again."""


def summary(view: f.View) -> str:
    """The service in one line: ``4/4 ready, generation 1; web/2 restarting in 1.6 s: crash``."""
    many = len(view.pools) > 1
    parts = []
    for pool in view.pools:
        label = f"{pool.name} " if many else ""
        head = f"{label}{pool.ready}/{pool.wanted} ready, generation {pool.generation}"
        if pool.given_up:
            head += ", given up"
        elif pool.zygote == "starting":
            head += ", importing the app"
        for slot in pool.slots:
            if slot.worker is None and slot.next_start is not None and slot.next_start > view.now:
                reason = f": {slot.last_reason.value}" if slot.last_reason is not None else ""
                head += f"; {pool.name}/{slot.index} restarting in {slot.next_start - view.now:.1f} s{reason}"
        parts.append(head)
    if view.phase != "running":
        living = sum(len(pool.workers) for pool in view.pools)
        return f"{view.phase.replace('_', ' ')}, {living} {'worker' if living == 1 else 'workers'} left"
    return "; ".join(parts)[:LONGEST]


class Notify:
    """Tells the service manager. Lives in the primary's loop.

    READY=1 is said once, after the first :class:`~clusterd.core.facts.ServiceReady`: systemd starts what depends on
    the service then, and a worker that only exists answers nobody.
    """

    def __init__(self, notifier: Sends, source: Source) -> None:
        self._notifier = notifier
        self._source = source
        self._said = ""
        self._owed: list[str] = []
        self._next: asyncio.TimerHandle | None = None

    def fact(self, fact: f.Fact) -> None:
        """READY and STOPPING at once, STATUS when it has changed and the last one is :data:`PAUSE` ago."""
        if not self._notifier.available:
            return
        match fact:
            case f.ServiceReady(first=True):
                self._owed.append("READY=1")
                self._say()
            case f.StopBegan():
                # A READY=1 that the manager never took would now be untrue.
                self._owed = ["STOPPING=1"]
                self._say()
            case f.Stopped():
                self.close()
                self._notifier.send(*self._owed, f"STATUS=stopped: {_one_line(fact.reason)}")
            case _ if self._next is None:
                self._say()

    def close(self) -> None:
        """Say nothing any more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _say(self) -> None:
        status = _one_line(summary(self._source.view()))
        if not self._owed and status == self._said:
            return
        if self._notifier.send(*self._owed, f"STATUS={status}"):
            self._owed.clear()
            self._said = status
        self.close()
        self._next = asyncio.get_running_loop().call_later(PAUSE, self._again)

    def _again(self) -> None:
        """What has changed in the meantime, or was not taken, is said now."""
        self._next = None
        self._say()


def _one_line(text: str) -> str:
    """A line break in a value would be a further assignment of the protocol."""
    return " ".join(text.split())[:LONGEST]
