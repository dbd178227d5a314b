"""Is forking from this process safe? The proof is made after the import, by looking, not by trusting.

A fork takes one thread with it: locks that others hold stay locked for ever, and kernel state behind shared
descriptors (a database connection, an epoll set) is then used by N processes at once.
"""

import os
import threading
from collections.abc import Collection

from ..unix import process


def why_unsafe(ours: Collection[int]) -> str:
    """Why forking is unsafe here, naming thread, descriptor or child; empty if it is safe.

    One trial child is forked first: libraries that end their threads in ``pthread_atfork`` (numpy's BLAS among them)
    settle then, and only what is still there afterwards counts.

    Args:
        ours: descriptors that belong to the zygote itself.
    """
    trial = os.fork()
    if trial == 0:
        os._exit(0)
    os.waitpid(trial, 0)
    others = [(tid, name) for tid, name in process.tasks() if tid != os.getpid()]
    if others:
        # The kernel's name of a thread is its creator's, which is our title, unless a library has set it.
        known = {thread.native_id: thread.name for thread in threading.enumerate()}
        names = ", ".join(f"{known.get(tid, name)} ({tid})" for tid, name in others[:5])
        return f"importing the app started {len(others)} thread(s) that a fork would lose: {names}"
    for fd, what in sorted(process.open_fds().items()):
        if fd in ours:
            continue
        kind = _kind(fd)
        if kind is not None and kind not in _HARMLESS:
            return f"importing the app opened descriptor {fd} ({what}, {kind.value}), which all workers would share"
    children = process.children()
    if children:
        return f"importing the app started child process(es) {children[:5]}, which the workers would not have"
    return ""


_HARMLESS = frozenset(
    {
        process.FdKind.FILE,
        process.FdKind.DIRECTORY,
        process.FdKind.NULL,
        process.FdKind.TERMINAL,
        process.FdKind.MEMORY,
        process.FdKind.LISTENING,
    }
)


def _kind(fd: int) -> process.FdKind | None:
    try:
        return process.fd_kind(fd)
    except OSError:
        return None  # closed since it was listed
