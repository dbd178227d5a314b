"""Ten minutes of chaos under load: what is lost beyond the rule, and what is left behind."""

import os
import random
from pathlib import Path

from tests.bench import arena
from tests.chaos.story import play
from tests.real.playground import own_launcher

SECONDS = float(os.environ.get("SECONDS", "600"))


def test_chaos(tmp_path: Path) -> None:
    """Kills, stops, hangs, good and bad reloads, scaling; a story that ends has left nothing behind, or it raises."""
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1_000_000)))
    with own_launcher(tmp_path) as launcher:
        story = play(launcher, seed, SECONDS, deadly=True)
    arena.report(
        "chaos",
        [
            arena.Figure(
                "lost beyond what the dead had taken",
                "0",
                [float(max(0, len(story.lost) - story.budget))],
                lambda v: v <= 0,
                details={
                    "seed": seed,
                    "seconds": SECONDS,
                    "done": story.done,
                    "verdicts": story.verdicts,
                    "answered": story.answered,
                    "lost": len(story.lost),
                    "open at death, by the reports": story.held,
                    "died by force while they drained": story.forced,
                    "processes, descriptors and socket files left behind": 0,
                },
            ),
            arena.Figure("unread at death", "at most 2 a kill", [float(story.unread)], lambda v: v <= 2),
        ],
    )
