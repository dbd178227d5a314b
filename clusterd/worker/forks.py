"""Children that the app forks without an exec: signals to them are theirs, and not the worker's."""

import os
import signal
import threading


def watch() -> None:
    """From now on, once a process and after the loop's signal handlers are in place. For good: a fork hook stays."""
    _Forks()


class _Forks:
    """A child that the app forks without an exec has signals of its own.

    It would inherit the handlers, and with them the descriptor by which a signal wakes the loop; but what is written
    there wakes the worker's loop, and a SIGTERM to the child, such as ``multiprocessing``'s ``terminate``, would be
    the worker's end instead. For the length of the fork signals are held back: the child may get one at once.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._masks = threading.local()  # any thread may fork
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def _before(self) -> None:
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self.NUMBERS)

    def _in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_child(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # noqa: TID251  # a child has no loop whose handler it would be
        signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: TID251
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)
