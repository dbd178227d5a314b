"""How the outside comes in: signals, one table. What each asks for is the core's affair, or the owner's."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass

from ..core import events as e
from ..unix import signals


@dataclass(frozen=True, slots=True)
class Door:
    """One signal: what it does, for the README, and the event it becomes; ``None``: the owner answers by itself."""

    does: str
    event: e.Event | None


SIGNALS: dict[signal.Signals, Door] = {
    signal.SIGTERM: Door("drain and end; a second one: now", e.Stop()),
    signal.SIGINT: Door("drain and end; a second one: now", e.Stop()),
    signal.SIGQUIT: Door("end now, without a drain", e.Stop(now=True)),
    signal.SIGHUP: Door("read the configuration again and reload", None),
    signal.SIGUSR1: Door("log the status", None),
    signal.SIGUSR2: Door("upgrade in place: same pid, same workers, no connection lost", None),
    signal.SIGTTIN: Door("one worker more in the first pool", None),
    signal.SIGTTOU: Door("one worker fewer in the first pool, one at the least", None),
}


def open_all(
    loop: asyncio.AbstractEventLoop, report: Callable[[e.Event], None], others: Callable[[signal.Signals], None]
) -> None:
    """Handle every signal of the table from now on, those that waited blocked since the start among them.

    SIGCHLD is set to its default: were it ignored, as some parents leave it, the kernel would throw statuses away.

    Args:
        report: takes the events.
        others: takes the signals that are no event.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # noqa: TID251  # no handler: neither of the two named instead does it
    for number, door in SIGNALS.items():
        if door.event is None:
            loop.add_signal_handler(number, others, number)
        else:
            loop.add_signal_handler(number, report, door.event)
    signals.unblock(SIGNALS)
