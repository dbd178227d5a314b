"""The arithmetic of delays and deadlines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.core.policy import OnGiveUp, RestartPolicy, StopPolicy, backoff, jitter

DEFAULT = RestartPolicy(1.0, 0.2, 30.0, 5, OnGiveUp.PROBE, 10.0)


@pytest.mark.parametrize(
    ("row", "delay"), [(0, 0.0), (1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (8, 25.6), (9, 30.0), (10**9, 30.0)]
)
def test_a_row_doubles_its_delay_up_to_the_largest_plus_at_most_a_fifth(row: int, delay: float) -> None:
    assert delay <= backoff(DEFAULT, row, "web", 0) <= delay * 1.2


@given(st.integers(1, 10**12), st.text(), st.integers())
def test_a_delay_is_bounded_and_replays(row: int, seed: str, slot: int) -> None:
    delay = backoff(DEFAULT, row, seed, slot)
    assert 0.2 <= delay <= 36.0
    assert delay == backoff(DEFAULT, row, seed, slot)


@given(st.text(), st.integers())
def test_jitter_is_below_one(name: str, slot: int) -> None:
    assert 0.0 <= jitter(name, slot) < 1.0


def test_slots_and_services_do_not_restart_in_step() -> None:
    assert len({backoff(DEFAULT, 1, seed, slot) for seed in ("a", "b") for slot in range(16)}) == 32


@pytest.mark.parametrize(("linger", "drain", "deadline"), [(2.0, 25.0, 127.0), (0.0, 25.0, 125.0), (2.0, 0.0, None)])
def test_linger_precedes_the_drain_and_zero_waits_without_bound(
    linger: float, drain: float, deadline: float | None
) -> None:
    assert StopPolicy(0.0, linger, drain).drain_deadline(100.0) == deadline
