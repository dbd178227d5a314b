"""The line index against tomli's own reading: the same keys, each at the line it is written at."""

import time
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.config.lines import MAX_DEPTH, Path, index_lines

BARE = st.sampled_from(["a", "b", "c", "1", "-_", "key-2"])
QUOTED = st.sampled_from(['""', '"a"', "'b'", '"x y"', '"é\\u00e9"', '"q\\"]=#"', "'[lit]#\\'", '"a.b"', '"\\t\\\\"'])
KEY_PART = st.one_of(BARE, BARE, QUOTED)
SPACE = st.sampled_from(["", " ", "\t", "  "])
COMMENT = st.sampled_from(["", "", " # a = [1, {b = '", '#"""', "# ]]"])
SCALAR = st.sampled_from(
    [
        *["1", "-0.5e3", "inf", "true", "0xFF", "1979-05-27 07:32:00", "1979-05-27T07:32:00Z", "07:32:00"],
        *['""', '"a # b = ]"', "'}\\'", '"\\"\\\\"', '"$x ${Y}"', "''", '"\\u0041"'],
        *['"""\na = 1\n[b]\n"""', "'''\n# x\n'' '\n'''", '"""a""""', '"""""""', "''''a'''''"],
        *['"""\\"""\\\\"""', '"""a\\\n  b"""'],
    ]
)


