"""A dead man's switch: some time after one process has died, the kernel ends another, whatever that is at.

Nothing of the other has to run for it, which may be in C code that keeps the interpreter's lock for ever. It is made of
three things. The *lifeline* is a pipe of which only the first process holds the writing end; the other has asked for a
signal when something becomes of its reading end (O_ASYNC, F_SETSIG in fcntl(2)), and the only thing that ever does is
that the last writer is gone (``pipe_release`` in Linux's fs/pipe.c). That signal's handler is libc's own ``alarm``,
which takes a number of seconds as a handler takes the number of its signal, and is safe in one (signal-safety(7)): so
signal 30 arms an alarm in 30 seconds. And SIGALRM, which nobody handles, ends the process.
"""

import ctypes
import fcntl
import os
import select
import signal
from collections.abc import Container
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_signal: Final = _libc.signal
_signal.argtypes, _signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
_ALARM: Final = ctypes.cast(_libc.alarm, ctypes.c_void_p)

NUMBERS: Final[tuple[int, ...]] = tuple(
    int(number)
    for number in (16, signal.SIGPWR, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1))  # 16 has no use on Linux
    if number in signal.valid_signals()
)
"""The signals that nobody sends a server, and so the seconds that can be had, by size: 16, 30, and 34 to 64. Whom
somebody sends one all the same it ended before, too, though at once."""


class Lifeline:
    """The end of the process whose death counts. Whoever else holds it, a fork without an exec, keeps it alive.

    Args:
        fd: the writing end, if there is one already; its own from here on.

    Raises:
        OSError: EMFILE, ENFILE or ENOMEM.
    """

    def __init__(self, fd: int = -1) -> None:
        if fd < 0:
            reading, fd = os.pipe2(os.O_CLOEXEC)
            os.close(reading)
        self._fd = fd

    def fileno(self) -> int:
        """The writing end."""
        return self._fd

    def lend(self) -> int:
        """A reading end for one other process, and a file description of its own: whom the signal goes to is one's.

        Raises:
            OSError: EMFILE, ENFILE or ENOMEM; no ``/proc``.
        """
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of it, as a death would."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def number_for(seconds: float, taken: Container[int]) -> int:
    """The signal that is as many seconds as these, or the next more; if there is none, the most that can be had.

    Args:
        taken: signals that have another use here.
    """
    usable: list[int] = [number for number in NUMBERS if number not in taken]
    return next((number for number in usable if number >= seconds), usable[-1])


class Switch:
    """The end of the process that is to be ended. Children that it forks are not meant, and executed ones neither.

    An application that handles SIGALRM itself is not ended by it, and one that handles this signal itself never sets
    it off.

    Args:
        fd: what :meth:`Lifeline.lend` gave; stays open, and belongs to this from here on.
        number: the signal, and the seconds.

    Raises:
        OSError: the kernel knows no such thing of pipes.
    """

    def __init__(self, fd: int, number: int) -> None:
        self._fd = fd
        self._number = number
        _signal(number, _ALARM)
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, number)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | fcntl.FASYNC)

    def disarm(self) -> float:
        """It ends nobody any more, whether it is set off or not. Main thread only.

        A process has one alarm. An application that had set one by itself when the switch was set off has lost that;
        as long as it was not, its alarm is left alone.

        Returns:
            The whole seconds since it was set off; 0.0 also if it was not.
        """
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~fcntl.FASYNC)
        signal.signal(self._number, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._fd, 0)  # POLLHUP, the end of the writers, is always told
        left = signal.alarm(0) if poll.poll(0) else 0
        return float(self._number - left) if 0 < left <= self._number else 0.0
