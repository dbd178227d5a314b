"""Ending this process, from wherever."""

import atexit
import os
import signal
import sys
import traceback
from typing import Final, NoReturn

NOT_EXECUTED: Final = 127
"""Exit code of a worker whose program could not be executed, as a shell has it."""


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


def by_signal(number: signal.Signals) -> NoReturn:
    """End as a process ends that does not handle the signal, so that whoever waits for it sees it."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)  # noqa: TID251  # the last thing that this process does
    signal.raise_signal(number)
    os._exit(128 + number)
