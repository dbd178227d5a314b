"""JSON lines: any bytes in any splitting, and the bounds."""

import itertools
import json
import math
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.wire.lines import MAX_DEPTH, Lines, decode, encode

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),  # lone surrogates among them: JSON.stringify writes those
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at ``places``."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), max_size=8), st.lists(st.integers(0, 10**6)))
def test_lines_come_out_as_they_went_in_however_they_are_cut(expected: list[bytes], places: list[int]) -> None:
    lines = Lines()
    data = b"".join(line + b"\n" for line in expected)
    assert [line for piece in cut(data, places) for line in lines.feed(piece)] == expected


@settings(deadline=None)
@given(json_values)
def test_any_value_survives_the_wire(value: object) -> None:
    line = encode(value)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line[:-1]) == value


@settings(deadline=None)
@given(json_values)
def test_what_is_sent_and_read_is_what_the_standard_library_reads_and_sends(value: object) -> None:
    assert json.loads(encode(value)) == value
    assert decode(json.dumps(value).encode()) == value


@settings(deadline=None)
@given(st.one_of(st.binary(), st.text('[]{}",:\\ \n\t\rtruefalsn0123456789.eE+-u"\x00\ufeffNaIity').map(str.encode)))
def test_any_bytes_are_a_value_or_a_peer_error(line: bytes) -> None:
    try:
        value = decode(line)
    except PeerError:
        return
    assert encode(value)


@pytest.mark.parametrize("line", [b"", b" ", b"\r"])
def test_a_blank_line_is_a_peer_error_that_says_so(line: bytes) -> None:
    with pytest.raises(PeerError, match="a blank line"):
        decode(line)


@pytest.mark.parametrize(
    "line", [b"NaN", b"-Infinity", b"{'a':1}", b"[1,]", b"01", b'"\xff"', b"\xef\xbb\xbf1", b"1 2"]
)
def test_what_javascript_refuses_is_refused(line: bytes) -> None:
    with pytest.raises(PeerError, match="no JSON"):
        decode(line)


def test_numbers_are_what_javascript_makes_of_them() -> None:
    assert decode(b"1e999") == math.inf
    assert encode([math.nan, math.inf, -math.inf]) == b"[null,null,null]\n"


def test_half_surrogate_pairs_pass_both_ways() -> None:
    assert decode(b'"\\ud800"') == "\ud800"
    assert encode("\ud800é") == b'"\\ud800\\u00e9"\n'


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000, 500_000])
def test_nesting_too_deep_is_a_peer_error(bracket: bytes, depth: int) -> None:
    middle, end = (b"", b"]") if bracket == b"[" else (b"1", b"}")
    with pytest.raises(PeerError, match="nested deeper"):
        decode(bracket * depth + middle + end * depth)


def test_nesting_is_bounded_exactly_and_alike_both_ways() -> None:
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(TypeError, match=f"deeper than {MAX_DEPTH} levels"):
        encode(nested(MAX_DEPTH + 1))
    wide: list[object] = [[{}] for _ in range(10 * MAX_DEPTH)]
    assert decode(encode(wide)) == wide
    text = "[" * 10_000  # brackets in text are no nesting
    assert decode(encode([text])) == [text]


def test_what_json_cannot_say_is_a_type_error_at_the_sender() -> None:
    loop: list[object] = []
    loop.append(loop)
    for message in (loop, object(), {(1, 2): 3}, nested(100_000), ["\ud800", math.nan]):
        with pytest.raises(TypeError, match="a message cannot be sent"):
            encode(message)


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    for pieces in ([b"x" * 10 + b"\n"], [b"x" * 9, b"x\n"], [b"x"] * 10 + [b"\n"]):
        lines = Lines(10)
        assert [line for piece in pieces for line in lines.feed(piece)] == [b"x" * 10]
    for pieces in ([b"x" * 11 + b"\n"], [b"x" * 10, b"x\n"], [b"x" * 11], [b"x"] * 11):
        lines = Lines(10)
        with pytest.raises(PeerError, match="more than 10 bytes"):
            [line for piece in pieces for line in lines.feed(piece)]


def test_lines_before_one_too_long_are_yielded() -> None:
    seen: list[bytes] = []
    with pytest.raises(PeerError, match="more than 3 bytes"):
        seen.extend(line for line in Lines(3).feed(b"a\nbb\nlong"))
    assert seen == [b"a", b"bb"]


def test_a_hundred_megabytes_without_an_end_cost_the_limit_and_no_more() -> None:
    limit = 4 * 1024 * 1024
    lines = Lines(limit)
    stream = itertools.repeat(b"x" * 65536, 100 * 16)
    tracemalloc.start()
    try:
        with pytest.raises(PeerError, match="more than"):
            list(itertools.chain.from_iterable(map(lines.feed, stream)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * limit


def test_a_line_in_tiny_pieces_takes_linear_time() -> None:
    def cost(size: int) -> float:
        lines = Lines()
        start = time.process_time()
        for _ in range(size // 16):
            for _ in lines.feed(b"x" * 16):
                pytest.fail("there is no line")
        return time.process_time() - start

    small = min(cost(1 << 18) for _ in range(3))
    assert cost(1 << 22) < 10 * 16 * small + 0.1
