"""Listening unix sockets: made without a race for the path, owned as asked, removed by whoever made them alone.

An abstract one, ``@name`` (unix(7)), has no file: no mode and no owner, whoever shares the network namespace may
connect, and it is gone with its last descriptor.
"""

import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from clusterd.errors import HostError
from clusterd.unix.sockets import peer_credentials

_LOCK_PATIENCE: Final = 1.0

_HINTS: Final = {
    errno.ENOENT: "make its directory first",
    errno.ENOTDIR: "what should be its directory is none",
    errno.EACCES: "its directory is closed to this user",
    errno.EROFS: "choose a path that can be written to",
}


@dataclass(slots=True)
class Bound:
    """A listening unix socket, and its file.

    Attributes:
        sock: the socket, the owner's to close.
        path: where it is; ``@name`` for an abstract one.
        file: device and inode of its file; ``None`` for an abstract one, and once it is removed.
    """

    sock: socket.socket
    path: str
    file: tuple[int, int] | None

    def remove(self) -> None:
        """Take the file away, unless another has taken its place. Only the first call does something.

        To be called before the socket is closed: while it is open the kernel holds the inode, so no other file has its
        number. Does not wait: what is held up stays, and the next to bind takes it away as stale.
        """
        file, self.file = self.file, None
        if file is None:
            return
        try:
            with _locked(self.path, 0.0):
                found = os.lstat(self.path)
                if (found.st_dev, found.st_ino) == file:
                    os.unlink(self.path)
        except (OSError, HostError):
            pass


def bind_unix(path: str | os.PathLike[str], mode: int, backlog: int, *, user: str = "", group: str = "") -> Bound:
    """Make a listening unix stream socket: non-blocking, close-on-exec.

    A socket that nobody listens on any more is removed, one that is served is refused. Looking, removing and binding
    happen under a lock on ``PATH.lock``: without it two processes that start together both see the stale socket, and
    the second removes the first one's new one. Binding aside and renaming has the same hole, and so has a check of the
    inode afterwards.

    Args:
        path: where; at most 107 bytes; ``@name`` for an abstract one. Who may write to its directory may replace it:
            owner and mode of that are the caller's care.
        mode: permission bits; who may connect needs write. Nobody can connect before they are in force.
        backlog: connections that wait to be accepted.
        user: the file's owner, by name or number; empty leaves it this process's.
        group: its group, likewise.

    Raises:
        HostError: it is served by another process (the message has its pid), something else is in the way, the
            directory is missing or closed to us, there is no such user or group, or the file may not be given to them.
    """
    text = os.fspath(path)
    if len(os.fsencode(text)) > 107:
        raise HostError(f"cannot listen on {text}: a unix socket's path has at most 107 bytes; choose a shorter one")
    owner = _uid(user, text), _gid(group, text)
    try:
        if text.startswith("@"):
            return _bind_abstract(text, backlog)
        with _locked(text, _LOCK_PATIENCE):
            _remove_stale(text)
            return _bind_path(text, mode, backlog, owner)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        why = os.strerror(error.errno or 0) + (f"; {hint}" if hint else "")
        raise HostError(f"cannot listen on {text}: {why}") from error


def _uid(user: str, path: str) -> int:
    try:
        return -1 if not user else int(user) if user.isascii() and user.isdigit() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise HostError(f"cannot listen on {path}: there is no user {user!r} on this machine") from None


def _gid(group: str, path: str) -> int:
    try:
        return -1 if not group else int(group) if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        raise HostError(f"cannot listen on {path}: there is no group {group!r} on this machine") from None


@contextmanager
def _locked(path: str, patience: float) -> Iterator[None]:
    lock = _lock(path, patience)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.fstat(lock).st_size == 0:  # else it is somebody's who calls his own file so
                os.unlink(f"{path}.lock")  # whoever waits for it sees that it is gone, and makes it anew
        os.close(lock)


def _lock(path: str, patience: float) -> int:
    name = f"{path}.lock"
    deadline = time.monotonic() + patience
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.lstat(name)):
                return lock
        except FileNotFoundError:
            pass  # its holder was done between our two calls
        except BlockingIOError:
            if time.monotonic() >= deadline:  # its holder is stopped, or somebody else uses the file
                os.close(lock)
                raise HostError(f"cannot listen on {path}: another process holds {name}") from None
            time.sleep(0.01)  # the holder makes a few system calls; there is no event to wait for with a bound
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HostError(f"cannot listen on {path}: a file that is no socket is there; remove it or choose another")
    except FileNotFoundError:
        return
    try:
        pid = _server(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    raise _served(path, pid)


def _server(address: str) -> int:
    """The pid of who serves ``address``; 0 where its queue is full: served, if slowly."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(address)
        except BlockingIOError:
            return 0
        return peer_credentials(probe)[0]


def _served(path: str, pid: int) -> HostError:
    by = f" by pid {pid}" if pid else ""
    return HostError(f"cannot listen on {path}: it is already served{by}; stop that process or choose another path")


def _bind_path(path: str, mode: int, backlog: int, owner: tuple[int, int]) -> Bound:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made = False
    try:
        os.fchmod(sock.fileno(), mode)  # Linux makes the file with the socket's own mode, less the umask (unix_bind)
        sock.bind(path)
        made = True
        os.chmod(path, mode)  # gives back what the umask took
        if owner != (-1, -1):
            _give(path, *owner)
        found = os.lstat(path)
        sock.listen(backlog)  # last: until now whoever connects is refused, also one who might not have when it is done
    except BaseException:
        if made:
            os.unlink(path)
        sock.close()
        raise
    return Bound(sock, path, (found.st_dev, found.st_ino))


def _give(path: str, uid: int, gid: int) -> None:
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except PermissionError:
        raise HostError(
            f"cannot listen on {path}: this process may not give it to user {uid} and group {gid} (-1 is unchanged);"
            " that needs root or CAP_CHOWN, or of groups one that this user is in"
        ) from None


def _bind_abstract(name: str, backlog: int) -> Bound:
    address = "\0" + name[1:]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        try:
            pid = _server(address)
        except OSError:  # bound by one that does not listen, or of another kind
            pid = 0
        raise _served(name, pid) from None
    return Bound(sock, name, None)
