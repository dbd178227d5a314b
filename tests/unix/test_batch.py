"""SCHED_BATCH, asked of the kernel about children that may have any policy, and about what they start."""

import os
import sys
from collections.abc import Callable

import pytest

from clusterd.unix import batch
from clusterd.unix.spawn import spawn
from tests.unix.children import in_child


def policy() -> int:
    return os.sched_getscheduler(0)


def of_a_program() -> int:
    """The policy of a program that is started here."""
    reading, writing = os.pipe()
    words = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    child = spawn(words, env=dict(os.environ), stdout=writing)
    os.close(writing)
    with open(reading) as pipe:
        said = int(pipe.read())
    os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    return said


def test_it_is_entered_and_left_and_neither_does_harm_twice() -> None:
    def work() -> list[object]:
        batch.leave()
        return [batch.enter(), batch.enter(), policy(), batch.leave(), policy(), batch.leave(), policy()]

    assert in_child(work) == [True, True, os.SCHED_BATCH, None, os.SCHED_OTHER, None, os.SCHED_OTHER]


def test_what_is_forked_while_it_is_left_never_had_it() -> None:
    def work() -> list[object]:
        before: list[object] = []
        with batch.left():
            before.append(policy())
        batch.enter()
        with batch.left():
            return [*before, policy(), in_child(policy), policy()]

    assert in_child(work) == [os.SCHED_OTHER] * 4


def test_it_is_entered_again_also_after_a_failure() -> None:
    def work() -> int:
        batch.enter()
        with pytest.raises(OSError, match="nothing"), batch.left():
            raise OSError("nothing was forked")
        return policy()

    assert in_child(work) == os.SCHED_BATCH


def test_a_program_is_started_without_it() -> None:
    def work() -> list[object]:
        batch.enter()
        return [of_a_program(), policy()]

    assert in_child(work) == [os.SCHED_OTHER, os.SCHED_BATCH]


@pytest.mark.parametrize("chosen", [os.SCHED_BATCH, os.SCHED_IDLE])
@pytest.mark.parametrize("do", [batch.enter, batch.leave])
def test_a_policy_that_somebody_chose_stays_with_all_that_is_started(chosen: int, do: Callable[[], object]) -> None:
    def work() -> list[object]:
        os.sched_setscheduler(0, chosen, os.sched_param(0))
        do()
        return [policy(), of_a_program(), policy()]

    assert in_child(work) == [chosen] * 3
