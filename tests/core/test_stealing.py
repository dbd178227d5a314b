"""When mail of a living worker goes to others: the rule, stated as sentences and as properties."""

from hypothesis import given
from hypothesis import strategies as st

from clusterd.core.stealing import BoxView, Probe, Steal, steals

NOW = 100.0
LATE = (99.0,)  # posted a second ago
FRESH = (99.999,)


def box(
    worker: int, untaken: tuple[float, ...] = (), *, taken_at: float = 0.0, robbed: bool = False, after: float = 0.02
) -> BoxView:
    return BoxView(worker, untaken, taken_at, robbed, after)


def test_late_mail_goes_to_one_who_has_taken_something_since() -> None:
    assert steals([box(1, LATE), box(2, taken_at=99.5)], NOW) == [Steal(1, 2)]


def test_mail_that_is_not_late_stays() -> None:
    assert steals([box(1, FRESH), box(2, taken_at=99.9999)], NOW) == []


def test_if_all_are_late_nobody_is_robbed() -> None:
    assert steals([box(1, LATE), box(2, LATE), box(3, LATE)], NOW) == []


def test_one_who_has_shown_nothing_since_is_asked_first() -> None:
    assert steals([box(1, LATE), box(2, taken_at=98.0)], NOW) == [Probe(2)]


def test_only_as_many_messages_as_there_are_empty_boxes_oldest_first() -> None:
    boxes = [box(1, (99.0, 99.1, 99.2)), box(2, taken_at=99.9), box(3, (98.9,)), box(4, taken_at=99.9)]
    assert steals(boxes, NOW) == [Steal(3, 2), Steal(1, 4)]


def test_of_a_blocked_box_only_what_is_late_itself() -> None:
    boxes = [box(1, (99.0, 99.995)), box(2, taken_at=99.999), box(3, taken_at=99.999)]
    assert steals(boxes, NOW) == [Steal(1, 2)]


def test_a_robbed_worker_takes_nothing_over_and_is_probed_once_its_box_is_empty() -> None:
    assert steals([box(1, LATE), box(2, taken_at=99.9, robbed=True)], NOW) == [Probe(2)]
    assert steals([box(2, (99.9999,), robbed=True)], NOW) == []


def test_a_robbed_worker_is_robbed_on_of_what_it_still_has() -> None:
    assert steals([box(1, LATE, robbed=True), box(2, taken_at=99.9)], NOW) == [Steal(1, 2)]


def test_late_is_late_for_this_machine_as_it_is_now() -> None:
    """Mail that others take has to lie for 0.4 s: one second is no block yet, and two are."""
    boxes = [box(1, LATE), box(2, taken_at=99.5)]
    assert steals(boxes, NOW, usual=0.4) == []
    assert steals(boxes, NOW + 1.0, usual=0.4) == [Steal(1, 2)]
    assert steals(boxes, NOW, usual=0.001) == [Steal(1, 2)], "steal_after is the least"


def test_off_is_off() -> None:
    assert steals([box(1, LATE, after=0.0), box(2, taken_at=99.9)], NOW) == []


boxes_seen = st.lists(
    st.builds(
        BoxView,
        worker=st.integers(0, 10**6),
        untaken=st.lists(st.floats(90, 100), max_size=6).map(lambda times: tuple(sorted(times))),
        taken_at=st.floats(90, 100),
        robbed=st.booleans(),
        steal_after=st.sampled_from([0.0, 0.02, 1.0]),
    ),
    max_size=8,
    unique_by=lambda seen: seen.worker,
)


@given(boxes_seen, st.floats(0, 2))
def test_whatever_is_seen_the_rule_holds(seen: list[BoxView], usual: float) -> None:
    by_worker = {one.worker: one for one in seen}
    given_to: list[int] = []
    for move in steals(seen, NOW, usual):
        if isinstance(move, Probe):
            assert not by_worker[move.worker].untaken
            given_to.append(move.worker)
            continue
        victim, taker = by_worker[move.victim], by_worker[move.taker]
        assert victim.untaken
        assert NOW - victim.untaken[0] >= victim.steal_after > 0
        assert NOW - victim.untaken[0] >= 3 * usual
        assert not taker.untaken
        assert not taker.robbed
        assert taker.taken_at > victim.untaken[0]
        given_to.append(move.taker)
    assert len(given_to) == len(set(given_to)), "no box gets two messages in one look"
