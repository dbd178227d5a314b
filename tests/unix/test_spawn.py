"""Programs that are really started."""

import gc
import json
import os
import pwd
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clusterd.errors import HostError
from clusterd.unix import pidfd, process, signals, spawn
from clusterd.unix.pidfd import ExitStatus
from tests.procfs import open_descriptors
from tests.unix.children import NOBODY, become_nobody, in_child

pytestmark = pytest.mark.usefixtures("no_fd_leak")

ENV = {"PATH": os.environ["PATH"]}

# What a program finds at its start, before Python has done anything that matters here; -I and -S keep it quick.
TELL = """
import json, os
status = dict(line.rstrip("\\n").split(":", 1) for line in open("/proc/self/status"))
umask = os.umask(0)
print(json.dumps({
    "umask": umask, "cwd": os.getcwd(),
    "blocked": int(status["SigBlk"], 16), "ignored": int(status["SigIgn"], 16), "env": dict(os.environ),
    "fds": sorted(map(int, os.listdir("/proc/self/fd"))), "pgrp": os.getpgrp(), "pid": os.getpid(),
    "stdin": os.readlink("/proc/self/fd/0"),
}))
"""
TELLER = [sys.executable, "-ISc", TELL]


def finish(child: spawn.Child) -> ExitStatus:
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    assert poll.poll(10_000), "the program has not ended within 10 s"
    status = pidfd.wait(child.pidfd)
    os.close(child.pidfd)
    assert status is not None
    return status


def told(argv: list[str] = TELLER, env: Mapping[str, str] = ENV, **options: Any) -> dict[str, Any]:
    reading, writing = os.pipe()
    try:
        child = spawn.spawn(argv, env=env, stdout=writing, **options)
    finally:
        os.close(writing)
    with open(reading) as pipe:
        text = pipe.read()
    assert finish(child) == ExitStatus(0, None)
    answer: dict[str, Any] = json.loads(text)
    assert answer["pid"] == answer["pgrp"] == child.pid
    return answer


def test_a_program_has_nothing_but_what_it_was_given(tmp_path: Path) -> None:
    kept, other = os.pipe()
    answer = told(env={**ENV, "ONLY": "this"}, cwd=str(tmp_path), umask=0o027, pass_fds=[kept])
    os.close(kept)
    os.close(other)
    listing = min(fd for fd in range(3, kept + 2) if fd != kept)  # the one that reads the directory
    assert set(answer["fds"]) == {0, 1, 2, kept, listing}
    assert answer["env"].items() >= {"ONLY": "this"}.items()
    assert set(answer["env"]) <= {"ONLY", "PATH", "LC_CTYPE"}
    assert (answer["cwd"], answer["umask"], answer["stdin"]) == (str(tmp_path), 0o027, "/dev/null")


