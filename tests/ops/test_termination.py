"""The termination log: one screen, the reason first, whatever an app printed; and a file that may not be there."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.ops import termination
from clusterd.ops.crash import CrashReport
from clusterd.ops.termination import MAX_BYTES, MAX_LINES, leave, page

TRACEBACK = "\n".join(["Traceback (most recent call last):", *(f"  frame {n}" for n in range(90)), "KeyError: 'x'"])

text = st.text(max_size=300)


@given(reason=text, cause=text, report=st.text(max_size=6000), output=st.lists(st.text(max_size=3000), max_size=80))
def test_it_is_one_screen_of_utf_8_whatever_stands_in_it(
    reason: str, cause: str, report: str, output: list[str]
) -> None:
    said = page(reason, CrashReport(cause, {}, report, output))
    assert len(said) <= MAX_BYTES
    assert len(said.decode().split("\n")) <= MAX_LINES + 1
    assert all(character.isprintable() or character == "\n" for character in said.decode())


def test_the_reason_comes_first_then_the_cause_then_the_ends_of_the_rest() -> None:
    lines = page("no worker got ready", CrashReport("worker 1 ended", {}, TRACEBACK, [f"line {n}" for n in range(99)]))
    told = lines.decode().splitlines()
    assert told[:2] == ["no worker got ready", "worker 1 ended"]
    assert "  KeyError: 'x'" in told
    assert told[-1] == "  line 98"
    assert len(told) == MAX_LINES


def test_without_a_crash_it_is_the_reason_alone() -> None:
    assert page("clusterd.toml:3: wrong\nclusterd.toml:4: wrong too") == (
        b"clusterd.toml:3: wrong\nclusterd.toml:4: wrong too\n"
    )


def test_a_file_gets_the_page_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("much older and longer")
    assert leave(str(path), b"new\n") is None
    assert path.read_bytes() == b"new\n"


def test_auto_makes_no_file_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "termination-log"
    monkeypatch.setattr(termination, "DEFAULT", str(path))
    assert leave("auto", b"new\n") is None
    assert not path.exists()
    path.symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("kept")
    assert leave("auto", b"new\n") is None
    assert (tmp_path / "victim").read_text() == "kept"
    path.unlink()
    path.write_text("")
    assert leave("auto", b"new\n") is None
    assert path.read_bytes() == b"new\n"


def test_off_and_out_of_reach_disturb_nobody(tmp_path: Path) -> None:
    assert leave("", b"new\n") is None
    assert "cannot write the termination log" in str(leave(str(tmp_path / "none" / "log"), b"new\n"))
    os.mkfifo(tmp_path / "fifo")  # nobody reads it: it must not be waited for
    assert leave(str(tmp_path / "fifo"), b"new\n") is not None
