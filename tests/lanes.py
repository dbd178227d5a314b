"""``make test`` in two lanes: what only computes runs beside what starts processes, and steps back for it.

The rules' model, the configuration and the codecs start no process and wait for nothing: they need one processor, and
it is all the same to them when they have it. The tests of real processes wait most of their time and must not be kept
waiting. So the first run behind the second, at a lower priority and without a time limit of their own; what they say is
told when both are done. ``python -m tests.lanes [PYTEST ARGUMENT…]``; exits 0 if nothing failed in either.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

COMPUTES = ("tests/model", "tests/core", "tests/config", "tests/wire")
STARTS_PROCESSES = ("tests/wire/test_node_peer.py",)
"""The one file of those rooms that does not only compute."""

BENCH = "tests/bench"

NICE = ("nice", "-n", "10")
NOTHING_CHOSEN = 5
"""What pytest exits with where the arguments choose none of a lane's tests."""


def all_others() -> list[str]:
    """What stands in ``tests`` and only computes in part, or not at all."""
    there = sorted(Path("tests").iterdir())
    rooms = [str(path) for path in there if path.is_dir() and any(path.rglob("test_*.py"))]
    files = [str(path) for path in there if path.name.startswith("test_")]
    return [path for path in [*files, *rooms] if path not in (*COMPUTES, BENCH)] + [*STARTS_PROCESSES]


def main(arguments: Sequence[str]) -> int:
    """Runs both; the exit code of the worse."""
    pytest = (sys.executable, "-m", "pytest")
    kept_out = [f"--ignore={path}" for path in STARTS_PROCESSES]
    beside = [*NICE, *pytest, *COMPUTES, *kept_out, "--timeout=0", "-p", "no:cacheprovider", *arguments]
    others = [*pytest, *all_others(), *arguments]
    with tempfile.TemporaryFile() as said, subprocess.Popen(beside, stdout=said, stderr=said) as computing:
        try:
            codes = [subprocess.run(others, check=False).returncode]
            codes.append(computing.wait())
        finally:
            computing.kill()
        said.seek(0)
        print(f"\n{'=' * 30} beside them: {' '.join(COMPUTES)} {'=' * 30}", flush=True)
        sys.stdout.buffer.write(said.read())
        sys.stdout.flush()
    chosen = [code for code in codes if code != NOTHING_CHOSEN]
    return max(chosen, key=abs, default=NOTHING_CHOSEN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
