"""The IPC channel's rules, one by one. Descriptors here are mere numbers."""

from itertools import count
from typing import Any

import pytest

from clusterd.errors import PeerError
from clusterd.wire.channel import (
    ATTEMPTS,
    NATIVE,
    SLOW_DOWN,
    SOCKET,
    Channel,
    Outgoing,
    Received,
    Returned,
    is_internal,
)
from clusterd.wire.lines import encode

ACK = b'{"cmd":"NODE_HANDLE_ACK"}\n'
NACK = b'{"cmd":"NODE_HANDLE_NACK"}\n'


def envelope(message: Any, kind: object = NATIVE, **more: Any) -> bytes:
    return encode({"cmd": "NODE_HANDLE", "type": kind, "msg": message, **more})


def test_messages_of_any_type_go_out_as_lines_and_come_in_as_values() -> None:
    a, b = Channel(), Channel()
    values = [None, True, 7, "text", [1], {"cmd": "mine"}, {}]
    assert all(a.send(value) for value in values)
    (piece,) = a.outgoing()
    assert piece == Outgoing(b'null\ntrue\n7\n"text"\n[1]\n{"cmd":"mine"}\n{}\n', None)
    assert b.feed(piece.data) == [Received(value) for value in values]
    assert (a.outgoing(), b.outgoing()) == ([], [])


@pytest.mark.parametrize(
    ("message", "internal"),
    [
        ({"cmd": "NODE_X"}, True),
        ({"cmd": "NODE_CLUSTER", "ack": -1}, True),
        ({"cmd": "NODE_"}, False),
        ({"cmd": "node_x"}, False),
        ({"cmd": ["NODE_X"]}, False),
        ("NODE_X", False),
        (["NODE_X"], False),
        (None, False),
    ],
)
def test_internal_is_what_node_calls_internal(message: object, internal: bool) -> None:
    assert is_internal(message) is internal
    assert Channel().feed(encode(message)) == [Received(message, internal=internal)]
    (received,) = Channel().feed(envelope(message), [3])
    assert received == Received(message, 3, internal, NATIVE)


def test_a_handle_that_came_is_acknowledged_and_delivered() -> None:
    channel = Channel()
    assert channel.feed(envelope("here", SOCKET, key="k"), [3]) == [Received("here", 3, False, SOCKET)]
    assert channel.outgoing() == [Outgoing(ACK, None)]
    assert channel.stray() == []


def test_an_envelope_within_an_envelope_is_one_handle_as_node_sends_it_at_its_second_attempt() -> None:
    channel = Channel()
    inner = {"cmd": "NODE_HANDLE", "type": SOCKET, "msg": "again"}
    assert channel.feed(envelope(inner, SOCKET), [3]) == [Received("again", 3, False, SOCKET)]
    assert channel.outgoing() == [Outgoing(ACK, None)]


def test_a_handle_that_did_not_come_is_refused_and_its_message_dropped() -> None:
    channel = Channel()
    assert channel.feed(envelope("here") + b"1\n") == [Received(1)]
    assert channel.outgoing() == [Outgoing(NACK, None)]


def test_an_envelope_without_message_or_type_is_none() -> None:
    (received,) = Channel().feed(b'{"cmd":"NODE_HANDLE"}\n', [3])
    assert received == Received(None, 3, False, None)
    (received,) = Channel().feed(envelope(1, kind=[]), [3])
    assert received.kind is None


def test_a_descriptor_goes_to_the_first_handle_message_completed_with_it_or_later() -> None:
    channel = Channel()
    line = envelope("late")
    assert channel.feed(b"1\n" + line[:10], [3]) == [Received(1)]
    assert channel.feed(line[10:] + b"2\n") == [Received("late", 3, False, NATIVE), Received(2)]
    assert channel.feed(b"3\n" + envelope("with a plain one"), [4])[1].fd == 4


def test_handles_piled_up_without_waiting_are_taken_in_order() -> None:
    channel = Channel()
    first, second = envelope("first"), envelope("second")
    assert channel.feed(first[:-5], [3]) == []
    assert [(r.message, r.fd) for r in channel.feed(first[-5:] + second, [4])] == [("first", 3), ("second", 4)]
    assert channel.outgoing() == [Outgoing(ACK + ACK, None)]


def test_descriptors_without_messages_are_bounded_and_end_as_strays() -> None:
    channel = Channel(max_unpaired=2)
    channel.feed(b"1\n", [3, 4, 5, 6])
    assert sorted(channel.stray()) == [5, 6]
    assert channel.stray() == []
    assert [r.fd for r in channel.feed(envelope("a"))] == [3]
    channel.close()
    assert channel.stray() == [4]
    assert channel.feed(b"1\n", [7]) == []
    assert channel.stray() == [7]


