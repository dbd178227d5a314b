"""Ending this process, from wherever."""

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

NOT_EXECUTED: Final = 127
"""Exit code of a worker whose program could not be executed, as a shell has it."""

_ours: set[object] = set()


def at_once(code: int) -> NoReturn:
    """End now, though the main thread is somewhere else: exit functions and buffers, no waiting for threads."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def signal_myself(number: int) -> None:
    """Send this process a signal; Python's handlers run in the main thread."""
    os.kill(os.getpid(), number)  # noqa: TID251  # nobody else has this pid


@contextmanager
def spared(ending: Callable[[], bool]) -> Iterator[None]:
    """For the length of the block SIGTERM ends this process as it always does, but not while ``ending()`` is true.

    Servers that see to their own end on SIGTERM send it to themselves once more when they are done (uvicorn does), so
    that it takes its usual effect: a worker that was asked to end would end by a signal instead of with exit code 0.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not ending():
            by_signal(signal.SIGTERM)

    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mine:
        _ours.add(handle)
        signal.signal(signal.SIGTERM, handle)  # noqa: TID251  # back to what it was at the end of the block
    try:
        yield
    finally:
        if mine and signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # noqa: TID251


def ask_politely() -> bool:
    """If the program handles SIGTERM itself, send it that; whether it does."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or handler in _ours:
        return False
    signal_myself(signal.SIGTERM)
    return True


def by_signal(number: signal.Signals) -> NoReturn:
    """End as a process ends that does not handle the signal, so that whoever waits for it sees it."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)  # noqa: TID251  # the last thing that this process does
    signal.raise_signal(number)
    os._exit(128 + number)
