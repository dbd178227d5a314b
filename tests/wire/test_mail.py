"""What is written on a connection handed over."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.wire import mail
from clusterd.wire.mail import MAX_SIZE, PROBE, Letter, pack, unpack

hosts = st.one_of(
    st.ip_addresses().map(str),
    st.just(""),
    st.builds("{}%{}".format, st.ip_addresses(v=6), st.text("abcdef0123456789.@-", min_size=1, max_size=15)),
)
ports = st.integers(0, 65535)
times = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(hosts, ports, times)
def test_what_is_packed_is_what_is_read(host: str, port: int, accepted_ns: int) -> None:
    message = pack(host, port, accepted_ns)
    assert unpack(message) == Letter(host, port, accepted_ns)
    assert len(message) <= MAX_SIZE
    assert message != PROBE


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(lambda rest: PROBE + rest)))
def test_any_bytes_are_a_letter_or_a_peer_error(message: bytes) -> None:
    try:
        letter = unpack(message)
    except PeerError:
        return
    assert pack(*letter) == message


def test_a_peer_on_a_unix_socket_has_no_address() -> None:
    assert unpack(pack("", 0, 1)) == Letter("", 0, 1)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "version none"),
        (PROBE, "mail of 1 bytes"),
        (bytes([mail.VERSION + 1]) + pack("::1", 1, 1)[1:], "version 2"),
        (pack("x" * MAX_SIZE, 1, 1), "mail of 267 bytes"),
        (pack("", 0, 1) + b"\xff", "no text"),
    ],
)
def test_what_is_no_letter_is_refused_with_its_reason(message: bytes, says: str) -> None:
    with pytest.raises(PeerError, match=says):
        unpack(message)