def test_after_a_handle_everything_waits_for_its_answer() -> None:
    channel = Channel()
    assert channel.send("before")
    assert channel.send("first", 3, SOCKET, {"key": "k"})
    assert channel.send("between")
    assert channel.send("second", 4)
    assert channel.send("after")
    assert channel.outgoing() == [Outgoing(b'"before"\n', None), Outgoing(envelope("first", SOCKET, key="k"), 3)]
    assert not channel.settled
    assert (channel.outgoing(), channel.released()) == ([], [])
    channel.feed(ACK)
    assert channel.released() == [3]
    assert channel.outgoing() == [Outgoing(b'"between"\n', None), Outgoing(envelope("second"), 4)]
    channel.feed(ACK)
    assert channel.outgoing() == [Outgoing(b'"after"\n', None)]
    assert channel.released() == [4]
    assert channel.returned() == []
    assert channel.settled


def test_answers_about_handles_wait_behind_nothing() -> None:
    channel = Channel()
    channel.send("mine", 3)
    channel.outgoing()
    channel.feed(envelope("yours"), [4])
    assert channel.outgoing() == [Outgoing(ACK, None)]


def test_a_refused_handle_is_sent_again_and_comes_back_in_the_end() -> None:
    channel = Channel()
    seq = channel.ask({"cmd": "NODE_CLUSTER", "act": "newconn", "key": "k"}, 3)
    channel.send("after")
    for _ in range(ATTEMPTS):
        (piece,) = channel.outgoing()
        assert piece.fd == 3
        assert channel.returned() == []
        channel.feed(NACK)
    assert channel.returned() == [
        Returned({"cmd": "NODE_CLUSTER", "act": "newconn", "key": "k", "seq": seq}, 3, NATIVE, ATTEMPTS)
    ]
    assert channel.outgoing() == [Outgoing(b'"after"\n', None)]
    assert channel.released() == []
    (answer,) = channel.feed(encode({"cmd": "NODE_CLUSTER", "ack": seq}))
    assert answer.ack is None  # what never arrived cannot be answered


def test_a_handle_that_arrives_at_the_second_attempt_is_released() -> None:
    channel = Channel()
    channel.send(1, 3)
    channel.outgoing()
    channel.feed(NACK)
    channel.feed(ACK + NACK)  # forged: it is not sent again yet
    assert channel.outgoing() == [Outgoing(envelope(1), 3)]
    assert (channel.released(), channel.returned()) == ([], [])
    channel.feed(ACK)
    assert (channel.released(), channel.returned()) == ([3], [])


def test_answers_to_nothing_are_let_pass() -> None:
    channel = Channel()
    assert channel.feed(ACK + NACK + b"1\n") == [Received(1)]
    channel.send("a", 3)
    assert channel.feed(ACK) == []
    assert channel.released() == []
    assert channel.outgoing() == [Outgoing(envelope("a"), 3)]


def test_only_messages_of_the_cluster_are_numbered_and_from_0_for_all_channels_of_a_process() -> None:
    seq = count()
    a, b = Channel(seq=seq), Channel(seq=seq)
    message = {"cmd": "NODE_CLUSTER", "act": "online"}
    a.send(message)
    a.send({"cmd": "NODE_OTHER"})
    assert b.ask(message) == 1
    a.send(message, 3)
    assert message == {"cmd": "NODE_CLUSTER", "act": "online"}
    assert [piece.data for piece in a.outgoing() + b.outgoing()] == [
        b'{"cmd":"NODE_CLUSTER","act":"online","seq":0}\n{"cmd":"NODE_OTHER"}\n',
        envelope({**message, "seq": 2}),
        b'{"cmd":"NODE_CLUSTER","act":"online","seq":1}\n',
    ]


def test_a_question_is_answered_once_and_only_by_who_was_asked() -> None:
    seq = count()
    asked, other = Channel(seq=seq), Channel(seq=seq)
    number = asked.ask({"cmd": "NODE_CLUSTER", "act": "queryServer"})
    answer = {"cmd": "NODE_CLUSTER", "ack": number, "seq": 9}
    assert other.feed(encode(answer)) == [Received(answer, internal=True)]
    assert asked.feed(encode({**answer, "cmd": "NODE_OTHER"}))[0].ack is None
    assert asked.feed(envelope(answer), [3]) == [Received(answer, 3, True, NATIVE, number)]
    assert asked.feed(encode(answer))[0].ack is None


