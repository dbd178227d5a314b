"""``make test`` in two lanes: whole services under load and under every mishap, and beside them everything else.

The rules' model, the configuration and the codecs start no process and wait for nothing: they need one processor, and
it is all the same to them when they have it. The tests of real services wait most of their time and must not be kept
waiting: so those run behind them, at a lower priority and without a time limit of their own. Containers, and systems
booted under systemd, have a network, processes and limits of their own and are waited for most of the time: they follow
in the same lane, and after them the rooms' own tests, which need little of the machine. What it says is told when both
are done. ``python -m tests.lanes [PYTEST ARGUMENT…]``; exits 0 if nothing failed in either.
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

COMPUTES = ("tests/model", "tests/core", "tests/config", "tests/wire")
STARTS_PROCESSES = ("tests/wire/test_node_peer.py",)
"""The one file of those rooms that does not only compute."""

APART = ("tests/real/containers", "tests/real/systemd")
"""What runs on machines of its own, as far as it can tell."""

SERVICES = ("tests/real", "tests/chaos")
"""The first lane, without what is apart: as long as all the rest."""

BENCH = "tests/bench"

NICE = ("nice", "-n", "10")
PYTEST = (sys.executable, "-m", "pytest")
NOTHING_CHOSEN = 5
"""What pytest exits with where the arguments choose none of a lane's tests."""


def rooms() -> list[str]:
    """What stands in ``tests`` besides."""
    there = sorted(Path("tests").iterdir())
    rooms = [str(path) for path in there if path.is_dir() and any(path.rglob("test_*.py"))]
    files = [str(path) for path in there if path.name.startswith("test_")]
    return [path for path in [*files, *rooms] if path not in (*COMPUTES, *SERVICES, BENCH)] + [*STARTS_PROCESSES]


class Beside:
    """The second lane, in a thread: one pytest after another.

    Attributes:
        codes: what they exited with.
    """

    def __init__(self, runs: Sequence[Sequence[str]], said: IO[bytes]) -> None:
        self.codes: list[int] = []
        self._runs = runs
        self._said = said
        self._ending = False
        self._present: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for command in self._runs:
            if not self._ending:
                with subprocess.Popen(command, stdout=self._said, stderr=self._said) as self._present:
                    self.codes.append(self._present.wait())

    def wait(self) -> None:
        """Until all of them have ended."""
        self._thread.join()

    def end(self) -> None:
        """Now, if they have not: somebody has pressed Ctrl-C."""
        self._ending = True
        if self._present is not None and self._present.poll() is None:
            self._present.terminate()
        self._thread.join()


def main(arguments: Sequence[str]) -> int:
    """Runs both; the exit code of the worse."""
    kept_out = [f"--ignore={path}" for path in STARTS_PROCESSES]
    computing = [*NICE, *PYTEST, *COMPUTES, *kept_out, "--timeout=0", "-p", "no:cacheprovider", *arguments]
    apart = [*PYTEST, *APART, "-p", "no:cacheprovider", *arguments]
    others = [*PYTEST, *rooms(), "-p", "no:cacheprovider", *arguments]
    services = [*PYTEST, *SERVICES, *(f"--ignore={path}" for path in APART), *arguments]
    with tempfile.TemporaryFile() as said:
        beside = Beside([computing, apart, others], said)
        try:
            codes = [subprocess.run(services, check=False).returncode]
            beside.wait()
        finally:
            beside.end()
        said.seek(0)
        print(f"\n{'=' * 30} beside them {'=' * 30}", flush=True)
        sys.stdout.buffer.write(said.read())
        sys.stdout.flush()
    chosen = [code for code in [*codes, *beside.codes] if code != NOTHING_CHOSEN]
    return max(chosen, key=abs, default=NOTHING_CHOSEN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
