"""What a process sets and asks about itself, seen from outside where it can be."""

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.unix import process
from clusterd.unix.process import FdKind
from tests.procfs import open_descriptors, wait_for
from tests.unix.children import in_child, python

pytestmark = pytest.mark.usefixtures("no_fd_leak")


def test_a_title_is_what_ps_shows() -> None:
    code = """
import os, sys
from clusterd.unix import process
before = open("/proc/self/environ", "rb").read()
print(process.title("clusterd: web/0 (id 12)"), flush=True)
assert open("/proc/self/environ", "rb").read() == before, "the environment was overwritten"
assert os.getenv("PATH") and sys.argv[1] == "x" * 80
sys.stdin.readline()
"""
    child = python(code, "x" * 80, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"True\n"
    shown = subprocess.run(["ps", "-o", "args=", "-p", str(child.pid)], capture_output=True, check=True).stdout
    assert shown.decode().strip() == "clusterd: web/0 (id 12)"
    assert Path(f"/proc/{child.pid}/comm").read_text() == "clusterd: web/0\n"
    child.communicate(b"\n", timeout=10)
    assert child.returncode == 0


def test_a_title_that_does_not_fit_is_cut_and_said_to_be() -> None:
    code = """
from clusterd.unix import process
print(process.title("t" * 100_000), process.title("short again"))
print(repr(open("/proc/self/cmdline").read()))
"""
    child = python(code, stdout=subprocess.PIPE)
    verdict, cmdline = child.communicate(timeout=10)[0].decode().splitlines()
    assert verdict == "False True"
    assert cmdline.strip("'").replace("\\x00", "") == "short again"


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=300), min_size=50, max_size=50))
def test_no_text_is_a_bad_title(texts: list[str]) -> None:
    def name_yourself() -> list[Any]:
        shown = []
        for text in texts:
            whole = process.title(text)
            raw = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0")
            shown.append((whole, json.dumps(raw.decode("utf-8", "surrogateescape"))))
        return shown

    for text, (whole, shown) in zip(texts, in_child(name_yourself), strict=True):
        assert isinstance(whole, bool)
        if whole:
            assert json.loads(shown) == text.replace("\0", " ")


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        process.set_name("a\0b")


def test_a_subreaper_becomes_the_parent_of_its_orphans() -> None:
    def adopt() -> bool:
        process.set_child_subreaper()
        reading, writing = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork() == 0:
                os.close(reading)
                signal.pause()
            os._exit(0)
        os.close(writing)
        os.waitpid(middle, 0)
        (orphan,) = process.children()
        parent = Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(orphan, signal.SIGKILL)
        os.waitpid(orphan, 0)
        return int(parent) == os.getpid() and process.children() == []

    assert in_child(adopt)


def test_a_parents_death_sends_the_signal_that_was_asked_for() -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        ready, tell = os.pipe()
        if os.fork() == 0:
            signal.signal(signal.SIGUSR1, lambda *_: (os.write(writing, b"told"), os._exit(0)))
            process.set_parent_death_signal(signal.SIGUSR1)
            os.write(tell, b"x")
            while True:
                signal.pause()
        os.read(ready, 1)
        os._exit(0)
    os.close(writing)
    os.waitpid(parent, 0)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"told"


def test_a_death_signal_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        process.set_parent_death_signal(1000)


@pytest.mark.parametrize("listed", [False, True], ids=["by close_range", "by /proc"])
def test_only_the_descriptors_that_are_kept_stay_open(listed: bool) -> None:
    def close_all_but_some() -> bool:
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        os.dup2(held[0], 900)
        # 1000000 is not open: nothing to keep, and no error.
        keep = {held[3], held[4], held[17], 900, 1_000_000, -1, *reported}
        if listed:
            process._close_listed(keep)
        else:
            process.close_fds_except(keep)
        return sorted(set(open_descriptors()) - set(reported)) == sorted({held[3], held[4], held[17], 900})

    # The pipe in_child reports through has the two lowest free numbers; its reading end is closed in the child.
    spare = os.dup(0)
    other = os.dup(0)
    reported = [spare, other]
    os.close(spare)
    os.close(other)
    assert in_child(close_all_but_some)


