"""What a host is like, as far as it bites a service: each check is a function of files and limits, and says what to do."""

import os
import re
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OK: Final = "ok"
NOTE: Final = "note"
WARNING: Final = "warn"
BAD: Final = "bad"

LEVELS: Final = (OK, NOTE, WARNING, BAD)
"""``note``: good to know; ``warn``: will bite under load or in trouble; ``bad``: clusterd cannot run so."""

ENOUGH_FILES: Final = 4096
"""Descriptors below which a service of some load runs out: the primary holds some for each worker, and connections."""

UNLIMITED_V1: Final = 1 << 60
"""From here on a memory limit of cgroup v1 is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        level: one of :data:`LEVELS`.
        subject: what was looked at, a word or two.
        says: how it is, and where it is not well what follows and what to do.
    """

    level: str
    subject: str
    says: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a configuration needs of the host.

    Attributes:
        backlogs: by listener.
        ports: TCP ports by listener, 0 left out.
        workers: how many there will be; ``None`` is unknown.
        run_dir: the run directory.
        has_user: every pool has a user of its own.
    """

    backlogs: dict[str, int]
    ports: dict[str, int]
    workers: int | None
    run_dir: str
    has_user: bool


class Host:
    """The files of a host.

    Args:
        root: where its file system begins; tests have one of their own.
        release: the kernel's, as uname(2) tells it.
        uid: who asks.
        limits: gives soft and hard limit of a resource.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        release: str | None = None,
        uid: int | None = None,
        limits: Callable[[int], tuple[int, int]] = resource.getrlimit,
    ) -> None:
        self.root = root
        self.limits = limits
        self.release = os.uname().release if release is None else release
        self.uid = os.getuid() if uid is None else uid

    def read(self, path: str) -> str | None:
        """A file's text without its ends; ``None``: it is not there or not for us."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """A file that is a number; ``None``: it is none."""
        text = self.read(path)
        return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None

    @property
    def version(self) -> tuple[int, ...]:
        """The kernel's version."""
        return tuple(int(part) for part in re.findall(r"\d+", self.release)[:2])

    def group_files(self, name: str, v1: str) -> Iterator[str]:
        """Texts of a cgroup file, from our own group upwards, and of the same thing in cgroup v1."""
        for line in (self.read("/proc/self/cgroup") or "").splitlines():
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            if number == "0":
                base, file = "/sys/fs/cgroup", name
            elif v1.partition("/")[0] in controllers.split(","):
                base, file = f"/sys/fs/cgroup/{v1.partition('/')[0]}", v1.partition("/")[2]
            else:
                continue
            parts = [part for part in path.split("/") if part not in ("", "..")]
            for depth in range(len(parts), -1, -1):
                text = self.read("/".join([base, *parts[:depth], file]))
                if text is not None:
                    yield text


