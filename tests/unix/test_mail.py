"""Mailboxes between real sockets and processes."""

import os
import resource
import select
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.unix import mail
from clusterd.unix.mail import Inbox, Mail, Outbox, Posted
from tests.unix.children import become_nobody, in_child, use_up_descriptors

pytestmark = pytest.mark.usefixtures("no_fd_leak")

payloads = st.binary(min_size=1, max_size=mail.MAX_PAYLOAD)


@pytest.fixture
def box() -> Iterator[tuple[Outbox, Inbox]]:
    writing, reading = mail.pair()
    outbox, inbox = Outbox(writing), Inbox(reading)
    yield outbox, inbox
    outbox.close()
    inbox.close()


def test_both_ends_are_close_on_exec() -> None:
    ends = mail.pair()
    assert [os.get_inheritable(fd) for fd in ends] == [False, False]
    for fd in ends:
        os.close(fd)


@given(st.lists(st.tuples(payloads, st.booleans()), max_size=5))
def test_what_is_posted_is_taken_in_order_with_its_descriptor(letters: list[tuple[bytes, bool]]) -> None:
    writing, reading = mail.pair()
    outbox, inbox = Outbox(writing), Inbox(reading)
    passed, other = os.pipe()
    try:
        for payload, with_fd in letters:
            assert outbox.post(payload, passed if with_fd else None) is Posted.SENT
        for payload, with_fd in letters:
            taken = inbox.take()
            assert taken is not None
            assert (taken.payload, taken.fd is not None, taken.truncated) == (payload, with_fd, False)
            if taken.fd is not None:
                assert os.path.sameopenfile(taken.fd, passed)
                assert not os.get_inheritable(taken.fd)
                os.close(taken.fd)
        assert inbox.take() is None
    finally:
        for fd in (passed, other):
            os.close(fd)
        outbox.close()
        inbox.close()


@given(st.lists(st.tuples(payloads, st.booleans()), min_size=12, max_size=12))
def test_a_box_says_full_exactly_when_the_next_message_is_refused(letters: list[tuple[bytes, bool]]) -> None:
    writing, reading = mail.pair()
    outbox, inbox = Outbox(writing), Inbox(reading)
    try:
        for payload, take_one in letters:
            foretold = outbox.full
            assert (outbox.post(payload) is Posted.FULL) == foretold
            if take_one:
                inbox.take()
        mail.drain(inbox)
        assert outbox.queued() == 0
        assert not outbox.full
    finally:
        outbox.close()
        inbox.close()


def test_a_box_holds_about_six_messages_and_polls_writable_when_they_are_taken(box: tuple[Outbox, Inbox]) -> None:
    outbox, inbox = box
    poll = select.poll()
    poll.register(outbox.fileno(), select.POLLOUT)
    posted = 0
    while outbox.post(b"x") is Posted.SENT:
        posted += 1
    assert 2 <= posted <= 16
    assert outbox.queued() >= outbox.limit
    assert poll.poll(0) == []
    for _ in range(posted - 1):
        inbox.take()
    assert poll.poll(0) == [(outbox.fileno(), select.POLLOUT)]


@pytest.mark.parametrize("payload", [b"", b"x" * (mail.MAX_PAYLOAD + 1)])
def test_a_payload_that_could_not_be_told_apart_or_read_whole_is_refused(
    box: tuple[Outbox, Inbox], payload: bytes
) -> None:
    with pytest.raises(ValueError, match="1 to 512 bytes"):
        box[0].post(payload)
    assert box[1].take() is None


def test_a_descriptor_that_is_not_open_is_the_callers_error(box: tuple[Outbox, Inbox]) -> None:
    gone, other = os.pipe()
    os.close(gone)
    os.close(other)
    with pytest.raises(OSError, match="Bad file descriptor"):
        box[0].post(b"x", gone)
    assert box[1].take() is None


def test_the_end_of_mail_comes_after_the_mail(box: tuple[Outbox, Inbox]) -> None:
    outbox, inbox = box
    outbox.post(b"one")
    outbox.post(b"two")
    outbox.close()
    outbox.close()
    assert [letter.payload for letter in mail.drain(inbox)] == [b"one", b"two"]
    for _ in range(2):
        with pytest.raises(EOFError):
            inbox.take()


def test_an_empty_box_never_blocks_even_if_another_holder_made_the_description_blocking(
    box: tuple[Outbox, Inbox],
) -> None:
    outbox, inbox = box
    for end in (outbox, inbox):
        os.set_blocking(end.fileno(), True)
    assert inbox.take() is None
    while outbox.post(b"x") is Posted.SENT:
        pass
    assert outbox.post(b"x") is Posted.FULL


def test_a_box_whose_reader_is_closed_is_broken(box: tuple[Outbox, Inbox]) -> None:
    outbox, inbox = box
    inbox.close()
    assert outbox.post(b"x") is Posted.BROKEN


