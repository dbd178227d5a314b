"""Signal masks and dispositions: what a process blocks, and what its children begin with."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

_FIXED: Final = frozenset({signal.SIGKILL, signal.SIGSTOP})
# What a Python interpreter ignores from its start: a write to a closed socket or an overlong file is an exception then.
_IGNORED_BY_PYTHON: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})


def block(signals: Iterable[int]) -> set[int]:
    """Add signals to the calling thread's mask. Blocked ones wait, one of a kind, even for a process that is pid 1.

    Returns:
        The mask before.
    """
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, signals))


def unblock(signals: Iterable[int]) -> set[int]:
    """Take signals out of the calling thread's mask; those that wait are delivered before this returns.

    Returns:
        The mask before.
    """
    return set(signal.pthread_sigmask(signal.SIG_UNBLOCK, signals))


def reset_all(*, to_exec: bool = False) -> None:
    """Set every signal to its default action and unblock all: for the child after a fork. Main thread only.

    The wakeup descriptor is forgotten first: it is the parent's event loop's.

    Args:
        to_exec: a program that is not Python follows: SIGPIPE and SIGXFSZ are set to default too. Otherwise they stay
            as every Python interpreter begins, ignored, because libraries count on EPIPE instead of death.

    Raises:
        ValueError: not in the main thread.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - _FIXED:
        ignored = not to_exec and number in _IGNORED_BY_PYTHON
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextmanager
def defaults_for_exec() -> Iterator[None]:
    """For the length of the block, a child that executes a program begins with an empty mask and default actions.

    A mask and ignored signals outlive execve(2); handlers do not. So this thread's mask is emptied, and whatever is
    ignored gets a handler in the meantime. A ``preexec_fn`` could do both in the child, but runs Python between fork
    and exec, where another thread's lock may be held for ever; posix_spawn(3) does both, but cannot change the user.

    No signal is lost, and none takes an action that it would not have taken: one that was blocked and has no handler
    yet gets one that notes it, and is raised again, blocked, at the end. One that was blocked and has a handler is
    handled now; with an event loop's handlers, which write to the wakeup descriptor and nothing else, that is harmless.

    Raises:
        ValueError: not in the main thread.
    """
    noted: set[int] = set()

    def note(number: int, _frame: FrameType | None) -> None:
        noted.add(number)

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    before: dict[int, signal.Handlers] = {}
    try:
        ignored, caught = _dispositions()
        # SIGPIPE and SIGXFSZ are the interpreter's own business: subprocess restores them in every child.
        for number in (ignored | mask) - caught - _FIXED - _IGNORED_BY_PYTHON:
            before[number] = signal.SIG_IGN if number in ignored else signal.SIG_DFL
            signal.signal(number, note)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        yield
    finally:
        try:
            # Before it returns this runs the handlers of all that was delivered, so ``noted`` is complete; one of them
            # may raise (KeyboardInterrupt).
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        finally:
            for number, action in before.items():
                signal.signal(number, action)
            for number in noted:
                os.kill(os.getpid(), number)  # dropped by the kernel where it was ignored
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _dispositions() -> tuple[set[int], set[int]]:
    """What this process ignores and what it has handlers for; C code's handlers too, which Python does not know."""
    sets: dict[str, set[int]] = {}
    for line in Path("/proc/self/status").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key in ("SigIgn", "SigCgt"):
            bits = int(value, 16)
            sets[key] = {number for number in signal.valid_signals() if bits >> (number - 1) & 1}
    return sets["SigIgn"], sets["SigCgt"]
