"""What ``/proc`` says of processes and descriptors, for tests."""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def wait_for(condition: Callable[[], T], deadline: float, what: str | Callable[[], str] = "the condition") -> T:
    """Looks every 5 ms until ``condition()`` is true, for at most ``deadline`` seconds, and returns what it gave.

    ``what`` names the condition in the failure; called, it tells also how things stand then.

    Only for facts that nothing announces, such as what ``/proc`` says: where there is a log record, a notification,
    an end of file or a pidfd, wait for that.
    """
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            name = what() if callable(what) else what
            pytest.fail(f"{name} did not come true within {deadline:g} s")
        select.select([], [], [], 0.005)
    return value


def open_descriptors() -> dict[int, str]:
    """The descriptors of this process and what each of them is; the one that reads ``/proc`` is not among them."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def processes_marked(run_dir: Path) -> list[int]:
    """The pids of all living processes that were started for the primary of ``run_dir``, however deep.

    They are known by ``CLUSTERD_RUN_DIR`` in the environment they were exec'd with, which forks keep. Zombies are left
    out: their environment cannot be read, and their parent is among the living.
    """
    mark = b"CLUSTERD_RUN_DIR=" + os.fsencode(run_dir)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found
