"""The scoreboard's layout: stable, without holes, with room to grow."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from clusterd.wire.rows import ACCEPTED, ACCEPTED_LISTENERS, HANDOVER, HISTOGRAMS, WORDS, Row


def test_every_word_has_one_meaning_and_none_lies_outside_the_row() -> None:
    words = [int(row) for row in Row]
    assert words == list(range(len(words)))
    taken = [*words, *(word for one in HISTOGRAMS.values() for word in (*one.buckets, one.sum_ns))]
    taken += range(ACCEPTED, ACCEPTED + ACCEPTED_LISTENERS)
    assert len(taken) == len(set(taken))
    assert max(taken) < WORDS


@given(st.lists(st.integers(-(10**9), 10**11)))
def test_an_observation_is_in_the_bucket_that_its_bounds_say_and_in_the_sum(values: list[int]) -> None:
    words = memoryview(bytearray(8 * WORDS)).cast("Q")
    observe = HANDOVER.observer(words)
    for value in values:
        observe(value)
    expected = [0] * len(HANDOVER.buckets)
    for value in values:
        expected[bisect_left(HANDOVER.bounds, value / 1e9)] += 1
    assert [words[word] for word in HANDOVER.buckets] == expected
    assert words[HANDOVER.sum_ns] == sum(max(value, 0) for value in values)
    assert sum(words) == len(values) + words[HANDOVER.sum_ns]


def test_a_row_is_whole_64_bit_words_within_one_page() -> None:
    assert 8 * WORDS <= 4096


def test_words_of_version_1_stay_where_they_are() -> None:
    assert {row.name: int(row) for row in (Row.VERSION, Row.HEARTBEAT_NS, Row.CONNECTIONS_OPEN, Row.REQUESTS_5XX)} == {
        "VERSION": 0,
        "HEARTBEAT_NS": 1,
        "CONNECTIONS_OPEN": 4,
        "REQUESTS_5XX": 11,
    }
