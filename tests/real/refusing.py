"""A kernel that is short of something, on demand: accept(2) of one process fails with an errno of the test's choice.

Limits of the whole machine (ENFILE: ``fs.file-max``; ENOBUFS and ENOMEM: memory) cannot be lowered for one service.
seccomp's user notification (seccomp_unotify(2)) is the smallest real stand-in: the kernel stops the system call, asks
here, and lets it fail or go on; nothing in the process under test is other than in production. EMFILE and ETOOMANYREFS
have limits of a process and are shown with those.
"""

import fcntl
import os
import platform
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCEPT4 = {"x86_64": 288, "aarch64": 242}[platform.machine()]
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]
CONTINUE = 1
_RECV, _SEND, _ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
_NOTIF = struct.Struct("=QIIiIQ6Q")

WRAPPER = f"""
import array, ctypes, os, socket, struct, sys
code = b"".join(struct.pack("=HBBI", *one) for one in (
    (0x20, 0, 0, 4), (0x15, 0, 3, {AUDIT_ARCH}),     # another architecture: let it be
    (0x20, 0, 0, 0), (0x15, 0, 1, {ACCEPT4}),        # accept4: ask
    (0x06, 0, 0, 0x7FC00000), (0x06, 0, 0, 0x7FFF0000),
))
buffer = ctypes.create_string_buffer(code, len(code))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
number = {{"x86_64": 317, "aarch64": 277}}[os.uname().machine]
fd = libc.syscall(number, 1, 8, ctypes.byref(program))
if fd < 0:
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
with socket.socket(socket.AF_UNIX) as way:
    way.connect(sys.argv[1])
    socket.send_fds(way, [b"x"], [fd])
os.close(fd)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Installs the filter, hands its listener to the test, becomes the service."""


class Refusing:
    """Answers for the kernel.

    Attributes:
        error: what accept fails with on sockets whose inode is in ``inodes``; 0 lets it through.
        refused: how often it has.
    """

    def __init__(self) -> None:
        self.error = 0
        self.inodes: set[str] = set()
        self.refused = 0
        self._fd = -1
        self._over = False

    def arguments(self, path: Path) -> list[str]:
        """What goes before the service's command."""
        return [sys.executable, "-c", WRAPPER, os.fspath(path)]

    def serve(self, fd: int) -> None:
        """Until told to end."""
        self._fd = fd
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not self._over:
            for _, event in poll.poll(100):
                if event & select.POLLIN:
                    self._one()
                elif event & select.POLLHUP:
                    return  # no process is left that has the filter

    def _one(self) -> None:
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self._fd, _RECV, buffer, True)
        except OSError:
            return  # it has ended meanwhile
        number, pid, _, _, _, _, listener, *_ = _NOTIF.unpack(buffer)
        refuse = self.error
        if refuse:
            try:
                refuse = self.error if os.readlink(f"/proc/{pid}/fd/{listener}") in self.inodes else 0
            except OSError:
                refuse = 0
        self.refused += bool(refuse)
        answer = struct.pack("=QqiI", number, 0, -refuse, 0 if refuse else CONTINUE)
        try:
            fcntl.ioctl(self._fd, _SEND, answer)
        except OSError:
            pass  # it has been killed meanwhile

    def end(self) -> None:
        self._over = True


@contextmanager
def refusing(path: Path) -> Iterator[Refusing]:
    """For one service, to be started ``through`` its :meth:`Refusing.arguments`; ends after it has.

    Args:
        path: of a unix socket that is made for the hand-over.
    """
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.fspath(path))
        door.listen(1)
        door.settimeout(20)
        made = Refusing()

        def run() -> None:
            peer, _ = door.accept()
            with peer:
                _, fds, _, _ = socket.recv_fds(peer, 1, 1)
            try:
                made.serve(fds[0])
            finally:
                os.close(fds[0])

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.end()
            thread.join(20)


def inode_of(pid: int, port: int) -> str:
    """What ``/proc/PID/fd`` shows of the process's TCP socket that listens on a port."""
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
            return f"socket:[{words[9]}]"
    raise AssertionError(f"nobody listens on {port}")