class Writer:
    """Writes TOML and notes at which line each path begins, knowing nothing of how it is read."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def put(self, *parts: str) -> None:
        self.text += "".join(parts)

    def note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n"))

    def gap(self) -> None:
        """What may stand between the elements of arrays and inline tables (TOML 1.1)."""
        for _ in range(self.draw(st.integers(0, 2))):
            self.put(self.draw(SPACE), self.draw(COMMENT), "\n")
        self.put(self.draw(SPACE))

    def key(self, path: Path) -> Path:
        parts = self.draw(st.lists(KEY_PART, min_size=1, max_size=3))
        for number, part in enumerate(parts):
            path = (*path, tomli_key(part))
            self.note(path)
            dot = "" if number == len(parts) - 1 else self.draw(SPACE) + "." + self.draw(SPACE)
            self.put(part, dot)
        return path

    def pair(self, path: Path, depth: int = 0) -> None:
        path = self.key(path)
        self.put(self.draw(SPACE), "=", self.draw(SPACE))
        self.value(path, depth)

    def value(self, path: Path, depth: int) -> None:
        what = self.draw(st.sampled_from(["scalar", "scalar", "array", "inline"])) if depth < 3 else "scalar"
        if what == "scalar":
            self.put(self.draw(SCALAR))
            return
        self.put("[" if what == "array" else "{")
        self.gap()
        count = self.draw(st.integers(0, 3))
        for number in range(count):
            if what == "array":
                self.note((*path, number))
                self.value((*path, number), depth + 1)
            else:
                self.pair(path, depth + 1)
            self.gap()
            if number < count - 1 or self.draw(st.booleans()):
                self.put(",")
                self.gap()
        self.put("]" if what == "array" else "}")

    def header(self) -> list[str]:
        parts = self.draw(st.lists(KEY_PART, min_size=1, max_size=3))
        brackets = self.draw(st.sampled_from([("[", "]"), ("[[", "]]")]))
        dot = self.draw(SPACE) + "." + self.draw(SPACE)
        self.put(brackets[0], self.draw(SPACE), dot.join(parts), self.draw(SPACE), brackets[1])
        return [tomli_key(part) for part in parts]


def tomli_key(part: str) -> str:
    return next(iter(tomli.loads(f"{part} = 1")))


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Every path of a tree that tomli gave."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return {(*path, key) for key, _ in items}.union(*(paths(item, (*path, key)) for key, item in items))


def opened_by(header: list[str], tree: Any) -> Path:
    """The path of the table that a header opens: in an array of tables, the last so far."""
    path: Path = ()
    for key in header:
        tree, path = tree[key], (*path, key)
        if isinstance(tree, list):
            tree, path = tree[-1], (*path, len(tree) - 1)
    return path


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    """A document that tomli accepts, and the line of each of its paths."""
    text, header = "", list[str]()
    lines: dict[Path, int] = {}
    for _ in range(draw(st.integers(0, 12))):
        writer = Writer(draw)
        opened = None
        for _ in range(draw(st.integers(0, 1))):
            writer.put(draw(SPACE), draw(COMMENT), "\n")
        writer.put(draw(SPACE))
        if draw(st.integers(0, 2)) == 0:
            start = writer.text.count("\n")
            opened = writer.header()
        else:
            start = 0
            writer.pair(opened_by(header, tomli.loads(text)) if header else ())
        writer.put(draw(SPACE), draw(COMMENT), "\n")
        before = text.count("\n") + 1
        try:
            tree = tomli.loads(text + writer.text)
        except tomli.TOMLDecodeError:
            continue
        known = paths(tomli.loads(text))
        text += writer.text
        for path in paths(tree) - known:
            lines[path] = before + (start if opened is not None else writer.lines[path])
        header = opened if opened is not None else header
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    return (text.replace("\n", "\r\n") if draw(st.booleans()) else text), lines


@settings(max_examples=150, deadline=None)
@given(documents())
def test_the_index_finds_the_keys_that_tomli_finds_each_at_its_line(document: tuple[str, dict[Path, int]]) -> None:
    text, lines = document
    index = index_lines(text)
    assert index.too_deep is None
    assert set(index.lines) == paths(tomli.loads(text))
    assert index.lines == lines


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab.=[]{}\"'\\#\n\r\t ,1é\0", max_size=60))
def test_no_text_makes_the_index_raise_and_what_tomli_accepts_is_indexed(text: str) -> None:
    index = index_lines(text)
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    assert set(index.lines) == paths(tree)


@given(st.text(max_size=200))
def test_arbitrary_text_does_not_make_the_index_raise(text: str) -> None:
    index_lines(text)


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1", ("a",), 1),
        ("\n\n[t]\n# c\nk = 1", ("t", "k"), 5),
        ("[[t]]\nk = 1\n[[t]]\nk = 2\n[t.u]\nv = 1", ("t", 1, "u", "v"), 6),
        ("a = [\n 1,\n # x\n {b = [\n2]},\n]", ("a", 1, "b", 0), 5),
        ('a."b.c" . d = 1', ("a", "b.c", "d"), 1),
        ('x = """\n[t]\nk = 1\n"""\ny = 2', ("y",), 5),
        ("x = '''\r\n\r\n'''\r\ny = 2", ("y",), 4),
        ("[a.b]\nx = 1\n[a]\ny = 1", ("a",), 1),
    ],
)
def test_a_key_is_at_the_line_where_it_is_written_first(text: str, path: Path, line: int) -> None:
    assert index_lines(text).lines[path] == line


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "a = " + "[" * 1_000_000,
        "a = " + "{a=" * 300_000,
        "a" + ".a" * 500_000 + " = 1",
        "[" + "a." * 500_000 + "a]",
        'a = """' + "\\n" * 500_000,
        "a = '" + '"' * 1_000_000,
        "a = 1\n" * 160_000,
        "".join(f"k{number} = [1, 2]\n" for number in range(60_000)),
        "\n" * 1_000_000 + "a = 1",
    ],
    ids=lambda text: text[:12],
)
def test_a_megabyte_of_anything_is_indexed_in_bounded_time(text: str) -> None:
    began = time.process_time()
    index_lines(text)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("shape", ["a = {}{}", "{}x{} = 1"])
def test_nesting_deeper_than_the_bound_is_told_with_its_line(shape: str) -> None:
    opening, closing = ("[", "]") if shape.startswith("a") else ("a.", "")
    within = shape.format(opening * (MAX_DEPTH - 1), closing * (MAX_DEPTH - 1))
    assert index_lines(within).too_deep is None
    assert tomli.loads(within)
    beyond = "# first\n" + shape.format(opening * (MAX_DEPTH + 1), closing * (MAX_DEPTH + 1))
    assert index_lines(beyond).too_deep == 2
