"""Code run in a child of the test: for what cannot be taken back in the test's own process."""

import errno
import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def in_child(work: Callable[[], Any]) -> Any:
    """Fork, run ``work`` in the child and return what it returned, by JSON; its exception fails the test."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            try:
                answer = {"value": work()}
            except BaseException:
                answer = {"error": traceback.format_exc()}
            with open(writing, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not text:
        pytest.fail(f"the child ended with {status} and said nothing")
    answer = json.loads(text)
    if "error" in answer:
        pytest.fail(f"in the child:\n{answer['error']}")
    return answer["value"]


def until_refused(call: Callable[[], object]) -> OSError:
    """Call until that fails, and return the failure."""
    while True:
        try:
            call()
        except OSError as error:
            return error


def use_up_descriptors() -> None:
    """Lower the limit of descriptors to what is open, and fill the gaps."""
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert until_refused(lambda: os.dup(0)).errno == errno.EMFILE


def python(code: str, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
    """Start an interpreter that can import the package."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, cwd=ROOT, **options)


def become_nobody() -> None:
    """Give up root, if this is root: root is exempt from some limits."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
