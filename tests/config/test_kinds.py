"""Each kind of value: what it reads, what it says otherwise, and how it is written back."""

import datetime
import math
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config import vocabulary as kind
from clusterd.config.kinds import Boolean, Integer, Kind, Ratio, Site, Text
from clusterd.config.notation import Loose, dotted, found, toml_text
from clusterd.config.spec import keys

ALL_KINDS = {id(entry.key.kind): entry.key.kind for _, entry in keys() if entry.key is not None}
ANY_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.just(10**60),
        st.floats(),
        st.text(max_size=30),
        st.sampled_from(["auto", "5s", "0", "1GiB", "a:b", ":80", "unlimited", "0600", "\0", "SIGTERM"]),
        st.builds(Loose, st.text(max_size=10)),
        st.dates(),
        st.datetimes(),
        st.times(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def read(kind: Kind, value: object) -> Any:
    """The value, or what was wrong with it as one text."""
    site = Site("/base")
    result = kind.read(value, site)
    return "; ".join(message for _, message in site.faults) if site.faults else result


@given(ANY_VALUE)
def test_no_value_makes_a_kind_raise_and_what_it_writes_it_reads_again(value: object) -> None:
    for each in ALL_KINDS.values():
        site = Site("/base")
        result = each.read(value, site)
        if site.faults:
            assert all(message for _, message in site.faults)
            continue
        again = tomli.loads(f"value = {toml_text(each.dump(result))}")["value"]
        assert read(each, again) == result


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
        (0.0, 0.0),
    ],
)
def test_a_duration_becomes_seconds(text: object, seconds: float) -> None:
    assert read(kind.DURATION, text) == pytest.approx(seconds)
    assert isinstance(read(kind.DURATION, text), float)


@pytest.mark.parametrize("value", [5, 5.0, "5", "5 s", "-5s", "5S", "s", "", "1e3s", "٥s", True, math.nan, [], {}])
def test_what_is_no_duration_says_how_one_looks(value: object) -> None:
    assert 'such as "250ms", "30s" or "5m", found' in read(kind.DURATION, value)


def test_a_duration_has_an_upper_bound() -> None:
    assert read(kind.DURATION, "366d") == 'expected at most 365d, found "366d"'
    assert "expected at most" in read(kind.DURATION, "999999999999999d" * 1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (0.2, "200ms"),
        (1.0, "1s"),
        (90.0, "90s"),
        (300.0, "5m"),
        (3600.0, "1h"),
        (1.5, "1500ms"),
    ],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert kind.DURATION.dump(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 * 2**20), ("2GB", 2 * 10**9), ("1.5KiB", 1536), ("7B", 7), ("0", 0), (0, 0)]
)
def test_a_size_becomes_bytes(text: object, size: int) -> None:
    assert read(kind.SIZE, text) == size
    assert isinstance(read(kind.SIZE, text), int)


@pytest.mark.parametrize("value", [512, "512", "512M", "1GiB1GiB", "-1B", "9999999TiB"])
def test_what_is_no_size_is_an_error(value: object) -> None:
    assert "expected" in read(kind.SIZE, value)


@pytest.mark.parametrize(
    ("each", "value", "expected"),
    [
        (Integer(low=1, high=9), 0, "expected a whole number from 1 to 9, found the number 0"),
        (Integer(low=1, high=9), True, "expected a whole number from 1 to 9, found true"),
        (Integer(), 1.0, "expected a whole number, at least 0, found the number 1.0"),
        (Boolean(), "true", 'expected true or false, found "true"'),
        (Ratio(), math.nan, "expected a number from 0 to 1, found the number nan"),
        (Text(), 8080, 'expected a string, such as "8080", found the number 8080'),
        (Text(), "a\0b", "a NUL character cannot stand in a string that goes to the operating system"),
        (kind.WORKERS, "many", 'expected "auto" or a whole number from 1 to 1024, found "many"'),
        (kind.APP, "shop", 'expected "module:app" or "module:factory()", such as "shop.asgi:app"'),
        (kind.APP, "", "found an empty string"),
        (kind.MODE, 600, 'expected octal digits in a string, such as "0600", found the number 600'),
        (kind.MODE, "0999", "expected octal digits"),
        (kind.UMASK, datetime.date(2024, 1, 1), "found a date or time"),
        (kind.NETWORKS, ["10.0.0.1/8"], "bits are set to the right"),
        (kind.LISTENERS, ["a", "a"], "twice"),
        (kind.ENVIRONMENT, {"A=": "x"}, "no ="),
        (kind.ENVIRONMENT, {"A": 1}, 'expected a string, such as "1", found the number 1'),
        (kind.ENVIRONMENT, [], "expected a table (table of strings), found an array"),
        (kind.COMMAND, "ls -l", "expected an array (list of strings)"),
    ],
)
def test_what_does_not_fit_says_what_was_expected_and_found(each: Kind, value: object, expected: str) -> None:
    assert expected in read(each, value)


@pytest.mark.parametrize(
    ("each", "value", "result"),
    [
        (Integer(), Loose("12"), 12),
        (Boolean(), Loose("true"), True),
        (Ratio(), Loose("0.5"), 0.5),
        (kind.WORKERS, Loose("3"), 3),
        (kind.WORKERS, Loose("auto"), "auto"),
        (kind.APP, "shop:make()", "shop:make()"),
        (kind.APP, "größe.app:app.inner", "größe.app:app.inner"),
        (kind.MODE, "0600", 0o600),
        (kind.UMASK, "27", 0o27),
        (kind.FILE, "a/../b", "/base/b"),
        (kind.FILE, "/x", "/x"),
        (kind.PROGRAM, "python3", "python3"),
        (kind.PROGRAM, "bin/python3", "/base/bin/python3"),
        (kind.ACCOUNT, 1000, "1000"),
        (kind.LIMIT_COUNT, "unlimited", "unlimited"),
        (kind.LIMIT_SIZE, "1kB", 1000),
        (kind.NETWORKS, ["*", "::1", "10.0.0.0/8"], ("*", "::1", "10.0.0.0/8")),
        (kind.ADDRESS_OR_OFF, 0, None),
        (kind.ADDRESS_OR_OFF, "0", None),
    ],
)
def test_what_fits_is_read(each: Kind, value: object, result: object) -> None:
    assert read(each, value) == result


def test_a_number_too_long_to_be_written_is_named_by_its_length() -> None:
    assert read(Integer(high=9), 16**9000).endswith("found a number of more than 18 digits")


def test_a_long_value_is_named_shortly() -> None:
    assert len(found("x" * 10_000)) < 70
    assert len(found([1] * 10_000)) < 70


def test_paths_are_written_as_toml_has_them() -> None:
    assert dotted(("pools", "my.pool", "listeners", 0)) == 'pools."my.pool".listeners[0]'
