"""Packets between primary and zygote: what is said is read back, and what a zygote may not say is refused."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.unix import packets
from clusterd.wire import zygote as wire

texts = st.text(max_size=200)
numbers = st.integers(min_value=0, max_value=2**62)
answers = st.one_of(
    st.builds(wire.Loaded, st.booleans(), texts),
    st.builds(wire.Unsafe, texts),
    st.builds(wire.Failed, texts, texts),
    st.builds(wire.Spawned, numbers, numbers),
    st.builds(wire.SpawnFailed, numbers, texts),
)


@given(answers)
def test_an_answer_is_read_as_it_was_said(answer: wire.Answer) -> None:
    assert wire.read_answer(wire.encode(answer)) == answer


def test_a_request_is_read_as_it_was_said() -> None:
    load = wire.Load("shop", "web", 3, "shop:app", "auto", "auto", 1, None, {"nofile": [1, 2]}, {"keep_alive": 5.0})
    spawn = wire.Spawn(7, 0, True, [["http", "::1", 80]])
    assert [wire.read_request(wire.encode(message)) for message in (load, spawn)] == [load, spawn]


@given(st.binary(max_size=300))
@example(b"[" * 50_000)
@example(b"\xff")
@example(b"1" * 5000)
@example(b'{"v":2,"op":[]}')
def test_bytes_at_random_are_refused_and_never_more(data: bytes) -> None:
    with pytest.raises(PeerError):
        wire.read_answer(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(answers, st.data())
def test_an_answer_with_one_field_changed_is_refused_or_well_formed(answer: wire.Answer, data: st.DataObject) -> None:
    raw = json.loads(wire.encode(answer))
    raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(json_values)
    try:
        read = wire.read_answer(json.dumps(raw).encode())
    except PeerError:
        return
    for name, field in type(read).__dataclass_fields__.items():
        assert type(getattr(read, name)) is field.type


@pytest.mark.parametrize(
    "change",
    [
        {"worker": True},
        {"worker": -1},
        {"worker": 1.0},
        {"worker": "1"},
        {"pid": None},
        {"v": 1},
        {"op": "load"},
        {"op": "spawn"},
        {"op": "sing"},
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any]) -> None:
    raw = {"v": 2, "op": "spawned", "worker": 1, "pid": 2} | change
    with pytest.raises(PeerError):
        wire.read_answer(json.dumps(raw).encode())


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(PeerError):
        wire.read_answer(b'{"v":2,"op":"spawned","worker":1}')


@given(st.text(), st.integers(min_value=60, max_value=500))
@example("\U0001f600" * 10_000, wire.MAX_REPORT)
@example("\0" * 10_000, wire.MAX_REPORT)
@example("\ud800" * 10_000, wire.MAX_REPORT)
@example("x" * 10_000_000, wire.MAX_REPORT)
def test_a_clipped_report_fits_and_keeps_both_its_ends(report: str, limit: int) -> None:
    clipped = wire.clip(report, limit)
    if len(json.dumps(report)) <= limit:
        assert clipped == report
    if clipped != report:
        assert "characters left out" in clipped
        assert len(json.dumps(clipped)) < limit + 60
        assert clipped[: limit // 60] == report[: limit // 60]
        assert clipped[-(limit // 60) :] == report[-(limit // 60) :]


@given(st.text(min_size=1, max_size=3))
def test_whatever_a_report_is_made_of_its_packet_fits(alphabet: str) -> None:
    failed = wire.Failed("import", wire.clip(alphabet * 20_000))
    data = wire.encode(failed)
    assert len(data) <= packets.MAX_BYTES
    assert wire.read_answer(data) == failed


def test_an_overlong_report_of_a_zygote_that_does_not_clip_is_clipped() -> None:
    read = wire.read_answer(json.dumps({"v": 2, "op": "unsafe", "why": "y" * 60_000}).encode())
    assert isinstance(read, wire.Unsafe)
    assert len(read.why) < 2 * wire.MAX_REPORT + 60
