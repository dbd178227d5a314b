"""Everything at once, by a seeded script: load of four kinds, and all that can befall workers and code.

The budget: nothing is lost but connections that a worker held when it died, unread at most two of each, and at the end
all is as it was before. ``make chaos SEED=N`` tells the story of a failure again, with ``SECONDS=N`` for longer.
"""

import os
import random

import pytest

from tests.chaos.story import play
from tests.real.harness import Launcher

SECONDS = float(os.environ.get("SECONDS", "20"))


@pytest.mark.slow
@pytest.mark.timeout(400 + 3 * SECONDS)
@pytest.mark.parametrize("deadly", [True, False], ids=["deadly", "gentle"])
def test_nothing_is_lost_but_what_the_dead_held_and_nothing_is_left_behind(launcher: Launcher, deadly: bool) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1_000_000)))
    story = play(launcher, seed, SECONDS, deadly=deadly)
    assert all(story.answered.values())
    assert deadly or story.lost == ()