def test_closing_under_a_huge_limit_is_quick() -> None:
    def close_and_count() -> float:
        process.raise_nofile_limit()
        before = resource.getrusage(resource.RUSAGE_SELF)
        process.close_fds_except(range(64))
        after = resource.getrusage(resource.RUSAGE_SELF)
        return after.ru_stime + after.ru_utime - before.ru_stime - before.ru_utime

    assert in_child(close_and_count) < 0.1


def test_the_limit_of_descriptors_is_raised_and_the_former_one_returned() -> None:
    def lower_and_raise() -> list[int]:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        return [process.raise_nofile_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0], hard]

    before, now, hard = in_child(lower_and_raise)
    assert before == 64
    assert now == hard or hard == resource.RLIM_INFINITY


def test_children_are_listed_while_unreaped_also_by_the_slower_way() -> None:
    def have_two() -> bool:
        pids = []
        for _ in range(2):
            if (pid := os.fork()) == 0:
                os._exit(0)
            pids.append(pid)
        seen = sorted(process.children()), sorted(process._children_by_parent())
        for pid in pids:
            os.waitpid(pid, 0)
        return seen == (sorted(pids), sorted(pids)) and process.children() == []

    assert in_child(have_two)


def test_threads_are_listed_by_the_names_they_gave_themselves() -> None:
    go, named = threading.Event(), threading.Event()

    def work() -> None:
        process.set_name("a name of more than fifteen bytes")
        named.set()
        go.wait()

    before = process.tasks()
    thread = threading.Thread(target=work)
    thread.start()
    named.wait()
    more = [task for task in process.tasks() if task not in before]
    go.set()
    thread.join()
    assert more == [(thread.native_id, "a name of more ")]
    wait_for(lambda: process.tasks() == before, 5, "the end of the thread")
    assert os.getpid() in dict(before)


def test_the_open_descriptors_are_those_that_proc_shows() -> None:
    reading, writing = os.pipe()
    found = process.open_fds()
    assert found == open_descriptors()
    assert found[reading].startswith("pipe:[")
    os.close(reading)
    os.close(writing)


def test_each_descriptor_is_told_by_its_kind(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener_unix = socket.socket(socket.AF_UNIX)
    listener_unix.bind(str(tmp_path / "s"))
    listener_unix.listen()
    connected, peer = socket.socketpair()
    client = socket.create_connection(listener.getsockname())
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sockets = [listener, listener_unix, connected, peer, client, datagram]
    pipe = os.pipe()
    terminal = os.openpty()
    (tmp_path / "file").touch()
    opened = {
        os.open(tmp_path / "file", os.O_RDONLY): FdKind.FILE,
        os.open(tmp_path, os.O_RDONLY): FdKind.DIRECTORY,
        os.open("/dev/null", os.O_RDWR): FdKind.NULL,
        os.open("/dev/urandom", os.O_RDONLY): FdKind.NULL,
        os.memfd_create("x"): FdKind.MEMORY,
        os.eventfd(0): FdKind.EVENTS,
        os.pidfd_open(os.getpid()): FdKind.EVENTS,
        pipe[0]: FdKind.PIPE,
        pipe[1]: FdKind.PIPE,
        terminal[0]: FdKind.TERMINAL,
        terminal[1]: FdKind.TERMINAL,
    }
    try:
        assert {fd: process.fd_kind(fd) for fd in opened} == opened
        assert [process.fd_kind(sock.fileno()) for sock in sockets] == [
            FdKind.LISTENING,
            FdKind.LISTENING,
            FdKind.UNIX_SOCKET,
            FdKind.UNIX_SOCKET,
            FdKind.SOCKET,
            FdKind.SOCKET,
        ]
    finally:
        for fd in opened:
            os.close(fd)
        for sock in sockets:
            sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        process.fd_kind(pipe[0])


def test_a_process_may_always_offer_itself_to_the_memory_killer() -> None:
    def offer() -> list[Any]:
        return [
            process.set_oom_score_adj(700),
            Path("/proc/self/oom_score_adj").read_text(),
            process.set_oom_score_adj(5000),
        ]

    assert in_child(offer) == [True, "700\n", False]


def test_the_libraries_call_is_one_that_takes_five_arguments() -> None:
    # PR_GET_CHILD_SUBREAPER writes through a pointer: proof that the variadic call passes whole words.
    def ask() -> int:
        process.set_child_subreaper()
        answer = ctypes.c_int(0)
        process._libc.prctl(37, ctypes.byref(answer), 0, 0, 0)
        return answer.value

    assert in_child(ask) == 1