def test_a_box_that_any_holder_shut_down_is_broken_for_its_writer_and_at_its_end_for_readers(
    box: tuple[Outbox, Inbox],
) -> None:
    outbox, inbox = box
    with socket.socket(fileno=os.dup(inbox.fileno())) as hostile:
        hostile.shutdown(socket.SHUT_RDWR)
    assert outbox.post(b"x") is Posted.BROKEN
    with pytest.raises(EOFError):
        inbox.take()


def test_the_reading_end_cannot_stuff_the_writing_end(box: tuple[Outbox, Inbox]) -> None:
    with socket.socket(fileno=os.dup(box[1].fileno())) as hostile, pytest.raises(BrokenPipeError):
        hostile.send(b"x")


def test_a_reset_does_not_hide_the_mail_behind_it() -> None:
    writing, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inbox = Inbox(reading.detach())
    os.write(inbox.fileno(), b"never read")
    writing.send(b"mail")
    writing.close()
    assert inbox.take() == Mail(b"mail", None, False)
    with pytest.raises(EOFError):
        inbox.take()
    inbox.close()


def test_a_second_descriptor_in_a_message_is_lost_told_and_not_leaked() -> None:
    writing, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inbox = Inbox(reading.detach())
    ends = os.pipe()
    writing.sendmsg([b"two"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", *ends))])
    taken = inbox.take()
    assert taken is not None
    assert taken.truncated
    assert taken.fd is not None
    assert os.path.sameopenfile(taken.fd, ends[0])
    for fd in (*ends, taken.fd):
        os.close(fd)
    writing.close()
    inbox.close()


def test_an_empty_message_with_a_descriptor_is_no_end() -> None:
    writing, reading = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inbox = Inbox(reading.detach())
    writing.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", writing.fileno()))])
    taken = inbox.take()
    assert taken is not None
    assert taken.payload == b""
    assert taken.fd is not None
    os.close(taken.fd)
    writing.close()
    inbox.close()


def test_a_descriptor_that_the_taker_has_no_room_for_is_told_as_truncated(box: tuple[Outbox, Inbox]) -> None:
    outbox, inbox = box

    def take_without_room() -> list[object]:
        use_up_descriptors()
        taken = inbox.take()
        assert taken is not None
        return [taken.payload.decode(), taken.fd, taken.truncated]

    outbox.post(b"lost", outbox.fileno())
    outbox.post(b"next")
    assert in_child(take_without_room) == ["lost", None, True]
    assert inbox.take() == Mail(b"next", None, False)


def test_too_many_descriptors_in_flight_is_short_and_not_full() -> None:
    def post_until_refused() -> list[str]:
        become_nobody()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        boxes = [Outbox(writing) for writing, _ in (mail.pair() for _ in range(20))]
        seen = []
        for outbox in boxes:
            while (posted := outbox.post(b"x", 0)) is Posted.SENT:
                pass
            seen.append((posted.name, outbox.full))
        return sorted({f"{name} full={full}" for name, full in seen})

    assert in_child(post_until_refused) == ["FULL full=True", "SHORT full=False"]


def test_two_processes_that_take_from_one_box_get_every_message_once(box: tuple[Outbox, Inbox]) -> None:
    outbox, inbox = box
    count = 400
    pid_reading, pid_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        poll = select.poll()
        poll.register(inbox.fileno(), select.POLLIN)
        outbox.close()
        try:
            while True:
                poll.poll()
                if (letter := inbox.take()) is not None:
                    os.write(pid_writing, letter.payload)
        except EOFError:
            os._exit(0)
        os._exit(1)
    os.close(pid_writing)
    taken: list[int] = []
    room = select.poll()
    room.register(outbox.fileno(), select.POLLOUT)
    for number in range(count):
        while outbox.post(struct.pack("i", number)) is Posted.FULL:
            if (letter := inbox.take()) is not None:
                taken += struct.unpack("i", letter.payload)
            room.poll(1)
    outbox.close()
    taken += [struct.unpack("i", letter.payload)[0] for letter in mail.drain(inbox)]
    with open(pid_reading, "rb") as pipe:
        theirs = [number for (number,) in struct.iter_unpack("i", pipe.read())]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(taken + theirs) == list(range(count))


def test_a_silenced_mailbox_is_never_readable_again(box: tuple[Outbox, Inbox]) -> None:
    outbox, inbox = box
    outbox.close()
    number = inbox.fileno()
    poll = select.poll()
    poll.register(number, select.POLLIN)
    assert poll.poll(0)
    mail.silence(number)
    assert poll.poll(0) == []
    assert inbox.fileno() == number
    assert not os.get_inheritable(number)


def test_a_detached_descriptor_is_the_callers(box: tuple[Outbox, Inbox]) -> None:
    fd = box[1].detach()
    os.close(fd)
    assert box[1].fileno() == -1
