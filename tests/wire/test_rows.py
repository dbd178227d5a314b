"""The scoreboard's layout: stable, without holes, with room to grow."""

from clusterd.wire.rows import WORDS, Row


def test_every_word_has_one_meaning_and_none_lies_outside_the_row() -> None:
    words = [int(row) for row in Row]
    assert words == list(range(len(words)))
    assert len(words) <= WORDS


def test_a_row_is_whole_64_bit_words_within_one_page() -> None:
    assert 8 * WORDS <= 4096


def test_words_of_version_1_stay_where_they_are() -> None:
    assert {row.name: int(row) for row in (Row.VERSION, Row.HEARTBEAT_NS, Row.CONNECTIONS_OPEN, Row.REQUESTS_5XX)} == {
        "VERSION": 0,
        "HEARTBEAT_NS": 1,
        "CONNECTIONS_OPEN": 4,
        "REQUESTS_5XX": 11,
    }
