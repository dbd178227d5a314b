"""SCHED_BATCH (sched(7)): who is woken does not interrupt who runs; it is the next when that one waits, or its turn is
over.

For a process whose work comes in small pieces that others make, all on a few CPUs. Interrupting them for each costs two
switches a piece; while none of them runs, the pieces gather, and it is woken as fast as any where a CPU is idle.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_entered = False


def enter() -> bool:
    """Have the calling thread be scheduled so, until :func:`leave`.

    Returns:
        Whether it is: not where somebody has chosen a policy for this process, or system calls are filtered.
    """
    global _entered
    _entered = _entered or _change(os.SCHED_OTHER, os.SCHED_BATCH)
    return _entered


def leave() -> None:
    """Be scheduled as before :func:`enter`; harmless without one."""
    global _entered
    if _entered:
        _entered = not _change(os.SCHED_BATCH, os.SCHED_OTHER)


@contextmanager
def left() -> Iterator[None]:
    """For the length of the block as before :func:`enter`: what is forked in it, or becomes of this process by
    execve(2), would have the policy for ever."""
    entered = _entered
    leave()
    try:
        yield
    finally:
        if entered:
            enter()


def _change(old: int, new: int) -> bool:
    try:
        if os.sched_getscheduler(0) != old:
            return False
        os.sched_setscheduler(0, new, os.sched_param(0))
    except OSError:
        return False
    return True
