"""One page: an event is handled, what follows is executed, facts are shown, the timer is set for the next deadline."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..core.commands import Command
from ..core.events import Event, Tick
from ..core.facts import Fact
from ..core.supervisor import Supervisor

Observer = Callable[[Fact], None]


class Pump:
    """Drives a supervisor on an event loop; the one place that reads the clock for it.

    Args:
        loop: the primary's loop.
        supervisor: the rules.
        execute: does one command; it may feed events, also at once.
        observers: each is called with every fact, before the commands of the same event are executed: whoever logs
            must say "killed" before the process is.

    Attributes:
        broken: the first fault of the rules themselves, a sentence; empty while there was none.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        supervisor: Supervisor,
        execute: Callable[[Command], None],
        observers: Sequence[Observer],
    ) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._execute = execute
        self._observers = tuple(observers)
        self._events: deque[Event] = deque()
        self._running = False
        self.broken = ""
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, event: Event) -> None:
        """Take in an event. It is handled before this returns, unless another one is being handled now."""
        self._events.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._events:
                event = self._events.popleft()
                try:
                    commands, facts = self._supervisor.handle(event, self._loop.time())
                except Exception as error:  # half of it has been done: what the rules know is not what is
                    self.broken = self.broken or f"the rules failed on {type(event).__name__}: {error!r}"
                    self._loop.call_exception_handler({"message": self.broken, "exception": error})
                    continue
                for fact in facts:
                    for observe in self._observers:
                        self._attempt(observe, fact)
                for command in commands:
                    self._attempt(self._execute, command)
        finally:
            self._running = False
            self._arm()

    def _attempt(self, what: Callable[[Any], None], about: Any) -> None:
        """One fault in an observer or in a command is told, and must not keep the others from being done."""
        try:
            what(about)
        except Exception as error:
            self._loop.call_exception_handler({"message": f"{about!r} could not be dealt with", "exception": error})

    def overdue(self) -> float:
        """Seconds since the next deadline should have been dealt with; 0 while it lies ahead."""
        deadline = self._supervisor.deadline()
        return 0.0 if deadline is None else max(0.0, self._loop.time() - deadline)

    def close(self) -> None:
        """No tick will come any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._supervisor.deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self.feed, Tick())
