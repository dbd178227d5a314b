"""The memory guard's decisions, in a simulated container: who goes, when, and that it lives."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clusterd.primary.memory import LEAK_EVERY, LEAK_SAMPLES, PATIENCE, Advice, GiveUp, Guard, Leak, Replace, Weight
from clusterd.unix.cgroup import Usage

MIB = 2**20
LIMIT = 300 * MIB


def usage(share: float) -> Usage:
    return Usage(int(share * LIMIT), LIMIT)


def weights(*sizes: int, pool: str = "web") -> list[Weight]:
    return [Weight(number, pool, number - 1, size * MIB, True) for number, size in enumerate(sizes, 1)]


def begun() -> Guard:
    """One that has seen small workers begin."""
    guard = Guard(0.85, 0.95)
    guard.look(0.0, usage(0.5), weights(10, 10, 10))
    return guard


def kinds(advice: Iterable[Advice]) -> list[tuple[type, int]]:
    return [(type(one), one.worker) for one in advice]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.84])
def test_below_the_soft_threshold_nobody_is_touched(share: float) -> None:
    assert Guard(0.85, 0.95).look(0.0, usage(share), weights(10, 200, 30)) == []


def test_at_the_soft_threshold_the_fattest_is_replaced_and_no_other_until_that_is_done() -> None:
    guard = Guard(0.85, 0.95)
    guard.look(0.0, usage(0.5), weights(10, 20, 30))
    assert kinds(guard.look(1.0, usage(0.86), weights(40, 120, 50))) == [(Replace, 2)]
    assert guard.look(2.0, usage(0.87), weights(40, 125, 60)) == []
    gone = [weight for weight in weights(40, 0, 130) if weight.worker != 2]
    assert kinds(guard.look(3.0, usage(0.86), gone)) == [(Replace, 3)]


def test_one_that_drains_for_long_is_not_waited_for_for_ever() -> None:
    guard = begun()
    assert kinds(guard.look(0.0, usage(0.86), weights(40, 120))) == [(Replace, 2)]
    assert guard.look(PATIENCE - 1, usage(0.86), weights(40, 120)) == []
    assert kinds(guard.look(PATIENCE, usage(0.86), weights(40, 120))) == [(Replace, 1)]


def test_at_the_hard_threshold_the_fattest_is_given_up_one_at_a_time() -> None:
    guard = Guard(0.85, 0.95)
    assert kinds(guard.look(0.0, usage(0.96), weights(40, 120))) == [(GiveUp, 2)]
    assert guard.look(0.2, usage(0.99), weights(40, 120)) == []
    assert kinds(guard.look(0.4, usage(0.96), weights(40))) == [(GiveUp, 1)]


def test_one_that_drains_is_given_up_all_the_same_if_it_is_the_fattest() -> None:
    guard = Guard(0.85, 0.95)
    draining = [Weight(1, "web", 0, 200 * MIB, True, leaving=True), *weights(0, 20)[1:]]
    assert kinds(guard.look(0.0, usage(0.96), draining)) == [(GiveUp, 1)]


def test_without_room_for_a_successor_nobody_is_replaced() -> None:
    guard = Guard(0.85, 0.95)
    guard.look(0.0, usage(0.5), weights(100, 100))  # so much one has from its start
    assert guard.look(1.0, usage(0.86), weights(120, 130)) == []


def test_who_is_not_ready_is_not_replaced() -> None:
    booting = [Weight(1, "web", 0, 200 * MIB, False), *weights(0, 50)[1:]]
    assert kinds(begun().look(0.0, usage(0.86), booting)) == [(Replace, 2)]


def test_thresholds_of_zero_are_off() -> None:
    assert Guard(0.0, 0.0).look(0.0, usage(1.0), weights(200)) == []
    assert kinds(Guard(0.0, 0.95).look(0.0, usage(0.96), weights(200))) == [(GiveUp, 1)]


def test_without_a_limit_nobody_is_touched() -> None:
    assert Guard(0.85, 0.95).look(0.0, None, weights(10_000)) == []


def grow(size_at: Callable[[float], float], seconds: int) -> list[Leak]:
    guard, found = Guard(0.0, 0.0), []
    for now in range(seconds):
        found += guard.look(float(now), None, weights(int(size_at(float(now)))))
    return [one for one in found if isinstance(one, Leak)]


def test_growth_that_does_not_stop_is_a_leak_with_a_rate() -> None:
    (first, *_) = grow(lambda now: 50 + now, int(LEAK_EVERY * LEAK_SAMPLES) + 1)
    assert first.rate == pytest.approx(MIB, rel=0.05)
    assert "1.0 MiB a second" in first.why


@pytest.mark.parametrize(
    "size_at",
    [lambda now: 50 + min(now, 40), lambda now: 50 + now % 35, lambda now: 500.0, lambda now: 5000 + now],
    ids=["a cache that fills", "a saw", "flat", "a small share of much"],
)
def test_growth_that_stops_is_none(size_at: Callable[[float], float]) -> None:
    assert grow(size_at, 200) == []


@given(
    rates=st.lists(st.integers(0, 25), min_size=1, max_size=4),
    base=st.integers(5, 25),
    drain=st.integers(0, 8),
    boot=st.integers(1, 10),
)
def test_a_container_lives_whatever_its_workers_leak(rates: list[int], base: int, drain: int, boot: int) -> None:
    """Workers leak at their rates (MB/s); a replaced one goes on leaking while its successor boots and it drains."""
    # 12 MB from one look to the next, with those that drain beside their successors; 15 are left at the hard threshold.
    assume(sum(rates) + 2 * max(rates) <= 60)
    guard = Guard(0.85, 0.95)
    serial = len(rates)
    sizes = dict(enumerate([float(base)] * len(rates), 1))
    slots = dict(enumerate(range(len(rates)), 1))
    ends: dict[int, float] = {}  # drains
    begins: dict[int, float] = {}  # boots
    step = 0.2
    killed = 0
    for tick in range(600):
        now = tick * step
        for worker in sizes:
            if worker not in begins or begins[worker] <= now:
                sizes[worker] += rates[slots[worker]] * step
        for worker in [one for one, at in ends.items() if at <= now]:
            del sizes[worker], ends[worker]
        used = sum(sizes.values())
        assert used < 300, "the container is killed"
        seen = [
            Weight(one, "web", slots[one], int(size * MIB), begins.get(one, 0.0) <= now, one in ends)
            for one, size in sizes.items()
        ]
        for advice in guard.look(now, Usage(int(used * MIB), 300 * MIB), seen):
            if isinstance(advice, Leak):
                continue
            worker = advice.worker
            if isinstance(advice, GiveUp):
                killed += 1
                del sizes[worker]
                if worker in ends:
                    del ends[worker]
                    continue
            else:
                ends[worker] = now + boot * step + drain
            serial += 1
            slots[serial] = slots[worker]
            sizes[serial], begins[serial] = float(base), now + boot * step
    takes = boot * step + drain + 1
    if base + 2 * sum(rates) * takes <= 0.10 * 300:  # what leaks beside a successor until the one before it is gone
        assert killed == 0, "there was time to replace"
