"""What a worker has started: read by the command itself, for the primary looks into nobody's ``/proc``."""

from typing import TypedDict

import psutil


class Started(TypedDict):
    """One process.

    Attributes:
        pid: as this command's pid namespace has it.
        command: its arguments, one string; its name in brackets if it has none.
        state: as proc(5), in a word.
        cpu_seconds: processor time that it has used.
        resident: bytes (RSS).
    """

    pid: int
    command: str
    state: str
    cpu_seconds: float
    resident: int


def of(worker: int, primary: int) -> list[Started]:
    """All living descendants of a worker, by pid; those that may not be looked at, or have ended since, are left out.

    Nothing at all where the two are not parent and child: the service is in another pid namespace, and these pids are
    strangers' here.
    """
    try:
        process = psutil.Process(worker)
        if process.ppid() != primary:
            return []
        children = process.children(recursive=True)
    except psutil.Error:
        return []
    return sorted(filter(None, map(_look, children)), key=lambda one: one["pid"])


def _look(process: psutil.Process) -> Started | None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            return Started(
                pid=process.pid,
                command=" ".join(process.cmdline()).strip() or f"[{process.name()}]",
                state=process.status(),
                cpu_seconds=times.user + times.system,
                resident=process.memory_info().rss,
            )
    except psutil.Error:
        return None
