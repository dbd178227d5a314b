"""What a process may set and ask about itself: prctl(2) attributes, descriptors, limits, children, threads, title.

Python 3.11 has no prctl; it is called through ctypes. Everything under ``/proc`` is read as ``self``: nothing here ever
reads another process's files.
"""

import ctypes
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_CAP_AMBIENT: Final = 47
_IS_SET, _RAISE, _LOWER = 1, 2, 3
_CLOSE_RANGE: Final = 436  # one number on every architecture but alpha; glibc has a function for it only since 2.34
_MAX_FD: Final = (1 << 32) - 1

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int | bytes) -> None:
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    zero = ctypes.c_ulong(0)  # an int would be passed as 32 bits of a variadic call
    if _libc.prctl(ctypes.c_int(option), value, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"prctl({option})")


@contextmanager
def without_ambient(capabilities: Iterable[int]) -> Iterator[None]:
    """For the length of the block, the calling thread hands none of these capabilities on by fork and execve(2).

    Ambient capabilities are what a service manager gives to a process that is not root, and all that it starts has them
    too (capabilities(7)). A thread's own; what it may do itself stays as it is.
    """
    lowered = [number for number in capabilities if _ambient(_IS_SET, number) == 1]
    for number in lowered:
        _ambient(_LOWER, number)
    try:
        yield
    finally:
        for number in lowered:
            _ambient(_RAISE, number)


def _ambient(what: int, number: int) -> int:
    """-1 where the kernel knows no such capability."""
    zero = ctypes.c_ulong(0)
    done: int = _libc.prctl(ctypes.c_int(_PR_CAP_AMBIENT), ctypes.c_ulong(what), ctypes.c_ulong(number), zero, zero)
    return done