def kernel(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    said = f"Linux {host.release}"
    if host.version < (5, 4):
        yield Finding(BAD, "kernel", f"{said} is older than 5.4, which can wait for pidfds")
    elif host.version < (5, 14):
        yield Finding(
            NOTE, "kernel", f"{said}: before 5.14 what waits in a worker's kernel queue cannot be moved to others"
        )
    else:
        yield Finding(OK, "kernel", said)


def proc(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    if host.read("/proc/self/status") is None:
        yield Finding(BAD, "/proc", "it is not mounted; workers cannot be born clean or measure themselves without it")
        return
    for line in (host.read("/proc/self/mounts") or "").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == "/proc" and re.search(r"hidepid=(?!0|off)", fields[3]):
            yield Finding(NOTE, "/proc", f"mounted with {fields[3]}: who holds a taken port cannot be named")


def files(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    soft, hard = host.limits(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_FILES:
        yield Finding(
            WARNING, "open files",
            f"the hard limit is {hard}; the primary cannot raise its own above it: LimitNOFILE= of the unit, ulimit -Hn",
        )  # fmt: skip
    else:
        yield Finding(OK, "open files", f"limits {soft} and {hard}; the primary raises its own to the hard one")


def backlog(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    most = host.number("/proc/sys/net/core/somaxconn")
    longest = max((wanted.backlogs if wanted else {"": 2048}).values(), default=0)
    if most is not None and most < longest:
        yield Finding(
            WARNING, "backlog",
            f"net.core.somaxconn is {most}, so a backlog of {longest} is cut to it; sysctl -w net.core.somaxconn={longest}",
        )  # fmt: skip
    elif most is not None:
        yield Finding(OK, "backlog", f"net.core.somaxconn is {most}, listeners want {longest}")
    if host.number("/proc/sys/net/ipv4/tcp_abort_on_overflow"):
        yield Finding(
            WARNING,
            "backlog",
            "net.ipv4.tcp_abort_on_overflow is 1: a full queue resets clients instead of having them wait",
        )


def ports(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    if wanted is None:
        return
    first = host.number("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    local = re.findall(r"\d+", host.read("/proc/sys/net/ipv4/ip_local_port_range") or "")
    for name, port in wanted.ports.items():
        if host.uid != 0 and port < (1024 if first is None else first):
            yield Finding(
                WARNING,
                "ports",
                f"{name} wants port {port}, which takes root, CAP_NET_BIND_SERVICE or socket activation",
            )
        if len(local) == 2 and int(local[0]) <= port <= int(local[1]):
            yield Finding(
                WARNING, "ports",
                f"{name} wants port {port}, which net.ipv4.ip_local_port_range ({local[0]} to {local[1]}) gives to any"
                f" client that asks: put it into net.ipv4.ip_local_reserved_ports",
            )  # fmt: skip


def memory(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    limits = [
        int(text)
        for text in host.group_files("memory.max", "memory/memory.limit_in_bytes")
        if text.isdigit() and int(text) < UNLIMITED_V1
    ]
    if limits:
        yield Finding(OK, "memory", f"the cgroup's limit is {min(limits) / 2**20:.0f} MiB")
    else:
        yield Finding(
            NOTE, "memory", "no limit of a cgroup: a leak takes the host's memory, MemoryMax= of the unit bounds it"
        )
    if host.number("/proc/sys/vm/overcommit_memory") == 2:
        yield Finding(
            WARNING, "memory",
            "vm.overcommit_memory is 2: each fork must find all of the app's memory a second time, and workers may not start",
        )  # fmt: skip
    if "[always]" in (host.read("/sys/kernel/mm/transparent_hugepage/enabled") or ""):
        yield Finding(
            NOTE, "memory",
            "transparent huge pages are always on: what workers share by fork may be copied by 2 MiB; madvise keeps it shared",
        )  # fmt: skip


def processors(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0))
    shares = []
    for text in host.group_files("cpu.max", "cpu/cpu.cfs_quota_us"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and int(quota) > 0:
            shares.append(int(quota) / int(period or 100_000))
    if shares and min(shares) < allowed:
        yield Finding(
            NOTE, "processors",
            f"{allowed} are visible and the cgroup's quota is {min(shares):.2g}: workers = \"auto\" follows the quota,"
            " libraries that start a thread a processor do not (OMP_NUM_THREADS and its like)",
        )  # fmt: skip
    else:
        yield Finding(OK, "processors", f"{allowed}")


def processes(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    limits = [int(text) for text in host.group_files("pids.max", "pids/pids.max") if text.isdigit()]
    own = host.limits(resource.RLIMIT_NPROC)[0]
    if host.uid != 0 and own != resource.RLIM_INFINITY:
        limits.append(own)
    needed = 50 + 20 * ((wanted.workers if wanted else None) or 8)
    if limits and min(limits) < needed:
        yield Finding(
            WARNING, "processes",
            f"at most {min(limits)} processes and threads; this service wants about {needed}: TasksMax= of the unit, ulimit -u",
        )  # fmt: skip
    else:
        yield Finding(OK, "processes", f"at most {min(limits)}" if limits else "no limit")


def namespaces(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    clone = host.number("/proc/sys/kernel/unprivileged_userns_clone")
    if host.number("/proc/sys/user/max_user_namespaces") == 0 or clone == 0:
        yield Finding(NOTE, "user namespaces", "off: PrivateUsers= and unprivileged containers do not work here")
    else:
        yield Finding(OK, "user namespaces", "on")


def privileges(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    if host.uid == 0 and not (wanted and wanted.has_user):
        yield Finding(
            WARNING, "user", "this is root, and workers would be too: set pools.NAME.user, or User= of the unit"
        )
    status = host.read("/proc/self/status") or ""
    if re.search(r"^Seccomp:\s*2", status, re.MULTILINE):
        yield Finding(
            NOTE, "system calls", "a seccomp filter is in force: pidfd_open, memfd_create and prctl must pass it"
        )
    if host.number("/proc/sys/kernel/yama/ptrace_scope") not in (None, 0):
        yield Finding(
            NOTE, "debuggers", "kernel.yama.ptrace_scope: py-spy and gdb need root; `clusterd stacks` does not"
        )


def facilities(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    """What is used of this kernel, tried out."""
    tried: dict[str, Callable[[], int]] = {
        "pidfd_open": lambda: os.pidfd_open(os.getpid()),
        "memfd_create": lambda: os.memfd_create("doctor"),
    }
    for name, make in tried.items():
        try:
            os.close(make())
        except OSError as error:
            yield Finding(BAD, name, f"refused ({error.strerror}): the kernel is too old, or a filter forbids it")


def places(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    if wanted is None:
        return
    place = wanted.run_dir
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding(
            BAD,
            "run directory",
            f"{wanted.run_dir} cannot be made: {place} is not this user's to write; set clusterd.run_dir",
        )


def speed(host: Host, wanted: Wanted | None) -> Iterator[Finding]:
    from importlib.util import find_spec

    missing = [name for name in ("uvloop", "httptools") if find_spec(name) is None]
    if missing:
        yield Finding(NOTE, "speed", f"{' and '.join(missing)} not installed: pip install 'clusterd[fast]'")


CHECKS: Final[tuple[Callable[[Host, Wanted | None], Iterator[Finding]], ...]] = (
    kernel, facilities, proc, files, processes, backlog, ports, memory, processors, namespaces, privileges, places, speed,
)  # fmt: skip


def examine(host: Host, wanted: Wanted | None) -> list[Finding]:
    """All that is found, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(host, wanted)]
