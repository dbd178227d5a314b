"""What the service manager is told and given as facts come: READY, RELOADING, STOPPING, STATUS, listeners."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic_ns
from typing import Protocol

from clusterd.core import facts as f
from clusterd.ops.source import Source

PAUSE = 0.2
"""Seconds between two STATUS lines: a crash row of a hundred slots must not become a stream of datagrams."""

LONGEST = 400
"""Characters of a STATUS line."""

HEALTHY = 60.0
"""Seconds ready without a break after which the manager is told to begin anew with the delays between its restarts."""


class Sends(Protocol):
    """What is needed of :class:`clusterd.unix.notify.Notifier`.

    Attributes:
        available: whether there is a service manager at all.
    """

    available: bool

    def send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
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
        held = [str(slot.index) for slot in pool.slots if slot.held]
        if held:
            head += f", held: {', '.join(held)}"
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

    Args:
        notifier: where to.
        source: what STATUS is made of.
        kept: listening sockets by the names under which the manager is to keep them, for a primary that is killed.
        forgotten: names of those that it keeps and that are not wanted any more.
    """

    def __init__(
        self, notifier: Sends, source: Source, kept: Mapping[str, int] | None = None, forgotten: Sequence[str] = ()
    ) -> None:
        self._notifier = notifier
        self._source = source
        self._kept = dict(kept or {})
        self._said = ""
        self._failed = ""
        self._reloading = False
        self._owed: deque[tuple[tuple[str, ...], tuple[int, ...]]] = deque()
        self._next: asyncio.TimerHandle | None = None
        self._healthy: asyncio.TimerHandle | None = None
        if notifier.available:
            for name in forgotten:
                self._owe("FDSTOREREMOVE=1", f"FDNAME={name}")
            for name, fd in self._kept.items():
                self._owe("FDSTORE=1", f"FDNAME={name}", fd=fd)
            if self._owed:
                self._flush()

    def fact(self, fact: f.Fact) -> None:
        """READY and STOPPING at once, STATUS when it has changed and the last one is :data:`PAUSE` ago."""
        if not self._notifier.available:
            return
        match fact:
            case f.ServiceReady(first):
                self._watch_health(True)
                if first:
                    self._owe("READY=1")
                self._say()
            case f.ServiceUnready():
                self._watch_health(False)
                self._say()
            case f.ReloadBegan():
                self._reload()
            case f.ReloadEnded():
                self._reloaded(fact)
            case f.StopBegan():
                self._stop()
            case f.Stopped():
                self.close()
                self._flush()
                self._notifier.send(f"STATUS=stopped: {_one_line(fact.reason)}")
            case _ if self._next is None:
                self._say()

    def close(self) -> None:
        """Say nothing any more."""
        self._watch_health(False)
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _reload(self) -> None:
        self._failed = ""
        self._reloading = True
        self._owe("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")
        self._say()

    def _reloaded(self, fact: f.ReloadEnded) -> None:
        view = self._source.view()
        if view.phase != "running":
            return  # the manager has been told that it stops
        if not self._reloading and fact.generation is None:
            self._reload()  # refused before it began: a manager that has asked for it waits to hear of it
        self._reloading = False
        if fact.verdict is not f.Verdict.PROMOTED:
            # The protocol has no word for a reload that failed: READY says that it is over, STATUS how it went.
            self._failed = f"; reload failed: {fact.reason}"
        if view.was_ready:
            self._owe("READY=1")
        self._say()

    def _stop(self) -> None:
        # A READY=1 that the manager never took would now be untrue.
        self._owed.clear()
        for name in self._kept:  # while systemd holds it the socket listens, and clients would wait for nobody
            self._owe("FDSTOREREMOVE=1", f"FDNAME={name}")
        self._owe("STOPPING=1")
        self._say()

    def _watch_health(self, on: bool) -> None:
        if self._healthy is not None:
            self._healthy.cancel()
            self._healthy = None
        if on:
            self._healthy = asyncio.get_running_loop().call_later(HEALTHY, self._is_healthy)

    def _is_healthy(self) -> None:
        self._healthy = None
        self._owe("RESTART_RESET=1")
        self._say()

    def _owe(self, *lines: str, fd: int | None = None) -> None:
        """What must arrive, in this order."""
        self._owed.append((lines, () if fd is None else (fd,)))

    def _say(self) -> None:
        status = _one_line(summary(self._source.view()) + self._failed)
        if not self._owed and status == self._said:
            return
        if self._flush(f"STATUS={status}"):
            self._said = status
        self._wait()

    def _flush(self, status: str = "") -> bool:
        """Send what is owed, and the status with the last of it; whether all was taken."""
        lines = [status] if status else []
        while self._owed:
            owed, fds = self._owed[0]
            last = lines if len(self._owed) == 1 else []
            if not self._notifier.send(*owed, *last, fds=fds):
                self._wait()
                return False
            self._owed.popleft()
            if not self._owed:
                return True
        return not lines or self._notifier.send(*lines)

    def _wait(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = asyncio.get_running_loop().call_later(PAUSE, self._again)

    def _again(self) -> None:
        """What has changed in the meantime, or was not taken, is said now."""
        self._next = None
        self._say()


def _one_line(text: str) -> str:
    """A line break in a value would be a further assignment of the protocol."""
    return " ".join(text.split())[:LONGEST]