def set_child_subreaper() -> None:
    """Become the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER; survives execve, not fork).

    Raises:
        OSError: the kernel refuses.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_parent_death_signal(sig: int) -> None:
    """Have the kernel send ``sig`` to this process when the *thread* that forked it ends; 0 takes it back.

    PR_SET_PDEATHSIG. Cleared by fork, by setresuid and setresgid that change something, and by execve of a set-uid
    file: set it last. A parent that ended before the call sends nothing: compare ``os.getppid()`` afterwards.

    Raises:
        OSError: EINVAL, no such signal.
    """
    _prctl(_PR_SET_PDEATHSIG, sig)


def set_name(name: str) -> None:
    """Name the calling thread (PR_SET_NAME): its first 15 bytes are what ``ps -o comm``, ``top`` and ``killall`` show.

    Raises:
        ValueError: the name contains a NUL.
    """
    if "\0" in name:
        raise ValueError("a thread's name contains no NUL")
    _prctl(_PR_SET_NAME, _cut(name, 15))


def title(text: str) -> bool:
    """Make ``ps`` and ``top`` show ``text`` as this process's command line, and its first 15 bytes as its name.

    The memory that execve(2) laid the arguments down in is overwritten. PR_SET_MM_ARG_START, which could point
    elsewhere, needs CAP_SYS_RESOURCE, and going on into the environment, as setproctitle does, garbles what C code
    still gets from getenv(3). So a title is cut at the length of the original arguments; whoever wants longer ones
    executes with an argument of padding. ``sys.argv`` is a copy and unchanged. Children forked later inherit the title.

    Returns:
        Whether the whole text is visible. Never raises.
    """
    try:
        set_name(text.replace("\0", " "))
        start, end = _argument_area()
        room = end - start - 1  # the last byte stays NUL, or the kernel goes on reading into the environment
        if room <= 0:
            return False
        raw = _cut(text.replace("\0", " "), room)
        ctypes.memmove(start, raw.ljust(room + 1, b"\0"), room + 1)
        return len(raw) == len(text.encode("utf-8", "surrogateescape"))
    except (OSError, ValueError, IndexError):
        return False


def set_oom_score_adj(value: int) -> bool:
    """Tell the kernel's out-of-memory killer to spare (-1000) or prefer (1000) this process (proc(5)).

    Returns:
        False if it may not be set: below what it was needs CAP_SYS_RESOURCE.
    """
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def close_fds_except(keep: Iterable[int]) -> None:
    """Close every descriptor of this process that is not in ``keep``: 0, 1 and 2 as well.

    One close_range(2) a gap (Linux 5.9). Where the kernel or a seccomp filter refuses it, what ``/proc/self/fd`` lists
    is closed one by one; a loop up to RLIMIT_NOFILE, as ``os.closerange`` would run then, takes minutes where the limit
    is a thousand million.

    Raises:
        OSError: neither way is open (no ``/proc``).
    """
    kept = sorted({fd for fd in keep if fd >= 0})
    low = 0
    for fd in [*kept, _MAX_FD]:
        last = fd if fd == _MAX_FD else fd - 1
        if low <= last and not _close_range(low, last):
            _close_listed(set(kept))
            return
        low = fd + 1


def _close_range(first: int, last: int) -> bool:
    return bool(
        _libc.syscall(ctypes.c_long(_CLOSE_RANGE), ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0)) == 0
    )


def _close_listed(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in kept:
            try:
                os.close(fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # the listing's own descriptor is in the list, and closed by now
                    raise


def raise_nofile_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one.

    Returns:
        What the soft limit was, for programs started later, which may not bear a large one (select(2) ends at 1024).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # No soft limit may be above fs.nr_open, and an infinite hard one is.
        most = hard if hard != resource.RLIM_INFINITY else int(Path("/proc/sys/fs/nr_open").read_text())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):
        pass  # nr_open was lowered below the hard limit, or is not visible: the soft limit is then what there is
    return soft


def children() -> list[int]:
    """The pids of this process's own children, ended and unreaped ones among them, in no order.

    Raises:
        OSError: no ``/proc``.
    """
    try:
        pids: list[int] = []
        for tid in os.listdir("/proc/self/task"):
            pids += map(int, Path(f"/proc/self/task/{tid}/children").read_text().split())
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN, or a thread that ended between the two calls
        return _children_by_parent()
    return pids


def _children_by_parent() -> list[int]:
    me = os.getpid()
    pids: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = _stat_fields(f"/proc/{name}/stat")
            except OSError:
                continue  # ended since it was listed
            if int(fields[1]) == me:
                pids.append(int(name))
    return pids


def start_time() -> int:
    """When this process was started, in clock ticks since the machine was (proc(5), stat field 22). With its pid it
    names one process of all that there have been; an execve(2) changes neither.

    Raises:
        OSError: no ``/proc``.
    """
    return int(_stat_fields("/proc/self/stat")[19])


def tasks() -> list[tuple[int, str]]:
    """The threads of this process as ``(tid, name)``, those made by C code among them, by rising tid.

    Raises:
        OSError: no ``/proc``.
    """
    found: list[tuple[int, str]] = []
    for tid in sorted(map(int, os.listdir("/proc/self/task"))):
        try:
            found.append((tid, Path(f"/proc/self/task/{tid}/comm").read_text(errors="replace").rstrip("\n")))
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since it was listed
    return found


def open_fds() -> dict[int, str]:
    """The open descriptors of this process and the link of each: a path, ``socket:[inode]``,
    ``anon_inode:[eventpoll]``.

    Raises:
        OSError: no ``/proc``, or EMFILE.
    """
    found: dict[int, str] = {}
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the listing's own
    return found


class FdKind(StrEnum):
    """What an open descriptor is, as far as sharing it by fork matters."""

    FILE = "file"
    DIRECTORY = "directory"
    DEVICE = "device"
    NULL = "null device"
    TERMINAL = "terminal"
    PIPE = "pipe"
    LISTENING = "listening socket"
    UNIX_SOCKET = "unix socket"
    SOCKET = "socket"
    MEMORY = "shared memory"
    EVENTS = "event descriptor"
    """epoll, eventfd, timerfd, signalfd, inotify, io_uring, pidfd …: kernel state that parent and child would share."""


def fd_kind(fd: int) -> FdKind:
    """What kind of thing an open descriptor of this process is.

    Raises:
        OSError: EBADF.
    """
    status = os.fstat(fd)
    mode = status.st_mode
    if stat.S_ISSOCK(mode):
        return _socket_kind(fd)
    if stat.S_ISREG(mode):
        return FdKind.MEMORY if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:") else FdKind.FILE
    if stat.S_ISDIR(mode):
        return FdKind.DIRECTORY
    if stat.S_ISFIFO(mode):
        return FdKind.PIPE
    if stat.S_ISCHR(mode):
        if status.st_rdev in _QUIET_DEVICES:
            return FdKind.NULL
        return FdKind.TERMINAL if os.isatty(fd) else FdKind.DEVICE
    return FdKind.DEVICE if stat.S_ISBLK(mode) else FdKind.EVENTS


# /dev/null, zero, full, random, urandom: no state by which two processes could disturb each other (the kernel's
# devices.txt, major 1).
_QUIET_DEVICES: Final = frozenset(os.makedev(1, minor) for minor in (3, 5, 7, 8, 9))


def _socket_kind(fd: int) -> FdKind:
    sock = socket.socket(fileno=os.dup(fd))
    with sock:
        if sock.type != socket.SOCK_DGRAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return FdKind.LISTENING
        return FdKind.UNIX_SOCKET if sock.family == socket.AF_UNIX else FdKind.SOCKET


def _cut(text: str, size: int) -> bytes:
    """``text`` in UTF-8, cut at a character's border to at most ``size`` bytes."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) <= size:
        return raw
    return raw[:size].decode("utf-8", "ignore").encode()


def _stat_fields(path: str) -> list[bytes]:
    """The fields of a ``/proc/PID/stat`` from the third on; the second is a name that may contain anything."""
    return Path(path).read_bytes().rpartition(b")")[2].split()


@cache
def _argument_area() -> tuple[int, int]:
    """Start and end of the arguments' memory (proc(5), stat fields 48 and 49); ``(0, 0)`` if unknown or not
    writable. It stays where it is for the life of the process and of all that are forked from it."""
    fields = _stat_fields("/proc/self/stat")
    start, end = int(fields[45]), int(fields[46])
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        span, permissions = line.split(maxsplit=2)[:2]
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= start < end <= high and permissions.startswith("rw"):
            return start, end
    return 0, 0
