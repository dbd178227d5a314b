"""An app's import, tried in a process that is thrown away: whatever it does, this process is not touched by it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import clusterd
from clusterd.unix import pidfd as pidfds

_KEPT_OUTPUT = 16 * 1024

# It tells success by a byte on a descriptor of its own: an exit code of 0 can also be the app's.
_PROGRAM = """
import os, sys
target, cwd, root, done = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
del sys.argv[1:]
sys.path.append(root)
from clusterd.spawner.apps import LoadError, load
try:
    app = load(target, cwd)
except LoadError as error:
    sys.exit(error.report)
if not callable(app):
    sys.exit(f"{target} is a {type(app).__name__}, which is no application: it cannot be called")
os.write(done, b"+")
os._exit(0)
"""


def try_import(target: str, *, cwd: str, env: Mapping[str, str], timeout: float) -> str | None:
    """Imports an app in a new process, which is killed with all its group afterwards.

    Args:
        target: as in the configuration, ``shop.asgi:app``.
        cwd: the working directory.
        env: its whole environment.
        timeout: seconds it may take.

    Returns:
        ``None`` if the app can be imported, else why not, with the last of its output.
    """
    root = str(Path(clusterd.__path__[0]).parent)
    out_read, out_write = os.pipe()
    done_read, done_write = os.pipe()
    try:
        command = [sys.executable, "-P", "-c", _PROGRAM, target, cwd, root, str(done_write)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=out_write,
                cwd=cwd,
                env=dict(env),
                pass_fds=[done_write],
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be tried in {cwd}: {error.strerror}"
        finally:
            os.close(out_write)
            os.close(done_write)
        output, in_time = _watch(process, out_read, timeout)
        os.set_blocking(done_read, False)
        try:
            succeeded = os.read(done_read, 1) == b"+"
        except BlockingIOError:
            # A process that the app has started holds the other end, and the app's own has told nothing.
            succeeded = False
    finally:
        os.close(out_read)
        os.close(done_read)
    if succeeded:
        return None
    if not in_time:
        return f"the import had not ended after {timeout:g} s\n{output}".rstrip()
    code = process.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return (
        output.rstrip() if code == 1 and output.strip() else f"the import ended its process: {how}\n{output}".rstrip()
    )


def _watch(process: "subprocess.Popen[bytes]", out: int, timeout: float) -> tuple[str, bool]:
    """Reads the process's output until it ends or its time is over, then kills what is left of its group."""
    deadline = time.monotonic() + timeout
    kept = b""
    handle = pidfds.open_pidfd(process.pid)
    os.set_blocking(out, False)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(out, select.POLLIN)
    ended = False
    try:
        while not ended and (left := deadline - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
            if out in ready:
                data = _read(out)
                kept = (kept + data)[-_KEPT_OUTPUT:]
                if not data:
                    poll.unregister(out)
            ended = handle in ready
        if ended:
            while data := _read(out):
                kept = (kept + data)[-_KEPT_OUTPUT:]
                if time.monotonic() > deadline:
                    break
        else:
            pidfds.send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [])
        # The group first, while its leader is a zombie and the number is still its own.
        pidfds.kill_group(process.pid)
        process.wait()
    finally:
        os.close(handle)
    return kept.decode(errors="replace"), ended


def _read(descriptor: int) -> bytes:
    """What is there; empty at the end, or if there is nothing now."""
    try:
        return os.read(descriptor, 64 * 1024)
    except BlockingIOError:
        return b""
