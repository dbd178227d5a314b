"""Whose turn it is, with boxes that say what they hold."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.primary.box import Box
from clusterd.primary.rotation import Rotation

LIMIT = 4


class Held(NamedTuple):
    """What a box may be found to be: how much it holds, and whether it is robbed."""

    queued: int
    robbed: bool = False


class Writing:
    """The writing end of a box that holds what it is told to."""

    limit = LIMIT

    def __init__(self) -> None:
        self.held = 0
        self.asked = 0
        self.emptied = [-2]

    def fileno(self) -> int:
        return -1

    def queued(self) -> int:
        self.asked += 1
        return self.held


def boxes(count: int) -> Iterator[tuple[Box, Writing]]:
    for worker in range(count):
        writing = Writing()
        yield Box(worker, writing), writing  # type: ignore[arg-type]


@given(
    st.lists(st.builds(Held, st.integers(0, LIMIT), st.booleans()), max_size=6), st.integers(0, 5), st.integers(0, 3)
)
def test_it_is_the_next_of_those_that_hold_least_and_have_room(held: list[Held], turn: int, known: int) -> None:
    pairs = [*boxes(len(held))]
    rotation = Rotation(box for box, _ in pairs)
    rotation.next = turn % len(held) if held else 0
    for (box, writing), (queued, robbed) in zip(pairs, held, strict=True):
        writing.held, box.robbed = queued, robbed
    may = [box for box in rotation.in_turn() if not box.robbed and box.queued() < LIMIT]
    least = min((box.queued() for box in may), default=0)
    if least >= known:  # what is said to be known is true
        chosen = rotation.choose(known)
        assert chosen is next((box for box in may if box.queued() == least), None)
        if chosen is not None:
            assert rotation.least == least
            assert rotation.boxes[rotation.after - 1] is chosen


@given(st.integers(1, 5), st.integers(0, 40))
def test_a_crowd_is_dealt_out_in_turn_and_few_are_asked(count: int, crowd: int) -> None:
    """As a turn of the loop does it: it goes on from what it has learnt."""
    pairs = [*boxes(count)]
    rotation = Rotation(box for box, _ in pairs)
    order, least = [], 0
    for _ in range(min(crowd, count * LIMIT)):
        box = rotation.choose(least)
        assert box is not None
        least = rotation.least
        order.append(box.worker)
        pairs[box.worker][1].held += 1
        rotation.next = rotation.after
    assert order == [number % count for number in range(len(order))]
    assert sum(writing.asked for _, writing in pairs) <= 2 * len(order)
    if crowd >= count * LIMIT:
        assert rotation.choose(least) is None


@pytest.mark.parametrize("leaves", range(4))
def test_who_leaves_takes_nobodys_turn(leaves: int) -> None:
    rotation = Rotation(box for box, _ in boxes(4))
    rotation.next = 2
    expected = [worker for worker in (2, 3, 0, 1) if worker != leaves]
    assert rotation.remove(leaves)
    assert not rotation.remove(leaves)
    assert [box.worker for box in rotation.in_turn()] == expected
    assert (rotation.choose() or rotation.boxes[0]).worker == expected[0]
