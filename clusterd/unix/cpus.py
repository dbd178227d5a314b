"""On which CPUs a process may run: sched_setaffinity(2). What it starts afterwards may run on the same."""

import errno
import os
from collections.abc import Iterable

from ..errors import HostError


def allowed() -> list[int]:
    """Those on which the calling thread may run, by number; at least one."""
    return sorted(os.sched_getaffinity(0))


def of(pid: int) -> list[int] | None:
    """Those on which a process may run; ``None``: there is none."""
    try:
        return sorted(os.sched_getaffinity(pid))
    except OSError:
        return None


def bind(cpus: Iterable[int]) -> None:
    """Have the calling thread run on these alone.

    Raises:
        HostError: there are none such, or not all of them are for this process, or it may not; nothing has changed.
    """
    before, wanted = os.sched_getaffinity(0), set(cpus)
    try:
        os.sched_setaffinity(0, wanted)
        missing = wanted - os.sched_getaffinity(0)
        if missing:  # the kernel takes what it can (sched_setaffinity(2), "Notes": cpusets)
            os.sched_setaffinity(0, before)
            raise HostError(_lacks(missing, before))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise HostError(_lacks(wanted, before)) from None
        raise HostError(
            f"processes here may not choose their CPUs: sched_setaffinity: {error.strerror}; the unit that"
            " `clusterd generate systemd` makes of a configuration that says so allows it"
        ) from None


def verify(cpus: Iterable[int]) -> None:
    """Find out whether :func:`bind` would do it, and change nothing.

    Raises:
        HostError: it would not, and why.
    """
    before = os.sched_getaffinity(0)
    bind(cpus)
    os.sched_setaffinity(0, before)


def bind_to_one(number: int) -> None:
    """Have the calling thread run on one of those that it may run on now: as many numbers, as many CPUs in turn.

    Where that is not permitted it runs where it runs.
    """
    mine = allowed()
    try:
        os.sched_setaffinity(0, {mine[number % len(mine)]})
    except OSError:
        pass  # one that was just taken away, or a filter of system calls: it works all the same


def ranges(cpus: Iterable[int]) -> str:
    """For people, as the kernel writes lists of CPUs: ``0-3,8``."""
    spans: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)


def _lacks(missing: Iterable[int], there: Iterable[int]) -> str:
    return f"there is no CPU {ranges(missing)} for this process, which may run on {ranges(there)}"
