"""What the guard looks at: weights of real processes, and whose the kernel's kills were."""

import os
import subprocess
import sys

import pytest

from clusterd.primary.oom import OomKills
from clusterd.primary.weighing import resident, weigh


def test_the_kernels_word_on_this_process() -> None:
    found = resident(os.getpid())
    assert found is not None
    assert 0 < found.anonymous < found.resident


def test_who_is_gone_weighs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert resident(process.pid) is None
    assert weigh(5, 9, process.pid) == 0


def test_what_a_worker_said_is_brought_up_to_date() -> None:
    pid = os.getpid()
    now = resident(pid)
    assert now is not None
    then = now.resident - 3_000_000
    assert weigh(1_000_000, then, pid) == pytest.approx(4_000_000, abs=2e6)


@pytest.mark.parametrize("said", [0, 2**63, -5])
def test_nonsense_is_not_believed(said: int) -> None:
    now = resident(os.getpid())
    assert now is not None
    weight = weigh(said, now.resident, os.getpid())
    assert weight == pytest.approx(now.anonymous, abs=2e6)


class Counter:
    """The kernel's."""

    value: int | None = 0

    def __call__(self) -> int | None:
        return self.value


def test_each_kill_is_one_workers() -> None:
    counter = Counter()
    counter.value = 7  # of a life before
    kills = OomKills(counter)
    assert not kills.blame()
    counter.value = 9
    assert [kills.blame() for _ in range(3)] == [True, True, False]


def test_a_kill_that_no_worker_takes_is_nobodys_after_a_while() -> None:
    counter = Counter()
    kills = OomKills(counter)
    counter.value = 1
    kills.settle()  # its end may still be on its way
    assert kills.blame()
    counter.value = 2
    kills.settle()
    kills.settle()
    assert not kills.blame()


def test_a_kernel_that_does_not_count_blames_nobody() -> None:
    counter = Counter()
    counter.value = None
    kills = OomKills(counter)
    kills.settle()
    assert not kills.blame()
