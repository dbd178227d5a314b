"""Variables in strings."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.config.substitute import MAX_RESULT, Substitution

ENVIRON = {"A": "1", "EMPTY": "", "CREDENTIALS_DIRECTORY": "/run/credentials/shop", "REF": "${A}", "BAD": "\udcff"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${NOPE:-default}", "default"),
        ("${NOPE:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${A:-default}", "1"),
        ("${NOPE:-a b:-c$$}", "a b:-c$$"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$$${A}", "$${A}"),
        ("$$${A}", "$1"),
        ("${REF}", "${A}"),
        ("${CREDENTIALS_DIRECTORY}/key", "/run/credentials/shop/key"),
    ],
)
def test_references_are_replaced_once(text: str, result: str) -> None:
    assert Substitution(ENVIRON).apply(text) == result


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${NOPE}", "NOPE is not set"),
        ("$A", r"write \$\$"),
        ("5$", r"write \$\$"),
        ("${A", r"write \$\$"),
        ("${}", "expected"),
        ("${1}", "expected"),
        ("${A-x}", "expected"),
        ("${NOPE:-${A}}", "no reference"),
        ("${BAD}", "not valid UTF-8"),
    ],
)
def test_what_is_no_reference_says_so(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Substitution(ENVIRON).apply(text)


def test_what_the_variables_make_of_a_string_and_of_a_file_is_bounded() -> None:
    substitution = Substitution({"BIG": "x" * MAX_RESULT})
    with pytest.raises(ValueError, match="128 KiB"):
        substitution.apply("${BIG}x")
    with pytest.raises(ValueError, match="4 MiB"):
        list(map(substitution.apply, ["${BIG}"] * 1000))


@given(st.text(alphabet="${}:-Aab", max_size=20))
def test_no_text_makes_it_raise_anything_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        Substitution(ENVIRON).apply(text)
