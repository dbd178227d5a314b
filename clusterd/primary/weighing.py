"""What a worker weighs now, as far as it is to be believed."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Resident:
    """What the kernel says of one process: bytes that are resident, and those of them that no file is behind."""

    resident: int
    anonymous: int


def resident(pid: int) -> Resident | None:
    """From ``/proc/PID/statm``, which unlike ``smaps`` waits for no lock of the process (proc(5))."""
    try:
        words = Path(f"/proc/{pid}/statm").read_bytes().split()
        pages, shared = int(words[1]), int(words[2])
    except (OSError, ValueError, IndexError):
        return None
    size = os.sysconf("SC_PAGE_SIZE")
    return Resident(pages * size, max(0, pages - shared) * size)


def weigh(said: int, then: int, pid: int) -> int:
    """Proportional memory of a worker now: what it last said, and how its resident memory has changed since.

    What it says is not believed beyond what the kernel says of it.

    Args:
        said: its proportional memory when it looked last; 0 where it has not.
        then: what was resident then.
    """
    now = resident(pid)
    if now is None:
        return 0
    if not 0 < said <= then:
        return now.anonymous
    return max(0, min(said + now.resident - then, now.resident))
