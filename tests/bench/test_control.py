"""What it costs to look: `clusterd status` from the prompt to the table, and what the primary spends on it."""

import os
import subprocess
import sys
import time
from pathlib import Path

from clusterd.client import Client
from tests.bench import arena

SLOTS = 4
ASKED = 500


def took(*command: str) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1e3


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_status_from_the_prompt() -> None:
    """Less the start of an interpreter that does nothing, alternating."""
    clusterd = Path(sys.executable).parent / "clusterd"
    differences, spent = [], []
    with arena.clusterd("hello:app", workers=SLOTS) as server:
        (socket,) = Path("/tmp").glob(f"clusterd-bench-{os.getpid()}-*/control.sock")
        client = Client(socket)
        primary = client.status()["service"]["pid"]
        for _ in range(max(arena.ROUNDS, 9)):
            nothing = took(sys.executable, "-c", "pass")
            differences.append(took(str(clusterd), "status", "--run-dir", str(socket.parent)) - nothing)
        for _ in range(arena.ROUNDS):
            before = cpu_seconds(primary)
            for _ in range(ASKED):
                client.status()
            spent.append((cpu_seconds(primary) - before) / ASKED * 1e3)
        assert server
    arena.report(
        "control",
        [
            arena.Figure(
                "status of 4 slots from the prompt, less python -c pass", "under 150 ms", differences,
                lambda v: v < 150, unit=" ms",
            ),
            arena.Figure("of which the primary spends", "under 5 ms", spent, lambda v: v < 5, unit=" ms"),
        ],
    )  # fmt: skip
