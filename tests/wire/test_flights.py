"""Several handles under way between two of our ends; and one at a time to everybody else."""

from clusterd.wire import messages
from clusterd.wire.arrivals import LOST
from clusterd.wire.channel import ATTEMPTS, Channel, Outgoing
from clusterd.wire.codecs import ADVANCED
from clusterd.wire.flights import WINDOW, WINDOW_BYTES
from clusterd.wire.lines import decode, encode

ACK = encode({"cmd": "NODE_HANDLE_ACK"})
NACK = encode({"cmd": "NODE_HANDLE_NACK"})


def ours(window: object = WINDOW) -> Channel:
    """A channel whose peer has said that it is one of ours."""
    channel = Channel()
    channel.feed(encode(messages.online(window)))  # type: ignore[arg-type]
    channel.outgoing()
    return channel


def numbers(pieces: list[Outgoing]) -> list[int | None]:
    return [piece.fd for piece in pieces]


def send(channel: Channel, count: int) -> list[Outgoing]:
    for number in range(count):
        channel.send(number, 100 + number)
    return channel.outgoing()


def test_each_of_our_ends_learns_what_the_other_takes_and_says_so_once() -> None:
    worker, primary = Channel(), Channel()
    worker.send(messages.online(WINDOW))
    primary.feed(worker.outgoing()[0].data)
    (told,) = primary.outgoing()
    worker.feed(told.data)
    assert worker.outgoing() == []
    assert numbers(send(worker, 3)) == numbers(send(primary, 3)) == [100, 101, 102]
    for _ in range(3):
        primary.feed(encode(messages.online(WINDOW)))
    assert primary.outgoing() == []


def test_to_a_peer_that_has_not_said_so_goes_one_at_a_time_and_nothing_that_node_does_not_say() -> None:
    channel = Channel()
    channel.feed(encode(messages.online()))
    (piece,) = send(channel, 3)
    assert decode(piece.data) == {"cmd": "NODE_HANDLE", "type": "net.Native", "msg": 0}
    channel.feed(ACK)
    assert numbers(channel.outgoing()) == [101]


def test_several_are_under_way_up_to_a_bound_that_the_peer_cannot_raise() -> None:
    for said, most in [(WINDOW, WINDOW), (10**9, WINDOW), (2, 2), (0, 1), (-5, 1), ("9", 1), (True, 1), (2.5, 1)]:
        channel = ours(said)
        assert len(send(channel, 2 * WINDOW)) == most
        channel.feed(ACK)
        assert channel.released() == [100]
        assert numbers(channel.outgoing()) == [100 + most]


def test_their_bytes_are_bounded_too() -> None:
    channel = ours()
    for number in range(4):
        channel.send("x" * (WINDOW_BYTES // 2), 100 + number)
    assert numbers(channel.outgoing()) == [100]
    big = ours()
    big.send("x" * (2 * WINDOW_BYTES), 100)
    assert numbers(big.outgoing()) == [100]


def test_a_message_without_a_handle_waits_for_all_that_are_under_way() -> None:
    channel = ours()
    channel.send(0, 100)
    channel.send(1, 101)
    channel.send("plain")
    channel.send(2, 102)
    assert numbers(channel.outgoing()) == [100, 101]
    channel.feed(ACK)
    assert channel.outgoing() == []
    channel.feed(ACK)
    (piece,) = channel.outgoing()
    assert piece.data.startswith(encode("plain"))
    assert piece.fd == 102


def test_what_was_behind_a_lost_one_is_sent_again_behind_it() -> None:
    channel = ours()
    send(channel, 4)
    channel.feed(ACK + NACK + NACK)
    assert channel.outgoing() == []  # the answer to the last is to come
    channel.feed(NACK)
    assert numbers(channel.outgoing()) == [101]  # alone, until it has arrived
    channel.feed(ACK)
    assert numbers(channel.outgoing()) == [102, 103]
    channel.feed(ACK + ACK)
    assert channel.released() == [100, 101, 102, 103]
    assert channel.settled


def test_one_that_never_arrives_comes_back_and_those_behind_it_do_not_suffer() -> None:
    channel = ours()
    send(channel, 3)
    channel.feed(NACK * 3)
    for _ in range(ATTEMPTS - 1):
        assert numbers(channel.outgoing()) == [100]
        channel.feed(NACK)
    assert [(back.fd, back.attempts) for back in channel.returned()] == [(100, ATTEMPTS)]
    assert numbers(channel.outgoing()) == [101]
    channel.feed(ACK)
    assert numbers(channel.outgoing()) == [102]


def test_at_the_end_all_that_are_under_way_come_back_the_oldest_first() -> None:
    channel = ours()
    send(channel, WINDOW + 2)
    channel.feed(NACK)
    channel.close()
    assert [back.fd for back in channel.returned()] == list(range(100, 100 + WINDOW + 2))
    assert channel.settled


def test_a_receiver_takes_nothing_behind_what_it_has_not_taken() -> None:
    sender, receiver = ours(), Channel()
    first, second, third = send(sender, 3)
    assert receiver.feed(first.data + second.data + third.data, [LOST, 201, 202]) == []
    assert receiver.stray() == [201, 202]
    assert [piece.data for piece in receiver.outgoing()] == [NACK * 3]
    sender.feed(NACK * 3)
    (again,) = sender.outgoing()
    assert [(got.message, got.fd) for got in receiver.feed(again.data, [203])] == [(0, 203)]


def test_a_lost_descriptor_keeps_its_place_however_its_message_was_cut() -> None:
    sender, receiver = ours(), Channel()
    first, second = send(sender, 2)
    assert receiver.feed(first.data[:10], [LOST]) == []
    assert receiver.feed(first.data[10:] + second.data, [201]) == []
    assert receiver.stray() == [201]


def test_frames_that_are_no_lines_go_one_at_a_time() -> None:
    channel = Channel(codec=ADVANCED)
    channel.feed(ADVANCED.encode(messages.online(WINDOW)))
    channel.outgoing()
    assert numbers(send(channel, 3)) == [100]
