"""Control groups, version 1 and 2: the processors and the memory this process may use, and who shares its group."""

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class _Mount(NamedTuple):
    root: PurePosixPath  # the group that is visible at the mount point
    point: PurePosixPath
    version: int
    options: frozenset[str]


def cpu_count(root: Path = Path("/"), affinity: int | None = None) -> int:
    """How many processors this process may keep busy.

    The least of its affinity and of the quotas of its control groups and all their parents. A quota is rounded up,
    because two thirds of a processor still need one process to use them. It may change meanwhile: ask again.
    cgroups(7); the kernel's cgroup-v2 document, "cpu.max", and cgroup-v1, "sched-bwc".

    Args:
        root: where ``proc`` and the mount points are found; other than ``/`` for a file tree that was copied.
        affinity: number of processors the scheduler may choose among; ``None`` asks sched_getaffinity(2).

    Returns:
        At least 1.
    """
    count = len(os.sched_getaffinity(0)) if affinity is None else affinity
    for quota in _quotas(root):
        count = min(count, math.ceil(quota))
    return max(count, 1)


def processes(root: Path = Path("/")) -> list[int]:
    """The pids in this process's own control group, itself among them, by number.

    Version 2 is asked first, then hierarchies of version 1, and those in which it is not the root group before all
    others. Without a service manager or container it may still be the group of a whole machine or login: that a
    process is in it says nothing about whose it is.

    Returns:
        ``[]`` where it cannot be known. Processes of other pid namespaces are left out.
    """
    groups = _groups(root)
    hierarchies = [(2, ""), (1, "name=systemd"), (1, "pids"), (1, "cpu")]
    hierarchies.sort(key=lambda entry: groups.get(entry[1]) == PurePosixPath("/"))
    for version, option in hierarchies:
        for directory in _directories(root, groups, version, option):
            text = _read(directory / "cgroup.procs")
            pids = sorted({int(word) for word in text.split() if word.isdecimal()} - {0})
            if pids:
                return pids
            break  # only the own group, not its parents
    return []


class Counters:
    """What the kernel counts of this process's own control group. Cheap: the files are looked up once.

    Args:
        root: as for :func:`cpu_count`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        groups = _groups(root)
        self._throttled = [
            *_files(_directories(root, groups, 2, ""), "cpu.stat", "throttled_usec", 1e6),
            *_files(_directories(root, groups, 1, "cpu"), "cpu.stat", "throttled_time", 1e9),
        ]
        self._oom_kills = [
            *_files(_directories(root, groups, 2, ""), "memory.events", "oom_kill", 1),
            *_files(_directories(root, groups, 1, "memory"), "memory.oom_control", "oom_kill", 1),
        ]

    def throttled_seconds(self) -> float | None:
        """Seconds for which processes of the group waited for its quota; ``None`` where the kernel does not count."""
        return _counted(self._throttled)

    def oom_kills(self) -> int | None:
        """Processes of the group that the kernel killed for want of memory; ``None`` where it does not count."""
        count = _counted(self._oom_kills)
        return None if count is None else int(count)


class Usage(NamedTuple):
    """Memory of one control group, in bytes.

    Attributes:
        used: what the kernel could not take back without swapping or killing, nearly: file pages that nobody has read
            again count as free.
        limit: what the group may have.
    """

    used: int
    limit: int


#: Version 1 writes the largest multiple of a page for "no limit", and some runtimes a number near it.
_NO_LIMIT = 2**62


class Memory:
    """How near this process's groups are to their memory limits. Cheap: the files are looked up once.

    Kernel documents cgroup-v2, "memory.max" and "memory.stat", and cgroup-v1, "memory".

    Args:
        root: as for :func:`cpu_count`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        groups = _groups(root)
        self._places = [
            *(
                (folder / "memory.max", folder / "memory.current", folder / "memory.stat", b"inactive_file ")
                for folder in _directories(root, groups, 2, "")
            ),
            *(
                (
                    folder / "memory.limit_in_bytes",
                    folder / "memory.usage_in_bytes",
                    folder / "memory.stat",
                    b"total_inactive_file ",
                )
                for folder in _directories(root, groups, 1, "memory")
            ),
        ]

    def usage(self) -> Usage | None:
        """That of the group, own or parent, which is nearest to its limit; ``None`` where there is no limit.

        Limits may change meanwhile: each call asks again.
        """
        nearest: Usage | None = None
        for most, current, stat, key in self._places:
            limit, used = _number(most), _number(current)
            if limit is None or used is None or not 0 < limit < _NO_LIMIT:
                continue
            used = max(0, used - _stat(stat, key))
            if nearest is None or used / limit > nearest.used / nearest.limit:
                nearest = Usage(used, limit)
        return nearest


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None  # "max", or a file that is not there


def _stat(path: Path, key: bytes) -> int:
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    for line in data.splitlines():
        if line.startswith(key):
            word = line[len(key) :].strip()
            return int(word) if word.isdigit() else 0
    return 0


def _files(directories: Iterator[Path], name: str, key: str, unit: float) -> list[tuple[Path, str, float]]:
    """The file of the own group, if it has the key: parents are others' too."""
    found = [(directory / name, key, unit) for directory in islice(directories, 1)]
    return [one for one in found if _counted([one]) is not None]


def _counted(files: list[tuple[Path, str, float]]) -> float | None:
    for path, key, unit in files:
        for line in _read(path).splitlines():
            name, _, value = line.partition(" ")
            if name == key and value.strip().isdecimal():
                return int(value) / unit
    return None


def _quotas(root: Path) -> Iterator[Fraction]:
    groups = _groups(root)
    for directory in _directories(root, groups, 2, ""):
        words = _read(directory / "cpu.max").split()
        if len(words) == 2:
            yield from _quota(*words)
    for directory in _directories(root, groups, 1, "cpu"):
        yield from _quota(_read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us"))


def _quota(quota: str, period: str) -> Iterator[Fraction]:
    try:
        microseconds, of = int(quota), int(period)
    except ValueError:  # "max", or a file that is not there
        return
    if microseconds > 0 and of > 0:  # -1 is no quota in version 1
        yield Fraction(microseconds, of)


def _groups(root: Path) -> dict[str, PurePosixPath]:
    """Controller (or ``name=…``, or ``""`` for version 2) to this process's group, from ``/proc/self/cgroup``."""
    groups: dict[str, PurePosixPath] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and parts[2].startswith("/"):
            for controller in parts[1].split(","):
                groups[controller] = PurePosixPath(parts[2])
    return groups


def _directories(root: Path, groups: dict[str, PurePosixPath], version: int, controller: str) -> Iterator[Path]:
    """Where this process is in one hierarchy: its own group's directory first, then the parents, up to the mount
    point."""
    group = groups.get(controller)
    if group is None:
        return
    for mount in _mounts(root):
        if mount.version == version and (version == 2 or controller in mount.options):
            # A group outside of what is mounted (a container without a cgroup namespace of its own, or one that was
            # moved) is seen, if at all, as the mount point itself.
            relative = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
            if ".." in relative.parts:
                relative = PurePosixPath()
            point = root / mount.point.relative_to("/")
            yield point / relative
            for parent in relative.parents:
                yield point / parent
            return


def _mounts(root: Path) -> Iterator[_Mount]:
    """The control group file systems in ``/proc/self/mountinfo`` (proc(5))."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        shown, point = (PurePosixPath(_unescape(field)) for field in fields[3:5])
        if point.is_absolute():
            yield _Mount(shown, point, 2 if kind[0] == "cgroup2" else 1, frozenset(kind[2].split(",")))


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):
        return ""
