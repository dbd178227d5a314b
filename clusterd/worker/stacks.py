"""The stacks of this process when somebody asks: of all threads in any case, and of asyncio's tasks if Python runs.

The first part is faulthandler's and is written by a signal handler in C, which needs neither the interpreter nor the
event loop: it shows a loop that is blocked and C code that never returns. Its own handler then hands the signal on to
Python's, which runs between two bytecodes of the main thread, and nothing of the app is touched by either.
"""

import asyncio
import faulthandler
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from ..wire import stacks

MOST_TASKS: Final = 500
"""Tasks that are shown; of more, their number."""

MOST_FRAMES: Final = 50
"""Frames of one task."""


def arm(fd: int, loop: asyncio.AbstractEventLoop) -> None:
    """From now on, answer the signal. Main thread only; ``fd`` stays open and belongs to this from here on.

    Args:
        fd: the shared file.
        loop: whose tasks are shown.
    """

    def rest(number: int, frame: FrameType | None) -> None:
        try:
            _write(fd, "\n".join(["", *thread_names(), *task_stacks(loop)]) + "\n")
        except BaseException as error:  # whatever it is, it must not be raised in the middle of the app
            _write(fd, f"\nthe tasks could not be shown: {error!r}\n")
        finally:
            os.pwrite(fd, stacks.ENDED, stacks.STATE)

    signal.signal(stacks.SIGNAL, rest)  # noqa: TID251  # no loop's affair: the loop is what may be blocked
    faulthandler.register(stacks.SIGNAL, fd, all_threads=True, chain=True)
    os.pwrite(fd, stacks.ARMED, stacks.STATE)


def _write(fd: int, text: str) -> None:
    room = stacks.STATE - os.lseek(fd, 0, os.SEEK_CUR)
    os.write(fd, text.encode("utf-8", "backslashreplace")[: max(0, room)])


def thread_names() -> list[str]:
    """What the threads that were shown by number are called."""
    # `enumerate` takes a lock that the code under the signal may hold.
    known = dict(getattr(threading, "_active", {}))
    lines = [f"Thread 0x{ident:016x} is {thread.name}" for ident, thread in known.items()]
    return ["Threads by name:", *(f"  {line}" for line in lines)]


def task_stacks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Each task of the loop with all that it awaits in turn, the innermost last."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    yield ""
    yield f"Tasks of the event loop: {len(tasks)}"
    for task in tasks[:MOST_TASKS]:
        yield f"Task {task.get_name()} (outermost call first):"
        yield from _awaiting(task.get_coro())
    if len(tasks) > MOST_TASKS:
        yield f"… and {len(tasks) - MOST_TASKS} more"


def _awaiting(awaited: Any) -> Iterator[str]:
    """The chain of awaits: a suspended task's own ``get_stack`` has its outermost frame only."""
    for _ in range(MOST_FRAMES):
        for kind, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if isinstance(frame, FrameType):
                yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_qualname}'
                awaited = getattr(awaited, inner)
                break
        else:
            break
    if awaited is not None:
        name = f" {awaited.get_name()}" if isinstance(awaited, asyncio.Task) else ""
        yield f"  waits for {type(awaited).__name__}{name}"
