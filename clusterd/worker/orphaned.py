"""A worker whose primary has died: nobody ends it any more if it does not end by itself, and nobody what it started.

At its deadline its loop ends it, with what it started. If that does not turn a thread in C does, which says where the
worker was; and if Python does not even learn of the death, the kernel does (:mod:`clusterd.unix.lifeline`). That is for
the case that the zygote has died too: if not, it is the undertaker.
"""

import asyncio
import faulthandler
import math
import os
import signal
from typing import Final, NoReturn

from ..unix import lifeline, marked, pidfd, process
from ..wire import stacks
from ..wire import zygote as wire

SIGNAL: Final = signal.SIGRTMAX - 2
"""What a worker gets when its primary dies, and never else. SIGTERM, which anybody may send, could not be told from it:
of a dying process with threads the kernel sends it while ``getppid()`` still says that process (``find_new_reaper``
gives the children to another thread first)."""

POLITE: Final = marked.PATIENCE + 0.5
"""Seconds that a worker needs to end what it has started."""


class Bounded:
    """How long this worker may live on without a primary.

    Args:
        fd: its end of the primary's lifeline, its own from here on.
        seconds: from the primary's death; ``None`` is for ever.
        worker: its number.
    """

    def __init__(self, fd: int, seconds: float | None, worker: int) -> None:
        self._seconds = seconds
        self._worker = worker
        self._begun = False
        self._switch: lifeline.Switch | None = None
        if seconds is None:
            os.close(fd)
            return
        # Where it cannot be as many seconds it is the most that can be: who has not turned for a minute hangs by any
        # measure, and the primary would have ended it long ago.
        try:
            self._switch = lifeline.Switch(fd, lifeline.number_for(seconds, {stacks.SIGNAL, SIGNAL}))
        except OSError:
            return  # a sandbox that has no such signals: there are the thread and the undertaker

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Python runs, and knows that the primary is gone: the kernel need not act, but the time counts from the death.
        The first time only; main thread only, be it in the middle of anything."""
        if self._begun or self._seconds is None:
            return
        self._begun = True
        since = self._switch.disarm() if self._switch is not None else 0.0
        left = max(self._seconds - since, 0.0)
        try:
            loop.call_soon_threadsafe(loop.call_later, left, _over, self._worker)
        except RuntimeError:
            pass  # it is closed: this process is at its end
        faulthandler.dump_traceback_later(left + POLITE, exit=True, file=2)
        # The application may use that one thread for itself. The alarm is its own too if it handles it.
        if signal.getsignal(signal.SIGALRM) == signal.SIG_DFL:
            signal.alarm(math.ceil(left + POLITE) + 1)


def end_descendants(worker: int) -> None:
    """Last of all in a worker, by number, that has no primary any more: end what it has started, as that would have:
    politely what made a session of its own, the rest at once."""
    origin = os.environ.get(wire.ORIGIN, "")
    marked.end([f"{name}={value}".encode() for name, value in ((wire.ORIGIN, origin), (wire.WORKER_ID, str(worker)))])
    pidfd.kill_own_group()
    for child in process.children():  # forked without an exec, they carry no mark of this worker
        fd = pidfd.open_pidfd(child)
        pidfd.send_signal(fd, signal.SIGKILL)
        os.close(fd)


def _over(worker: int) -> NoReturn:
    try:
        end_descendants(worker)
    finally:
        os._exit(1)
