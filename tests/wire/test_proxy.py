"""The PROXY protocol's headers: the examples of its text, every cut, and any bytes."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.wire.proxy import MAX_V1, MAX_V2, SIGNATURE, Header, parse

V4 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
V6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 4124 80\r\n"


def version_2(command: int = 0x21, family: int = 0x11, body: bytes | None = None) -> bytes:
    if body is None:
        body = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 56324, 443)
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def test_version_1_tells_client_and_server_and_where_the_connection_begins() -> None:
    assert parse(V4 + b"GET / HTTP/1.1") == Header(len(V4), ("192.0.2.1", 56324), ("198.51.100.7", 443))
    assert parse(V6) == Header(len(V6), ("2001:db8::1", 4124), ("2001:db8::2", 80))


def test_version_1_unknown_leaves_the_connections_own_addresses() -> None:
    for line in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"):
        assert parse(line + b"x") == Header(len(line))


def test_version_2_tells_the_same_in_binary_and_passes_over_what_follows_the_addresses() -> None:
    body = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("::2").packed + struct.pack("!HH", 1, 2)
    assert parse(version_2()) == Header(28, ("192.0.2.1", 56324), ("198.51.100.7", 443))
    assert parse(version_2(family=0x21, body=body + b"\x03\x00\x04abcd")) == Header(
        16 + 36 + 7, ("2001:db8::1", 1), ("::2", 2)
    )


def test_a_proxys_own_health_check_and_unix_clients_have_no_address() -> None:
    assert parse(version_2(command=0x20, family=0x00, body=b"")) == Header(16)
    assert parse(version_2(family=0x00, body=b"")) == Header(16)
    assert parse(version_2(family=0x31, body=bytes(216))) == Header(232)


@pytest.mark.parametrize("header", [V4, V6, version_2(), b"PROXY UNKNOWN\r\n"])
def test_every_beginning_of_a_header_waits_for_the_rest(header: bytes) -> None:
    for size in range(len(header)):
        assert parse(header[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY " + b"x" * MAX_V1,
        version_2(command=0x11),
        version_2(command=0x22),
        version_2(body=b"short"),
        version_2(family=0x31, body=b"short"),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MAX_V2),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        parse(data)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda end: SIGNATURE + end)))
def test_any_bytes_are_a_header_the_beginning_of_one_or_refused(data: bytes) -> None:
    try:
        header = parse(data)
    except PeerError:
        return
    if header is not None:
        assert 0 < header.size <= len(data)
        assert parse(data[: header.size]) == header


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535))
def test_both_versions_say_the_same(client: object, server: object, one: int, two: int) -> None:
    text = f"PROXY TCP4 {client} {server} {one} {two}\r\n".encode()
    body = client.packed + server.packed + struct.pack("!HH", one, two)  # type: ignore[attr-defined]
    first, second = parse(text), parse(version_2(body=body))
    assert first
    assert second
    assert first[1:] == second[1:]
