"""What every test may use: short run directories, leak checks, and the rule that CI leaves no test out."""

import compileall
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test, settings

import clusterd
from tests import components
from tests.procfs import open_descriptors

# No deadline an example: a busy machine is no counter-example. `make check` takes the quick profile.
settings.register_profile("full", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile("full")

NO_SKIPS = os.environ.get("CLUSTERD_NO_SKIPS") == "1"


def pytest_configure(config: pytest.Config) -> None:
    """Proof that what a test starts ends with it is looked for in ``/proc``, so without one nothing here is true."""
    # Run in the background of a shell, these come ignored, and every process under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if not Path("/proc/self/environ").exists():
        pytest.exit("these tests need Linux with /proc", returncode=1)
    # Apps under test are written anew within a second, and at times as long as they were before: Python would take the
    # bytecode of the old one for the new one's, for it compares whole seconds and the size.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    # An installed package has its bytecode. Where Python writes none each process of each service would compile two
    # hundred modules of this one, a quarter of a second of a processor.
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(clusterd.__file__).parent, quiet=2)
    if components.is_there("node"):
        os.environ["PATH"] = f"{components.node_programs()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What Hypothesis drives computes and does not wait: ten times what the longest takes beside other load."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves out a test whose real component is not installed, naming where it comes from."""
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            source = components.source(program)
            if source is None:
                pytest.fail(f"needs({program!r}): name its Debian package in tests/components.py", pytrace=False)
            if not components.is_there(program):
                pytest.skip(f"needs {program} ({source})")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says plainly what was left out, as the last thing before the closing line."""
    left_out = terminalreporter.stats.get("skipped", [])
    if left_out:
        verdict = "counts as a failure here (CLUSTERD_NO_SKIPS=1)" if NO_SKIPS else "not proven by this run"
        terminalreporter.section(f"left out: {len(left_out)}, {verdict}")
        for report in left_out:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where nothing may be left out, a run that left something out fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if NO_SKIPS and exitstatus == pytest.ExitCode.OK and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def no_fd_leak() -> Iterator[None]:
    """Fails a test that leaves a descriptor open: ``pytestmark = pytest.mark.usefixtures("no_fd_leak")``."""
    before = open_descriptors()
    yield
    gc.collect()
    left = {fd: name for fd, name in open_descriptors().items() if before.get(fd) != name}
    assert not left, f"descriptors left open: {left}"


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory of this test alone, with a path short enough for a unix socket in it (107 bytes, unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="clusterd-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
