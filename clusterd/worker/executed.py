"""A worker that becomes a program of its own: from the fork to the exec, what is in force before its first instruction.

The program finds its channel as Node's workers do (``NODE_CHANNEL_FD``, ``NODE_UNIQUE_ID``), so an unmodified one is a
worker of this primary.
"""

import os
import signal
import socket
import sys
from typing import Final, NoReturn

from ..unix import cpus, process, signals
from ..wire import messages
from ..wire import zygote as wire
from ..wire.lines import decode, encode
from .ending import NOT_EXECUTED

OOM_SCORE: Final = 300


def run(load: wire.Load, request: wire.Spawn, fds: tuple[int, ...]) -> NoReturn:
    """Become the program; never returns.

    Args:
        load: what its zygote was told.
        request: what its zygote was told of it.
        fds: descriptors in the order that :class:`clusterd.wire.zygote.Spawn` states.
    """
    os.setpgid(0, 0)
    # No end of the lifeline: a handler does not outlive execve(2). What ends a program is the death signal, and if it
    # ignores that, the undertaker; or the next primary, should that have died as well.
    channel_fd, board_fd, stacks_fd, _, *rest = fds
    if request.captured:
        os.dup2(rest[0], 1)
        os.dup2(rest[2], 2)
    process.close_fds_except({0, 1, 2, channel_fd, board_fd, stacks_fd})
    process.set_oom_score_adj(OOM_SCORE)
    process.title(f"clusterd: {load.service} worker {load.pool}/{request.slot}")
    if load.spread and request.slot >= 0:
        cpus.bind_to_one(request.slot)
    channel = socket.socket(fileno=channel_fd)
    channel.setblocking(True)
    if not _go(channel) or os.getppid() != load.primary_pid:
        os._exit(0)
    process.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != load.primary_pid:
        os._exit(0)
    number = channel.detach()
    for fd in (number, board_fd, stacks_fd):
        os.set_inheritable(fd, True)
    env = dict(os.environ)
    env |= {
        "NODE_CHANNEL_FD": str(number),
        "NODE_CHANNEL_SERIALIZATION_MODE": "json",
        "NODE_UNIQUE_ID": str(request.worker),
        "NODE_APP_INSTANCE": str(request.slot),
        "CLUSTERD_WORKER_ID": str(request.worker),
        "CLUSTERD_SLOT": str(request.slot),
        "CLUSTERD_GENERATION": str(load.generation),
        "CLUSTERD_BOARD_FD": str(board_fd),
        "CLUSTERD_STACKS_FD": str(stacks_fd),
    }
    if request.notify:
        env["NOTIFY_SOCKET"] = request.notify
    signals.reset_all(to_exec=True)
    try:
        os.execvpe(load.program[0], load.program, env)
    except OSError as error:
        report = f"cannot run {load.program[0]}: {error.strerror}; install it, or name it by interpreter"
        os.write(number, encode(messages.failed("exec", report)))
        sys.stderr.write(f"{report}\n")
        sys.stderr.flush()
    os._exit(NOT_EXECUTED)


def _go(channel: socket.socket) -> bool:
    """Wait for ``go``, and read not a byte further: what follows is the program's."""
    line = b""
    while not line.endswith(b"\n"):
        piece = channel.recv(1)
        if not piece:
            return False
        line += piece
    return isinstance(messages.read(decode(line[:-1])), messages.Go)
