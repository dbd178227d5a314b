"""A command in a terminal of its own: what it shows, and what somebody types."""

import os
import pty
import select
import subprocess
import sys
from types import TracebackType
from typing import Self

from tests.real.harness import DEADLINE, Service


class Terminal:
    """Runs a command of the command line with a terminal as its three standard streams.

    Args:
        kind: what ``TERM`` says.

    Attributes:
        shown: all that it has written so far.
    """

    def __init__(self, service: Service, *arguments: str, kind: str = "xterm-256color") -> None:
        self._reading, terminal = pty.openpty()
        command = ["setsid", "--ctty", sys.executable, "-m", "clusterd", *arguments, "--run-dir", str(service.run_dir)]
        environment = {**os.environ, "TERM": kind, "COLUMNS": "100", "LINES": "30"}
        try:
            self._process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
        finally:
            os.close(terminal)
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._reading)

    def wait_for(self, text: bytes) -> None:
        """Until it has been shown."""
        while text not in self.shown:
            assert self._read(), f"{text!r} was never shown: {self.shown!r}"

    def type(self, text: bytes) -> None:
        """Keys."""
        os.write(self._reading, text)

    def ended(self) -> int:
        """The exit code, when it has ended; what it shows until then is shown."""
        while self._read():
            pass
        return self._process.wait(DEADLINE)

    def _read(self) -> bool:
        assert select.select([self._reading], [], [], DEADLINE)[0], f"nothing happens after {self.shown!r}"
        try:
            piece = os.read(self._reading, 65536)
        except OSError:  # nobody has the terminal open any more
            return False
        self.shown += piece
        return bool(piece)
