"""Shared memory of aligned 64-bit words: one process writes, another reads, and the writer cannot hurt the reader.

The memory is a sealed memfd (memfd_create(2), fcntl(2) F_ADD_SEALS): nobody can shrink it, which would end a reader
with SIGBUS. Aligned 64-bit words written through ``memoryview.cast("Q")`` are never seen torn; two words never agree by
promise, and any value may be a lie: readers clamp.
"""

import fcntl
import mmap
import os

WORD = 8
"""Bytes a word."""


def create(words: int, name: str = "scoreboard") -> int:
    """A memfd of ``words`` zeroed 64-bit words, close-on-exec, sealed against shrinking, growing and further seals.

    Args:
        name: what ``/proc/PID/fd`` shows it as.

    Raises:
        ValueError: ``words`` is not positive.
        OSError: EMFILE, ENFILE, ENOMEM.
    """
    if words <= 0:
        raise ValueError(f"a scoreboard has at least one word, not {words}")
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, words * WORD)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


class Board:
    """One mapping of a scoreboard.

    Attributes:
        fd: of the memory, where it was asked for; -1 elsewhere.
        words: the words as unsigned integers, ``words[i]`` to read, ``words[i] = n`` to write where writable.
    """

    __slots__ = ("_bytes", "_map", "fd", "words")

    def __init__(self, mapping: mmap.mmap, fd: int = -1) -> None:
        """Use ``attach``."""
        self.fd = fd
        self._map = mapping
        self._bytes = memoryview(mapping)
        self.words = self._bytes.cast("Q")

    @classmethod
    def attach(cls, fd: int, words: int, *, writable: bool, keep: bool = False) -> "Board":
        """Map a scoreboard. The caller may close ``fd`` at once; the mapping holds a copy of it (Python's mmap does).

        Args:
            fd: of ``create``, by inheritance or SCM_RIGHTS.
            words: how many words it has.
            writable: False gives a mapping in which writing raises TypeError.
            keep: hold a copy of ``fd`` as the attribute, until ``close``.

        Raises:
            ValueError: the memory is smaller than that, so touching it would be fatal.
            OSError: EBADF, EACCES, ENOMEM, EMFILE.
        """
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = mmap.mmap(fd, words * WORD, mmap.MAP_SHARED, protection)
        return cls(mapping, os.dup(fd) if keep else -1)

    @property
    def bytes(self) -> memoryview:
        """The whole as bytes. Whoever keeps a slice of it must release that before ``close``."""
        return self._bytes

    def close(self) -> None:
        """Unmap; harmless when repeated.

        Raises:
            BufferError: the caller still holds a slice of ``words``.
        """
        self.words.release()
        self._bytes.release()
        self._map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
