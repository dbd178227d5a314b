"""Messages and handles between a primary and its worker: Python's cluster against Node's own."""

import statistics
import subprocess
import sys

from tests.bench import arena

COUNTS = {"there": 100_000, "back": 100_000, "ping": 5_000, "handles": 3_000, "handle_ping": 1_000}

TO_AND_FRO = 5
"""Runs of each side in a round, of what goes to and fro."""


def seconds(command: list[str], what: str) -> float:
    """How long one round took, by the primary's own clock."""
    argv = [*command, what, str(COUNTS[what])]
    return float(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout)


def ratios(what: str, runs: int = 1) -> list[float]:
    """Rate of ours over Node's, round by round, alternating.

    Args:
        runs: of each side in a round, of which the median counts. To and fro one process always waits for the other:
            whether the scheduler has put both on one processor or on two doubles the time of either side, and stays so
            for the life of the two.
    """
    ours = [sys.executable, str(arena.APPS / "messages.py")]
    node = ["node", str(arena.APPS / "messages.js")]
    found = []
    for _ in range(arena.ROUNDS):
        pairs = [(seconds(ours, what), seconds(node, what)) for _ in range(runs)]
        mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        found.append(theirs / mine)
    return found


def test_cluster_messages() -> None:
    """100,000 messages each way: at least Node's rate; ping-pong 0.7 of it; handles, there and back, twice.

    Handles are sent as fast as ``send`` takes them, as by a primary that has many to give; one by one, each after the
    one before has come back, is latency, and has no target.
    """
    there, back = ratios("there"), ratios("back")
    arena.report(
        "cluster_messages",
        [
            arena.Figure("messages to a worker, over Node's", "at least 1.0", there, lambda v: v >= 1.0),
            arena.Figure("messages from a worker, over Node's", "at least 1.0", back, lambda v: v >= 1.0),
            arena.Figure("ping-pong, over Node's", "at least 0.7", ratios("ping", TO_AND_FRO), lambda v: v >= 0.7),
            arena.Figure("handles a second, over Node's", "at least 2.0", ratios("handles"), lambda v: v >= 2.0),
            arena.Figure("handles one by one, over Node's", "none", ratios("handle_ping", TO_AND_FRO), lambda v: True),
        ],
    )
