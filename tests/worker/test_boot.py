"""From the fork to serving: what a worker does before ``go``, and what it refuses. Real forks."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from clusterd.errors import AppError
from clusterd.wire import messages
from clusterd.wire import zygote as wire
from clusterd.worker import boot

DEADLINE = 20.0


def load(**changes: Any) -> wire.Load:
    fields = {
        "service": "test", "pool": "web", "generation": 1, "target": "app:app", "interface": "auto", "preload": "auto",
        "primary_pid": os.getpid(), "undertaking": None,
    }  # fmt: skip
    return wire.Load(**{**fields, **changes})


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app."""


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def test_what_is_served_and_what_is_not() -> None:
    boot.check(application, load())
    boot.check(wsgi, load(interface="asgi"))
    with pytest.raises(AppError, match="WSGI"):
        boot.check(wsgi, load())
    with pytest.raises(AppError, match="app:app is a int"):
        boot.check(7, load())


@pytest.mark.parametrize("blocking", [True, False])
def test_what_lies_in_the_pipes_is_passed_on_whole_whatever_interrupts_it(blocking: bool) -> None:
    """The service's own output is full all the time, and has room only for a while after each signal."""
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(read, False)
    data, got, turns = os.urandom(100_000), bytearray(), 0

    def make_room(*_: object) -> None:
        nonlocal turns
        turns += 1
        try:
            got.extend(os.read(read, 3000))
        except BlockingIOError:
            pass  # it has not come to write yet

    before = signal.signal(signal.SIGALRM, make_room)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        boot._write_whole(write, data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(write)
    got.extend(b"".join(iter(lambda: os.read(read, 65536), b"")))
    os.close(read)
    assert turns > 10
    assert bytes(got) == data


# A child is born by hand as the zygote would bear it, in a process of its own, for `run` ends its process.
BEARER = """
import json, os, socket, sys
from clusterd.unix import lifeline, scoreboard
from clusterd.wire import series, stacks, zygote as wire
from clusterd.worker import boot

first, parent = json.loads(sys.argv[1]), int(sys.argv[2])
near, far = socket.socketpair()
board, shown = scoreboard.create(series.SIZE // scoreboard.WORD), scoreboard.create(stacks.SIZE // scoreboard.WORD)
if os.fork() == 0:
    near.close()
    load = wire.Load("test", "web", 1, "app:app", "auto", "auto", parent or os.getppid(), None,
        engine={"keep_alive": 5.0, "forwarded_allow_ips": [], "root_path": "", "max_concurrency": 0,
                "access_log": False, "linger": 0.1})
    async def app(scope, receive, send):
        raise RuntimeError("no lifespan")
    fds = (far.detach(), board, shown, lifeline.Lifeline().lend())
    boot.run(boot.Birth(load, wire.Spawn(1, 0, False, []), fds, (1, 2), lambda: app, frozenset()))
far.close()
if first is not None:
    near.sendall(first.encode())
near.settimeout(10)
said = b""
while b"ready" not in said and (piece := near.recv(65536)):
    said += piece
near.close()
status = os.waitstatus_to_exitcode(os.wait()[1])
print(json.dumps([status, [json.loads(line)["act"] for line in said.splitlines()]]))
"""


def bear(first: str | None, parent: int = 0) -> Any:
    """Exit code of the worker and the acts it told, when its channel said ``first`` and then waited or closed."""
    command = [sys.executable, "-c", BEARER, json.dumps(first)]
    done = subprocess.run([*command, str(parent)], capture_output=True, text=True, timeout=DEADLINE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


GO = json.dumps(messages.go()) + "\n"


def test_go_is_what_it_waits_for_and_the_channels_end_is_drain() -> None:
    assert bear(GO) == [0, ["online", "ready"]]


@pytest.mark.parametrize("first", ["garbage\n", '"of the app"\n', json.dumps(messages.disconnect()) + "\n"])
def test_anything_else_ends_it_before_it_has_said_a_word(first: str) -> None:
    assert bear(first) == [0, []]


def test_a_parent_that_is_not_the_primary_ends_it() -> None:
    assert bear(GO, parent=1) == [0, []]


def test_disconnect_behind_go_is_not_lost() -> None:
    code, acts = bear(GO + json.dumps(messages.disconnect()) + "\n")
    assert code == 0
    assert acts[0] == "online"
