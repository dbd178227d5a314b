"""What conformance tests run their programs with."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.programs import Run, run_in
from tests.procfs import processes_marked


@pytest.fixture
def run(run_dir: Path) -> Iterator[Run]:
    """Runs a cluster program to its end."""
    run_dir.chmod(0o755)
    yield run_in(run_dir)
    left = processes_marked(run_dir)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a program left processes behind"


@pytest.fixture
def python() -> str:
    """The interpreter that Node is to run workers with."""
    return sys.executable
