"""The richer serialization: every value comes back, what was one object is one again, and no bytes do harm."""

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.wire.advanced import Frames, decode, encode
from clusterd.wire.channel import Channel
from clusterd.wire.codecs import ADVANCED

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=40)
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
)
KEYS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=6
)
VALUES = st.recursive(
    KEYS | st.binary(max_size=40).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=20,
)


def back(value: Any) -> Any:
    (body,) = Frames(1 << 24).feed(encode(value))
    return decode(body)


@given(VALUES)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    result = back(value)
    assert result == value
    assert type(result) is type(value)


def test_what_was_one_object_is_one_object_again() -> None:
    inner: list[Any] = []
    inner.append(inner)
    value: dict[str, Any] = {"a": inner, "b": inner, "t": (inner, {1})}
    value["self"] = value
    result = back(value)
    assert result["self"] is result
    assert result["a"] is result["b"] is result["t"][0]
    assert result["a"][0] is result["a"]


def test_numbers_texts_and_times_of_every_kind() -> None:
    value = [10**400, -1, dt.datetime.now(dt.UTC), decimal.Decimal("1.10"), uuid.UUID(int=7), dt.timedelta(days=-1)]
    assert back(value) == value


@pytest.mark.parametrize(
    "value", [object(), open, {1: ValueError()}, [lambda: None], pytest.param(10**5000, id="a huge number")]
)
def test_what_could_run_code_or_cannot_be_said_is_refused_by_the_sender(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        encode(value)


@given(st.binary() | st.binary().map(lambda junk: encode(["x", {1: 2}])[4:] + junk))
def test_no_bytes_raise_anything_but_one_error(data: bytes) -> None:
    try:
        decode(data)
    except PeerError:
        pass


@given(st.lists(VALUES, max_size=4), st.data())
def test_frames_may_be_cut_anywhere(values: list[Any], data: st.DataObject) -> None:
    stream = b"".join(map(encode, values))
    frames, found, start = Frames(1 << 24), [], 0
    while start < len(stream):
        end = data.draw(st.integers(start + 1, len(stream)))
        found += [decode(body) for body in frames.feed(stream[start:end])]
        start = end
    assert found == values


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    frames = Frames(1000)
    with pytest.raises(PeerError, match="1001 bytes"):
        list(frames.feed((1001).to_bytes(4)))


def test_a_channel_of_it_carries_messages_and_acknowledgements() -> None:
    here, there = Channel(codec=ADVANCED), Channel(codec=ADVANCED)
    here.send({"set": {1, 2}}, fd=77)
    for piece in here.outgoing():
        (received,) = there.feed(piece.data, [] if piece.fd is None else [78])
        assert (received.message, received.fd) == ({"set": {1, 2}}, 78)
    for piece in there.outgoing():
        here.feed(piece.data)
    assert here.released() == [77]
