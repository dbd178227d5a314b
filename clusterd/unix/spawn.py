"""Fork and exec of another program, as a child that only its pidfd's holder reaps.

``subprocess.Popen`` is used as the machinery between fork and exec, which is C and safe beside threads. Its own waiting
is switched off: it would reap the child behind its owner's back.
"""

import errno
import fcntl
import grp
import os
import pwd
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from clusterd.errors import HostError
from clusterd.unix import batch, process, signals

OWN_CAPABILITIES = (0, 5, 6, 7, 10)
"""CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE: what this process may be given for itself, and no
program that it starts is to have. Others are for those."""


class Child(NamedTuple):
    """A program that was started.

    Attributes:
        pid: its pid, which is also its process group; nobody else's until it is reaped by ``pidfd.wait``.
        pidfd: close-on-exec, the caller's to close.
    """

    pid: int
    pidfd: int


class Identity(NamedTuple):
    """Who a program is to run as: the numbers of user and group, and the supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    umask: int = -1,
    pass_fds: Sequence[int] = (),
    placed: Mapping[int, int] | None = None,
    own_group: bool = True,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Child:
    """Start a program: own process group unless told otherwise, empty signal mask, default signal actions, and of this
    process's descriptors only those named; of ambient capabilities none of :data:`OWN_CAPABILITIES`.

    Main thread only: a parent-death signal that the program asks for comes when the *thread* that forked it ends. A
    caller with an event loop is held up until the exec, a millisecond or few.

    Args:
        argv: the program, searched in ``env``'s PATH if it has no slash, and its arguments.
        env: its whole environment.
        cwd: its working directory; entered before the user is changed. ``None``: this process's.
        user: name or number to run as, with its own group and supplementary groups. ``None``: unchanged.
        group: name or number of the group instead of the user's own.
        umask: -1 leaves it as it is here.
        pass_fds: descriptors that stay open in the program *under the same numbers*: tell it in ``argv`` or ``env``.
            They may be close-on-exec here.
        placed: descriptors that the program is to find under given numbers: number to descriptor, from 3 on.
        own_group: it leads a process group of its own; false leaves it in this process's, where a terminal's Ctrl-C
            reaches it.
        stdin: descriptor for its 0; ``None`` is /dev/null.
        stdout: descriptor for its 1; ``None`` is this process's.
        stderr: descriptor for its 2; ``None`` is this process's.

    Raises:
        HostError: no such program, directory, user or group, no permission, no room for a process; one sentence.
        RuntimeError: not in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a program is started from the main thread only: its death signal would follow the thread")
    who = identity(user, group)
    try:
        with (
            _occupied(placed or {}),
            signals.defaults_for_exec(),
            process.without_ambient(OWN_CAPABILITIES),
            batch.left(),
        ):
            started = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                user=who.uid if who else None,
                group=who.gid if who else None,
                extra_groups=who.groups if who else None,
                umask=umask,
                pass_fds=(*pass_fds, *(placed or ())),
                preexec_fn=partial(_place, dict(placed)) if placed else None,  # noqa: PLW1509  # takes no lock
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
                process_group=0 if own_group else None,
                restore_signals=True,
            )
            # Anything but None: neither Popen's methods nor its __del__ wait for the child then, and it is never put
            # into subprocess._active, which every later Popen reaps from.
            started.returncode = 0
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise HostError(_why(error, argv, cwd, who)) from error
    try:
        return Child(started.pid, os.pidfd_open(started.pid))
    except OSError as error:  # no descriptor left: a child that nobody can watch must not be
        os.kill(started.pid, signal.SIGKILL)
        os.waitpid(started.pid, 0)
        raise HostError(_why(error, argv, cwd, who)) from error


@contextmanager
def _occupied(placed: Mapping[int, int]) -> Iterator[None]:
    """For the length of the block every number of ``placed`` is an open descriptor here, so that subprocess's own pipe
    cannot come to stand on one."""
    free = [number for number in placed if not _is_open(number)]
    for number in free:
        os.dup2(placed[number], number, inheritable=False)
    try:
        yield
    finally:
        for number in free:
            os.close(number)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _place(placed: dict[int, int]) -> None:
    """Between fork and exec: put each descriptor under its number. Moved aside first: one may stand where another goes.

    System calls only, nothing that takes a lock which another thread may have held at the fork.
    """
    top = max(placed) + 1
    aside = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, top) for number, fd in placed.items()}
    for number, fd in aside.items():
        os.dup2(fd, number, inheritable=True)


def identity(user: str | int | None, group: str | int | None) -> Identity | None:
    """Look up whom ``user`` and ``group`` name; ``None`` if that is what this process is already.

    Raises:
        HostError: there is no such user or group, or a number without an entry in passwd(5) is given without a group.
    """
    if user is None and group is None:
        return None
    entry = _user(os.geteuid() if user is None else user)
    gid = _group(group) if group is not None else entry.pw_gid if entry else None
    uid = entry.pw_uid if entry else int(os.geteuid() if user is None else user)
    if gid is None:
        raise HostError(f"user {user} has no entry in the password database and so no group of its own; name one")
    if os.geteuid() != 0 and (uid, gid) == (os.geteuid(), os.getegid()):
        return None  # setgroups(2) is root's; whoever is this user already has its groups
    groups = os.getgrouplist(entry.pw_name, gid) if entry else [gid]
    return Identity(uid, gid, tuple(groups))


def _user(user: str | int) -> pwd.struct_passwd | None:
    number = isinstance(user, int) or user.isdecimal()
    try:
        return pwd.getpwuid(int(user)) if number else pwd.getpwnam(str(user))
    except (KeyError, OverflowError) as error:
        if number and int(user) < 1 << 32:
            return None
        raise HostError(f"there is no user {user} on this machine; create it or name another") from error


def _group(group: str | int) -> int:
    if isinstance(group, int) or group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise HostError(f"there is no group {group} on this machine; create it or name another") from error


def _why(error: Exception, argv: Sequence[str], cwd: str | None, who: Identity | None) -> str:
    start = f"cannot start {argv[0]}"
    if not isinstance(error, OSError):
        return f"{start}: {error}"
    reason = os.strerror(error.errno or 0)
    # Popen tells what failed before the exec by naming cwd instead of the program.
    if error.filename != argv[0]:
        if error.errno == errno.EPERM and who is not None:
            return f"{start} as uid {who.uid}, gid {who.gid}: only root (CAP_SETUID, CAP_SETGID) may change the user"
        if cwd is not None and not _enterable(cwd):
            return f"{start}: its working directory {cwd} cannot be entered ({reason})"
        return f"{start}: {reason}"
    if error.errno == errno.ENOENT:
        return f"{start}: there is no such program, or the interpreter that its first line names is missing"
    if error.errno == errno.EACCES:
        return f"{start}: the file, or a directory on the way to it, may not be executed by this user"
    if error.errno == errno.ENOEXEC:
        return f"{start}: it is no program for this machine, and has no first line that names an interpreter"
    return f"{start}: {reason}"


def _enterable(cwd: str) -> bool:
    return os.path.isdir(cwd) and os.access(cwd, os.X_OK)
