"""Cluster programs under test: a real primary with real workers, from its start to the proof that nothing is left.

A program is one file for both roles, as in Node's own tests. It tells what happens with ``say``, one line of JSON each,
and ends by itself: that it does is an assertion of almost every test.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.procfs import processes_marked, wait_for

ROOT = Path(__file__).parent.parent.parent

DEADLINE = 40.0
"""Seconds that a program may take: more than ten times what any of them needs."""

PRELUDE = r"""
import asyncio, json, os, signal, socket, sys
from clusterd import cluster

def say(*what):
    sys.stdout.write(json.dumps(what, default=str) + "\n")
    sys.stdout.flush()

def soon(function, *arguments):
    asyncio.get_running_loop().call_soon(function, *arguments)

async def never():
    await asyncio.get_running_loop().create_future()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
"""

NOT_INHERITED = ("CLUSTERD_", "LISTEN_", "NODE_")

conforms = pytest.mark.conforms
"""``@conforms(3)``: the test shows what number 3 of Node's tests shows."""


class Ended:
    """What became of a program.

    Attributes:
        code: its exit code.
        said: what it said, in order, all its processes.
        errors: its standard error.
    """

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.said: list[list[Any]] = [json.loads(line) for line in output.splitlines()]
        self.errors = errors

    def of(self, *beginning: Any) -> list[list[Any]]:
        """What was said that begins so, without the beginning."""
        return [line[len(beginning) :] for line in self.said if line[: len(beginning)] == list(beginning)]

    def words(self) -> list[Any]:
        """The first word of each."""
        return [line[0] for line in self.said]


Run = Callable[..., Ended]


def environment(mark: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a program under test."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return env | {"PYTHONPATH": path, "CLUSTERD_RUN_DIR": str(mark)} | dict(more or {})


def write(directory: Path, source: str, name: str = "program.py") -> Path:
    """A program of this source, behind the prelude."""
    path = directory / name
    path.write_text(PRELUDE + textwrap.dedent(source))
    return path


def run_in(directory: Path) -> Run:
    """Runs programs in a directory; each ends by itself, and leaves nothing behind."""

    def run(
        source: str,
        *arguments: str,
        code: int = 0,
        quiet: bool = True,
        env: Mapping[str, str] | None = None,
        before_exec: Callable[[], None] | None = None,
        pass_fds: Sequence[int] = (),
        flags: Sequence[str] = (),
    ) -> Ended:
        program = write(directory, source)
        done = subprocess.run(
            [sys.executable, *flags, str(program), *arguments],
            cwd=directory,
            env=environment(directory, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            preexec_fn=before_exec,
            pass_fds=pass_fds,
        )
        ended = Ended(done.returncode, done.stdout, done.stderr)
        if quiet:
            assert ended.errors == "", ended.errors
        assert ended.code == code, ended.said
        wait_for(lambda: not processes_marked(directory), DEADLINE, "the end of all its processes")
        return ended

    return run
