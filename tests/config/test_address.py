"""What an address says, and which two exclude each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Address(host="127.0.0.1", port=8000)),
        (":8000", Address(host="", port=8000)),
        ("0.0.0.0:0", Address(host="0.0.0.0", port=0)),
        ("[::1]:80", Address(host="::1", port=80)),
        ("[0:0::1]:80", Address(host="::1", port=80)),
        ("[fe80::1%eth0]:80", Address(host="fe80::1%eth0", port=80)),
        ("localhost:65535", Address(host="localhost", port=65535)),
        ("my_host.example.:1", Address(host="my_host.example.", port=1)),
        ("unix:/run/shop.sock", Address(kind="unix", path="/run/shop.sock")),
        ("fd:3", Address(kind="fd", fd=3)),
        ("unix:@shop", Address(kind="unix", path="@shop")),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "port is missing"),
        ("8000", 'write ":8000"'),
        ("localhost", "port is missing"),
        ("http://localhost:80", "no scheme"),
        ("::1:80", "brackets"),
        ("[::1:80", "brackets"),
        ("[127.0.0.1]:80", "no IPv6 address"),
        ("10.0.0.256:80", "no IPv4 address"),
        ("1.2.3:80", "no IPv4 address"),
        ("a b:80", "no host name"),
        ("-a:80", "no host name"),
        (":65536", "port from 0 to 65535"),
        (":-1", "port from 0 to 65535"),
        (":٣", "port from 0 to 65535"),
        ("h:", "port from 0 to 65535"),
        ("unix:", "a path"),
        ("unix:" + "x" * 200, "107 bytes"),
        ("fd:x", "a number"),
        ("fd:2", "0 to 2 are standard input, output and error; expected 3 or more"),
        ("unix:@", "a path"),
    ],
)
def test_what_is_no_address_says_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_address(text)


@given(st.text(max_size=40))
def test_no_text_makes_it_raise_anything_else(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        (":80", "127.0.0.1:80", True),
        (":80", "[::1]:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "127.0.0.1:80", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:@a", "unix:@a", True),
        ("unix:/@a", "unix:@a", False),
        ("fd:3", "fd:3", True),
        ("fd:3", ":3", False),
    ],
)
def test_two_addresses_overlap_where_the_kernel_would_refuse_the_second(one: str, other: str, overlap: bool) -> None:
    assert parse_address(one).overlaps(parse_address(other)) is overlap
    assert parse_address(other).overlaps(parse_address(one)) is overlap
