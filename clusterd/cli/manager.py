"""Everything between one primary and its service manager: who tells it what, and in which order that ends."""

from collections.abc import Mapping, Sequence

from ..config.rules import longest_drain
from ..config.schema import Config
from ..core.facts import Fact
from ..ops.notify import Notify
from ..ops.patience import Patience
from ..ops.source import Source
from ..ops.watchdog import Watchdog
from ..unix.notify import Notifier

BARRIER = 1.0
"""Seconds that the service manager gets at the end to deal with what it was told."""

SILENCE = 60.0
"""Seconds of silence that the watchdog is asked to bear while this process becomes other code."""


class Manager:
    """The manager's side of the primary; made in its loop. Where there is no manager it does nothing.

    Args:
        config: the configuration.
        source: what is looked at.
        kept: see :class:`~clusterd.ops.notify.Notify`.
        forgotten: likewise.
    """

    def __init__(self, config: Config, source: Source, kept: Mapping[str, int], forgotten: Sequence[str]) -> None:
        self._source = source
        self._notifier = Notifier(unset=True)
        self._notify = Notify(self._notifier, source, kept, forgotten)
        start_timeouts = {name: pool.start_timeout for name, pool in config.pools.items()}
        drain = longest_drain(config.shutdown) or 0.0
        self._patience = Patience(self._notifier, source, start_timeouts, config.shutdown.lame_duck, drain)
        self._watchdog: Watchdog | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that name the manager, which are in the environment no more."""
        return self._notifier.variables

    def fact(self, fact: Fact) -> None:
        """Takes in what has become true."""
        self._notify.fact(fact)
        self._patience.fact(fact)

    def expect_silence(self, expected: bool) -> None:
        """Have the watchdog wait while this process becomes other code, which is silent until it has started."""
        interval = self._notifier.watchdog
        if interval is not None:
            wait = max(interval, SILENCE) if expected else interval
            self._notifier.send("WATCHDOG=1", f"WATCHDOG_USEC={round(wait * 1e6)}")

    def watch(self) -> None:
        """The primary is there to be looked at: the watchdog begins."""
        self.expect_silence(False)
        self._watchdog = Watchdog(self._notifier, self._source, self._notifier.watchdog)

    def close(self) -> None:
        """The end: what was said is waited for, at most :data:`BARRIER`; nothing else is left to do by then."""
        if self._watchdog is not None:
            self._watchdog.close()
        self._patience.close()
        self._notify.close()
        self._notifier.barrier(BARRIER)
        self._notifier.close()
