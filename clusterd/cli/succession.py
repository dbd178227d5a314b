"""An upgrade in place, from the side of the new code: what was left is taken over, or the old code is gone back to."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from .. import config as configuration
from ..config.load import Loaded
from ..config.schema import Config
from ..core.supervisor import Supervisor
from ..primary import bequest, handover, resuming
from ..primary.handover import Handover, HandoverError
from ..primary.listeners import Opened
from ..unix import cgroup

#: Where this code's installation really is, found out before anybody changes links.
_HOME = os.path.realpath(sys.prefix)


def inherited() -> Handover | None:
    """What a predecessor in this process has left; ``None`` for a primary that begins.

    Raises:
        HandoverError: it cannot be read.
    """
    name = os.environ.pop(handover.VARIABLE, None)
    back = os.environ.pop(handover.BACK, None)
    if name is None:
        return None
    fd = int(name)
    try:
        left = handover.read(fd)
        handover.close_again(left)
    finally:
        os.close(fd)
    left.tried = back is None
    if left.pid != os.getpid():
        raise HandoverError(f"{handover.VARIABLE} is for process {left.pid}, and this is {os.getpid()}")
    return left


@contextmanager
def going_back(left: Handover | None) -> Iterator[None]:
    """If the block fails, become the old code once more, with the same state.

    It has taken nothing over by then but what stays as it was. Only once: should that fail too, this process ends, and
    the service manager starts another, with the listeners that it keeps.
    """
    try:
        yield
    except Exception as error:
        if left is None or left.tried or not left.command:
            raise
        # Here, while the traceback still holds what was opened: nothing of it is closed.
        state = handover.write(left)
        handover.keep_open(left, state)
        for fd in (left.caretaker, left.counted):
            if fd >= 0:
                os.set_inheritable(fd, True)
        sys.stderr.write(f"clusterd: the new code failed, back to the old: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os.execve(left.command[0], [*left.command], os.environ | left.environment | {handover.VARIABLE: str(state)})


def check(state: int, read: Callable[[], Loaded]) -> None:
    """The trial: whether this code could take over.

    Args:
        state: the descriptor of a copy of the state.
        read: see :func:`in_force`.

    Raises:
        HandoverError, StateError, ConfigError: it could not.
    """
    left = handover.read(state)
    policy = configuration.policy(in_force(left, read).config, cpus=cgroup.cpu_count())
    bequest.rules(left, Supervisor(policy))


def in_force(left: Handover | None, read: Callable[[], Loaded]) -> Loaded:
    """The configuration: what a predecessor ran with, whatever has become of its file; else what is read now.

    Args:
        read: reads the file, for a primary that begins, or whose predecessor did not hand on what it had read.

    Raises:
        HandoverError: it did not, and the file has changed.
        ConfigError, UsageError, HostError: as reading it.
    """
    if left is not None and left.loaded is not None and left.config is not None:
        return replace(left.loaded, config=left.config)
    found = read()
    if left is not None and left.config_sha256 != found.sha256:
        raise HandoverError("the configuration's file has changed since it was read; reload first")
    return found


def opened(left: Handover, config: Config) -> dict[str, Opened]:
    """The listening sockets, ours again.

    Raises:
        HandoverError, HostError: one is not there.
    """
    missing = config.listeners.keys() - left.listeners.keys()
    if missing:
        raise HandoverError(f"nothing was left of listeners {', '.join(sorted(missing))}")
    return {name: resuming.opened(left.listeners[name]) for name in config.listeners}


def old_words() -> tuple[str, ...]:
    """What runs the code that runs now, whatever links to it are changed: the way back.

    An installation that is exchanged as a whole (``current`` becomes a link to the next one) leaves the old one there.
    """

    def resolved(word: str) -> str:
        return _HOME + word[len(sys.prefix) :] if word.startswith(sys.prefix + os.sep) else word

    return tuple(map(resolved, [sys.executable, *sys.orig_argv[1:]]))