def test_a_program_begins_with_an_empty_mask_and_default_actions_while_its_parent_blocks_and_ignores() -> None:
    def start() -> list[Any]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals.block({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)
        answer = told()
        waiting = signal.sigpending() - {signal.SIGCHLD}
        # 32 and 33 are the C library's own: nobody can set them, and they may come ignored (posix_spawn(3)).
        ignored = {number for number in signal.valid_signals() if answer["ignored"] >> (number - 1) & 1}
        python_ignores = {signal.SIGPIPE, signal.SIGXFSZ}
        return [answer["blocked"], sorted(ignored - python_ignores), sorted(waiting)]

    assert in_child(start) == [0, [], [signal.SIGUSR1]]


def test_a_program_that_is_not_python_does_not_ignore_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    child = spawn.spawn(["yes"], env=ENV, stdout=writing)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    assert finish(child) == ExitStatus(None, signal.SIGPIPE)


def test_nobody_but_the_holder_of_the_pidfd_reaps_the_program() -> None:
    children = [spawn.spawn(["true"], env=ENV) for _ in range(5)]
    poll = select.poll()
    for child in children:
        poll.register(child.pidfd, select.POLLIN)
        assert poll.poll(5000)
        poll.unregister(child.pidfd)
    gc.collect()
    subprocess.run(["true"], check=True)  # a Popen reaps all that subprocess thinks are its own
    assert subprocess._active == []  # type: ignore[attr-defined]
    assert [finish(child) for child in children] == [ExitStatus(0, None)] * 5


def test_standard_streams_are_the_given_ones() -> None:
    ends = [os.pipe() for _ in range(3)]
    (stdin, _), (_, stdout), (_, stderr) = ends
    argv = ["sh", "-c", "cat; echo bad >&2"]
    child = spawn.spawn(argv, env=ENV, stdin=stdin, stdout=stdout, stderr=stderr)
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    os.write(ends[0][1], b"through")
    os.close(ends[0][1])
    with open(ends[1][0], "rb") as out, open(ends[2][0], "rb") as err:
        assert (out.read(), err.read()) == (b"through", b"bad\n")
    assert finish(child) == ExitStatus(0, None)


def told_ids(**options: Any) -> dict[str, list[int]]:
    """The ids that the kernel shows of a program; not Python, which another user may not be allowed to execute here."""
    reading, writing = os.pipe()
    try:
        child = spawn.spawn(["cat", "/proc/self/status"], env=ENV, stdout=writing, **options)
    finally:
        os.close(writing)
    with open(reading) as pipe:
        fields = dict(line.split(":", 1) for line in pipe)
    assert finish(child) == ExitStatus(0, None)
    return {key: [int(word) for word in fields[key].split()] for key in ("Uid", "Gid", "Groups")}


def test_the_user_is_changed_with_all_groups_or_refused_in_words() -> None:
    nobody = pwd.getpwuid(NOBODY)
    if os.geteuid() == 0:
        theirs = sorted(os.getgrouplist(nobody.pw_name, nobody.pw_gid))
        for user in (nobody.pw_name, NOBODY, str(NOBODY)):
            ids = told_ids(user=user)
            assert ids == {"Uid": [NOBODY] * 4, "Gid": [nobody.pw_gid] * 4, "Groups": theirs}
        assert told_ids(user=54321, group=12345) == {"Uid": [54321] * 4, "Gid": [12345] * 4, "Groups": [12345]}
        ids = told_ids(group=12345)
        assert (ids["Uid"], ids["Gid"]) == ([0] * 4, [12345] * 4)

    def as_nobody() -> list[Any]:
        become_nobody()
        own = told_ids(user=os.getuid(), group=os.getgid())["Uid"]
        with pytest.raises(HostError, match=r"only root \(CAP_SETUID, CAP_SETGID\) may change"):
            spawn.spawn(["true"], env=ENV, user="root")
        return [own, os.getuid()]

    own, uid = in_child(as_nobody)
    assert own == [uid] * 4


@pytest.mark.parametrize(
    ("argv", "options", "expected"),
    [
        (["no-such-program"], {}, "cannot start no-such-program: there is no such program"),
        (["/etc"], {}, "cannot start /etc: .*may not be executed"),
        (["/etc/passwd"], {}, "cannot start /etc/passwd: .*may not be executed"),
        (["true"], {"cwd": "/no/such/dir"}, "its working directory /no/such/dir cannot be entered .No such file"),
        (["true"], {"cwd": "/etc/passwd"}, "its working directory /etc/passwd cannot be entered .Not a directory"),
        (["true"], {"user": "no-such-user"}, "there is no user no-such-user on this machine"),
        (["true"], {"user": "9" * 30}, "there is no user 9999"),
        (["true"], {"group": "no-such-group"}, "there is no group no-such-group on this machine"),
        (["true"], {"user": 54321}, "user 54321 has no entry in the password database .*; name one"),
        (["true", "a\0b"], {}, "cannot start true: embedded null byte"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(argv: list[str], options: dict[str, Any], expected: str) -> None:
    before = sorted(process.children())  # the session may have some of its own, such as a manager that tests boot
    with pytest.raises(HostError, match=expected):
        spawn.spawn(argv, env=ENV, **options)
    assert sorted(process.children()) == before


def test_scripts_without_an_interpreter_and_bad_environments_are_one_sentence(tmp_path: Path) -> None:
    for text, expected in (("#!/no/such/one\n", "the interpreter"), ("\x01\x02", "no program for this machine")):
        script = tmp_path / "script"
        script.write_text(text)
        script.chmod(0o755)
        with pytest.raises(HostError, match=expected):
            spawn.spawn([str(script)], env=ENV)
    with pytest.raises(HostError, match="illegal environment variable name"):
        spawn.spawn(["true"], env={"A=B": "c"})


def test_without_a_descriptor_left_no_program_stays_unwatched() -> None:
    def start_without_room() -> list[str]:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        said = []
        for room in range(8):  # wherever in the course of it the last descriptor is used up
            limit = max(open_descriptors()) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit + room, hard))
            fill = [os.dup(0) for _ in range(limit - len(open_descriptors()))]
            try:
                finish(spawn.spawn(["true"], env=ENV))
                said.append("started")
            except HostError as error:
                said.append(str(error))
            for fd in fill:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        return said

    said = in_child(start_without_room)
    assert said[-1] == "started"
    assert said[0] == "cannot start true: Too many open files"


def test_a_thread_may_not_start_programs() -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            spawn.spawn(["true"], env=ENV)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])