@pytest.mark.parametrize("ack", [True, False, 0.0, "0", None, [0], -1, 1, 10**30])
def test_an_ack_of_no_question_is_a_message_like_any(ack: object) -> None:
    channel = Channel()
    channel.ask({"cmd": "NODE_CLUSTER", "act": "queryServer"})
    (received,) = channel.feed(encode({"cmd": "NODE_CLUSTER", "ack": ack}))
    assert received.ack is None
    assert received.internal


def test_send_says_slow_down_by_what_is_unsent_here_and_below() -> None:
    channel = Channel()
    assert channel.send("x" * (SLOW_DOWN // 2))
    assert not channel.send("x" * (SLOW_DOWN // 2))
    assert len(channel.outgoing()) == 1
    assert channel.send(1)
    channel.outgoing(unsent=SLOW_DOWN)
    assert not channel.send(1)
    channel.outgoing(unsent=0)
    assert channel.send(1)


def test_what_cannot_be_sent_is_the_callers_fault_and_leaves_no_trace() -> None:
    channel = Channel(max_line=100)
    with pytest.raises(TypeError, match="a message cannot be sent"):
        channel.send(object(), 3)
    with pytest.raises(ValueError, match="longer than the 100"):
        channel.send("x" * 100, 3)
    assert channel.settled
    channel.close()
    assert channel.returned() == []
    with pytest.raises(ValueError, match="longer than the 936"):  # no peer is to blame for a queue that is too short
        Channel(max_queued=1000).send("x" * 1000)


def test_a_peer_that_does_not_read_is_broken_at_the_limit() -> None:
    channel = Channel(max_queued=10_000)
    channel.send(1, 3)
    sent = 0
    while channel.broken is None:
        channel.send("x" * 100, 4)
        sent += 1
    assert sent < 100
    with pytest.raises(PeerError, match="more than 10000 bytes unread or unacknowledged"):
        channel.outgoing()
    assert [r.fd for r in channel.returned()] == [3] + [4] * sent


def test_what_the_stream_below_holds_counts_too() -> None:
    channel = Channel(max_queued=10_000)
    assert channel.outgoing(unsent=10_000) == []
    with pytest.raises(PeerError, match="more than 10000 bytes"):
        channel.outgoing(unsent=10_001)


def test_a_flood_of_handles_without_descriptors_is_bounded_by_the_answers_it_is_owed() -> None:
    channel = Channel(max_queued=10_000)
    with pytest.raises(PeerError, match="more than 10000 bytes"):
        channel.feed(envelope(1) * 1000)


GARBAGE = [b"\n", b"{\n", b"\x00\n", b"[" * 1000 + b"\n", b"x" * 101]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_peer_that_breaks_the_rules_is_dead_and_stays_so(garbage: bytes) -> None:
    channel = Channel(max_line=100)
    channel.send("mine", 3)
    channel.outgoing()
    channel.send("later", 4)
    channel.send("plain")
    with pytest.raises(PeerError) as caught:
        channel.feed(garbage, [5])
    assert channel.broken is caught.value
    for call in (lambda: channel.feed(b"1\n", [6]), channel.outgoing):
        with pytest.raises(PeerError) as again:
            call()
        assert again.value is caught.value
    assert not channel.send("more", 7)
    assert channel.ask({"cmd": "NODE_CLUSTER"}) == 0
    channel.close()
    assert sorted(channel.stray()) == [5, 6]
    assert channel.returned() == [
        Returned("mine", 3, NATIVE, 1),
        Returned("later", 4, NATIVE, 0),
        Returned("more", 7, NATIVE, 0),
    ]
    assert channel.settled


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_came_before_the_garbage_counts(garbage: bytes) -> None:
    channel = Channel(max_line=100)
    assert channel.feed(b"1\n" + envelope("2") + garbage, [3]) == [Received(1), Received("2", 3, False, NATIVE)]
    assert channel.broken is not None
    with pytest.raises(PeerError):
        channel.outgoing()
    assert channel.stray() == []


def test_a_channel_that_was_closed_is_silent() -> None:
    channel = Channel()
    channel.send("mine", 3)
    channel.send("plain")
    channel.close()
    channel.close()
    assert channel.returned() == [Returned("mine", 3, NATIVE, 0)]
    assert not channel.send(1)
    assert channel.feed(b"\n") == []
    assert channel.outgoing(unsent=10**9) == []
    assert channel.broken is None
