"""Files that are no configuration: one clear problem each, in bounded time, whatever is in them."""

import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.config import load, read_file
from clusterd.config.document import MAX_BYTES
from clusterd.errors import ConfigError, Problem

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def problem_of(path: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load(read_file(path), file=path, environ={})
    (problem,) = caught.value.problems
    assert problem.file == path.replace("\0", "\\0")
    return problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"a = ", 1, "no valid TOML: Invalid value (column 5)"),
        (b"[a]\nx = 1\nx = 2\n", 3, "given before"),
        (b"[a]\n[b]\n[a]\n", 3, "given before"),
        (b"a = {b = 1, b = 2}", 1, "given before"),
        (b"\n\n= 1", 3, "no valid TOML"),
        (b"\nx = \xff", 2, "not UTF-8: the byte 0xff"),
        (b"\xef\xbb\xbf\nx = \xff", 2, "not UTF-8: the byte 0xff"),
        (b"\0\0\0\0", 1, "no valid TOML: Invalid statement"),
        (b"x = 'a\0b'", 1, "no valid TOML: Found invalid character"),
        (b"\nx = " + b"1" * 5000, 2, "too many digits"),
        (b"\n" + b"[" * (MAX_BYTES - 1), 2, "no valid TOML"),
        (b"\nx = " + b"[" * 1_000_000, 2, "deeper than 64"),
        (b"x = " + b"{a=" * 300_000, 1, "deeper than 64"),
        (b"x" + b".x" * 500_000, 1, "deeper than 64"),
        (b"[" + b"x." * 500_000, 1, "deeper than 64"),
        (b"x" * (MAX_BYTES + 1), None, "bigger than 1 MiB"),
        (b"x = '''" + b"a\n" * 500_000, None, "no valid TOML"),
    ],
    ids=lambda value: None,
)
def test_what_is_no_toml_is_one_problem_with_its_line(
    tmp_path: Path, data: bytes, line: int | None, message: str
) -> None:
    file = tmp_path / "clusterd.toml"
    file.write_bytes(data)
    began = time.process_time()
    problem = problem_of(str(file))
    assert time.process_time() - began < 10
    assert message in problem.message
    if line is not None:
        assert problem.line == line


def test_what_is_no_readable_file_is_one_problem(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
        assert "cannot be opened" in problem_of(str(tmp_path / "sock")).message
    assert "No such file" in problem_of(str(tmp_path / "missing.toml")).message
    assert "Not a directory" in problem_of("/dev/null/x").message
    assert "a directory" in problem_of(str(tmp_path)).message
    assert "no regular file" in problem_of(str(tmp_path / "fifo")).message
    assert "no regular file" in problem_of("/dev/zero").message
    assert "NUL" in problem_of("a\0b").message
    assert "too long" in problem_of("x" * 5000).message


def test_an_unreadable_file_is_one_problem(run_dir: Path) -> None:
    run_dir.chmod(0o755)
    file = run_dir / "clusterd.toml"
    file.touch(mode=0)
    user = os.geteuid()
    # Root may read every file, so this is tried as nobody then.
    os.seteuid(user or 65534)
    try:
        assert "Permission denied" in problem_of(str(file)).message
    finally:
        os.seteuid(user)


def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    file = tmp_path / "clusterd.toml"
    file.write_bytes(b"\xef\xbb\xbf[clusterd]\r\nnam = 'x'\r\n")
    with pytest.raises(ConfigError) as caught:
        load(read_file(str(file)), file=str(file), environ={})
    assert [(problem.line, problem.key) for problem in caught.value.problems] == [(2, "clusterd.nam"), (None, "pools")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "".join(f"key{number} = 1\n" for number in range(60_000)),
        "".join(f"[pools.p{number}]\n" for number in range(50_000)),
        "".join(f"[listeners.l{number}]\naddress=':80'\n" for number in range(25_000)),
        "pools = [" + "{}," * 300_000 + "]",
        'x = """' + "\\n" * 500_000 + '"""',
        "[pools.web]\nenv = {" + ",".join(f"A{number}='${{X}}'" for number in range(50_000)) + "}",
        "[pools.web]\ncommand = [" + "'${X}'," * 100_000 + "]",
        "[[pools]]\n" * 100_000,
        "x" * 500_000 + " = 1",
    ],
    ids=lambda text: text[:20],
)
def test_a_megabyte_of_wrong_keys_ends_in_bounded_time_with_a_bounded_message(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load(text, file="big.toml", environ={"X": "y" * 100_000})
    assert time.process_time() - began < 20
    assert len(str(caught.value)) < 100_000


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_never_more_than_an_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "random.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError):
        load(read_file(str(file)), file=str(file), environ={})


_KEYS = st.sampled_from(
    [
        "config_version",
        "clusterd",
        "name",
        "run_dir",
        "listeners",
        "http",
        "address",
        "backlog",
        "tls",
        "cert",
        "pools",
        "web",
        "app",
        "workers",
        "env",
        "limits",
        "nofile",
        "restart",
        "max_delay",
        "shutdown",
        "drain_timeout",
        "grace_period",
        "monitoring",
        "control",
        "socket",
        "mode",
        "log",
        "level",
        "x",
    ]
)
_VALUES = st.sampled_from(
    [
        *["1", "0", "-1", "1.5", "99999999999999999999", "true", "07:32:00", "[]", '["http"]', "[[[]]]"],
        *['"auto"', '"5s"', '":80"', '"a:b"', '"unix:x"', '"${X}"', '"${Y}"', '"$"', '"\\u0000"'],
        *["{}", "{web = 1}", "{app = 'a:b'}"],
    ]
)
_LINES = st.one_of(
    st.builds(lambda parts: f"[{'.'.join(parts)}]", st.lists(_KEYS, min_size=1, max_size=3)),
    st.builds(lambda parts: f"[[{'.'.join(parts)}]]", st.lists(_KEYS, min_size=1, max_size=2)),
    st.builds(lambda parts, value: f"{'.'.join(parts)} = {value}", st.lists(_KEYS, min_size=1, max_size=4), _VALUES),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_LINES, max_size=8))
def test_wrong_types_anywhere_are_told_and_never_raise_anything_else(lines: list[str]) -> None:
    try:
        load("\n".join(lines), file="clusterd.toml", environ={"X": "1"})
    except ConfigError as error:
        told = error.problems
    else:
        told = ()
    assert all(problem.message for problem in told)
    assert all(problem.line is None or 1 <= problem.line <= len(lines) for problem in told)
