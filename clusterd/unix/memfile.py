"""Files in memory (memfd_create(2)): for what is handed to another process, or to a library that takes only paths."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def create(name: str, data: bytes) -> int:
    """A memfd that holds ``data`` and that nobody can change any more, close-on-exec.

    Args:
        name: shown in ``/proc/PID/fd``.

    Raises:
        OSError: EMFILE, ENFILE, ENOMEM.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> bytes:
    """All that it holds, wherever its offset stands."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


@contextmanager
def path_to(name: str, data: bytes) -> Iterator[str]:
    """A path that reads as ``data`` while the block runs, for libraries that read files and not bytes.

    Raises:
        OSError: as :func:`create`.
    """
    fd = create(name, data)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
