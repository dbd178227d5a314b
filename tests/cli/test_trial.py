"""An app's import in a process that is thrown away, whatever the app does."""

import os
import time
from pathlib import Path

import pytest

from clusterd.cli.trial import try_import
from tests.procfs import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_fd_leak")]


def report(directory: Path, code: str, *, target: str = "shop:app", timeout: float = 30.0) -> str | None:
    (directory / "shop.py").write_text(code)
    return try_import(target, cwd=str(directory), env=os.environ, timeout=timeout)


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that its new parent has not reaped yet."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


APP = "async def app(scope, receive, send): ...\n"


def test_an_app_that_can_be_imported_is_good(tmp_path: Path) -> None:
    assert report(tmp_path, APP) is None
    assert report(tmp_path, f"def make():\n    {APP}    return app\n", target="shop:make()") is None
    assert report(tmp_path, "print('noise' * 100_000)\n" + APP) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "sys.exit(0)"),
        ("import os; print('last words', flush=True); os._exit(0)", "exit code 0\nlast words"),
        ("import os; os.kill(os.getpid(), 11)", "signal SIGSEGV"),
        ("app = {}", "is a dict, which is no application"),
        ("other = 1", "has no attribute 'app'"),
        ("def", "SyntaxError"),
        ("import sys; sys.stderr.write('x' * 1_000_000); 1 / 0", "ZeroDivisionError"),
        ("import sys; sys.setrecursionlimit(100); f = lambda: f(); f()", "RecursionError"),
    ],
)
def test_what_goes_wrong_is_told(tmp_path: Path, code: str, expected: str) -> None:
    told = report(tmp_path, code)
    assert told is not None
    assert expected in told
    assert len(told) < 20_000


def test_an_app_that_is_missing_is_told(tmp_path: Path) -> None:
    told = try_import("nowhere:app", cwd=str(tmp_path), env=os.environ, timeout=30.0)
    assert told is not None
    assert "no module 'nowhere'" in told
    gone = try_import("shop:app", cwd=str(tmp_path / "gone"), env=os.environ, timeout=30.0)
    assert gone == f"cannot be tried in {tmp_path / 'gone'}: No such file or directory"


@pytest.mark.parametrize(
    "code", ["import threading; threading.Event().wait()", "while True: pass", "while True: print(1)"]
)
def test_an_import_that_does_not_end_is_ended(tmp_path: Path, code: str) -> None:
    began = time.monotonic()
    told = report(tmp_path, code, timeout=0.5)
    assert told is not None
    assert told.startswith("the import had not ended after 0.5 s")
    assert time.monotonic() - began < 10


def test_what_the_app_forks_ends_with_it(tmp_path: Path) -> None:
    code = f"""
import os, signal
if not (child := os.fork()):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
open({str(tmp_path / "pid")!r}, "w").write(str(child))
"""
    assert report(tmp_path, code + APP) is None
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: has_ended(pid), 10.0, "the end of what the app forked")


def test_the_environment_is_the_one_that_is_given(tmp_path: Path) -> None:
    code = "import os\nassert os.environ['ONLY'] == 'this'\n" + APP
    (tmp_path / "shop.py").write_text(code)
    assert try_import("shop:app", cwd=str(tmp_path), env={**os.environ, "ONLY": "this"}, timeout=30.0) is None
