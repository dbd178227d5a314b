"""The fixture through which chaos is brought upon real services."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.harness import Launcher


@pytest.fixture
def launcher(tmp_path: Path, run_dir: Path) -> Iterator[Launcher]:
    """Starts services; at the end of the test each has been ended, cleanly, and no process of it is left."""
    launcher = Launcher(tmp_path, run_dir)
    yield launcher
    launcher.finish()
