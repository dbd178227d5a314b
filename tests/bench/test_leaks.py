"""100,000 connections and 1,000 deaths of workers: descriptors, processes and memory before and after."""

from pathlib import Path

from tests.bench import arena
from tests.real.looking import AT_ONCE, app, start
from tests.real.playground import own_launcher
from tests.real.test_leaks import WORKERS, leave_nothing

CONNECTIONS = 100_000
DEATHS = 1_000


def test_leaks(tmp_path: Path) -> None:
    """The counts have to be equal, which is asserted; memory is counted in pages, and may differ by some."""
    with own_launcher(tmp_path) as launcher:
        service = start(launcher, app(), AT_ONCE, workers=WORKERS)
        by_connections, by_deaths = leave_nothing(service, CONNECTIONS, DEATHS)
    arena.report(
        "leaks",
        [
            arena.Figure(
                f"growth of the primary by {CONNECTIONS} connections",
                "below 1 MiB",
                [float(by_connections)],
                lambda value: value < 1024,
                unit=" KiB",
            ),
            arena.Figure(
                f"growth of the primary by {DEATHS} deaths of workers",
                "below 1 MiB",
                [float(by_deaths)],
                lambda value: value < 1024,
                unit=" KiB",
            ),
        ],
    )
