"""On which CPUs a process may run, asked of the kernel by a child that may be moved about."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.errors import HostError
from clusterd.unix import cpus
from tests.unix.children import in_child

MINE = cpus.allowed()
NOBODYS = 8190
two = pytest.mark.skipif(len(MINE) < 2, reason="needs two CPUs")


def test_who_is_bound_runs_there_and_what_it_starts_too() -> None:
    def work() -> object:
        cpus.bind(MINE[:1])
        return cpus.allowed(), in_child(cpus.allowed)

    assert in_child(work) == [MINE[:1], MINE[:1]]
    assert cpus.of(os.getpid()) == MINE


@pytest.mark.parametrize("asked", [[NOBODYS], [MINE[0], NOBODYS]])
@pytest.mark.parametrize("do", [cpus.bind, cpus.verify])
def test_a_cpu_that_is_not_there_is_named_and_nothing_changes(do: object, asked: list[int]) -> None:
    def work() -> object:
        with pytest.raises(HostError, match=f"no CPU .*{NOBODYS} for this process, which may run on {MINE[0]}"):
            do(asked)  # type: ignore[operator]
        return cpus.allowed()

    assert in_child(work) == MINE


@two
def test_to_verify_changes_nothing() -> None:
    def work() -> object:
        cpus.verify(MINE[:1])
        return cpus.allowed()

    assert in_child(work) == MINE


def test_each_in_turn_has_one_of_those_that_there_are() -> None:
    def work(number: int) -> object:
        cpus.bind_to_one(number)
        return cpus.allowed()

    for number in range(2 * len(MINE) + 1):
        assert in_child(lambda number=number: work(number)) == [MINE[number % len(MINE)]]


def test_of_a_process_that_is_not_there_nothing_is_known() -> None:
    assert cpus.of(2**22 + 1) is None


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_each_and_no_other(numbers: set[int]) -> None:
    found: set[int] = set()
    for part in filter(None, cpus.ranges(numbers).split(",")):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    assert found == numbers
