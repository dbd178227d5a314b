"""The primary's end of a zygote, against zygotes that break every rule: each request is answered, nothing is left."""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clusterd.spawner.client import Left, Parts, Plan, ZygoteClient
from clusterd.unix import packets, process, spawn
from clusterd.wire import zygote as wire

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 10.0

TOOLS = """
import array, json, os, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
def say(op, *fds, **fields):
    raw(json.dumps({"v": 2, "op": op, **fields}).encode(), *fds)
def raw(data, *fds):
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    control.sendmsg([data], ancillary)
def asked():
    return json.loads(control.recvmsg(65536, 4096)[0])
def wait():
    import signal
    signal.pause()
asked()
"""


class Owner:
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.ended = asyncio.get_running_loop().create_future()
        self.refused = asyncio.Event()

    def zygote_ready(self, client: ZygoteClient, preloaded: bool, warning: str) -> None:
        self.told.append(("ready", preloaded, warning))

    def zygote_failed(self, client: ZygoteClient, report: str) -> None:
        self.told.append(("failed", report))
        self.ended.set_result(report)

    def zygote_gone(self, client: ZygoteClient, report: str) -> None:
        self.told.append(("gone", report))
        self.ended.set_result(report)

    def spawned(self, worker: int, pid: int, fd: int) -> None:
        self.told.append(("spawned", worker, pid))
        os.close(fd)

    def spawn_failed(self, worker: int, report: str, zygote_gone: bool) -> None:
        self.told.append(("spawn_failed", worker, report, zygote_gone))
        self.refused.set()


def parts(worker: int) -> Parts:
    one, other = socket.socketpair()
    one.close()
    return Parts(wire.Spawn(worker, 0, False, []), (other.detach(),))


def run(
    folder: Path, script: str, act: Callable[[ZygoteClient, Owner], None] = lambda client, owner: None
) -> list[tuple[object, ...]]:
    """Have ``script`` be the zygote; returns all that the owner was told until it had ended."""
    package = folder / "clusterd" / "spawner"
    package.mkdir(parents=True)
    (folder / "clusterd" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TOOLS + script)
    load = wire.Load("test", "web", 1, "app:app", "auto", "auto", os.getpid(), None)

    async def main() -> list[tuple[object, ...]]:
        owner = Owner()
        client = ZygoteClient(
            asyncio.get_running_loop(),
            Plan(load, dict(os.environ), cwd=str(folder)),
            owner,
            lambda: (os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)),
        )
        before = process.children()
        client.start()
        act(client, owner)
        await asyncio.wait_for(owner.ended, DEADLINE)
        assert sorted(process.children()) == sorted(before), "a child was left"
        return owner.told

    return asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "raw(b'garbage'); wait()",
        "raw(b''); wait()",
        "raw(b'[' * 60000); wait()",
        "control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20); raw(b'x' * 150000); wait()",
        "control.close(); wait()",
        "control.shutdown(socket.SHUT_RDWR); wait()",
        "say('loaded', preloaded=True, unsafe='', v=1); wait()",
        "say('loaded', preloaded=1, unsafe=''); wait()",
        "say('loaded', 0, preloaded=True, unsafe=''); wait()",
        "say('spawned', worker=1, pid=1); wait()",
        "say('spawned', 0, worker=1, pid=1); wait()",
        "say('spawn_failed', worker=1, report=''); wait()",
        "say('load', service='x'); wait()",
        "[raw(b'{}', *([0] * 60)) for _ in range(3)]; wait()",
        "say('failed', stage='import', report='one'); say('failed', stage='import', report='two'); wait()",
        "say('failed', stage='import', report='one'); say('loaded', preloaded=True, unsafe=''); wait()",
    ],
)
def test_a_zygote_that_breaks_the_rules_is_ended(tmp_path: Path, script: str) -> None:
    (told,) = run(tmp_path, script)
    assert told[0] == "failed"
    assert told[1]


def test_a_zygote_that_floods_is_ended_and_the_loop_goes_on_turning(tmp_path: Path) -> None:
    told = run(tmp_path, "while True: say('unsafe', why='x' * 9000)", lambda client, owner: None)
    assert [kind for kind, *_ in told] == ["failed"]


READY = "say('loaded', preloaded=True, unsafe='')\n"


@pytest.mark.parametrize(
    "answer",
    [
        "say('spawned', worker=7, pid=os.getpid()); wait()",
        "say('spawned', 0, worker=7, pid=os.getpid()); wait()",
        "say('spawned', 0, 0, worker=7, pid=os.getpid()); wait()",
        "say('spawned', os.pidfd_open(1), worker=7, pid=1); wait()",
        "say('spawned', os.pidfd_open(os.getppid()), worker=7, pid=os.getppid()); wait()",
        "say('spawned', os.pidfd_open(os.getpid()), worker=7, pid=1); wait()",
        "say('spawned', os.pidfd_open(os.getpid()), worker=8, pid=os.getpid()); wait()",
        "say('spawn_failed', 0, worker=7, report=''); wait()",
        "say('loaded', preloaded=True, unsafe=''); wait()",
        "say('unsafe', why='late'); wait()",
        "control.close(); wait()",
        "sys.exit(3)",
        "os.kill(os.getpid(), 9)",
    ],
)
def test_a_spawn_is_answered_once_whatever_the_zygote_answers(tmp_path: Path, answer: str) -> None:
    """A descriptor that is no pidfd of our child would be signalled, and reaped, with the primary's rights."""
    script = f"{READY}asked()\n{answer}"
    told = run(tmp_path, script, lambda client, owner: client.spawn(7, lambda: parts(7)))
    assert [kind for kind, *_ in told] == ["ready", "spawn_failed", "gone"]
    assert told[1][1] == 7
    assert told[1][3] is True


def test_spawns_that_wait_their_turn_are_answered_when_the_zygote_ends(tmp_path: Path) -> None:
    def act(client: ZygoteClient, owner: Owner) -> None:
        for worker in range(20):
            client.spawn(worker, lambda worker=worker: parts(worker))  # type: ignore[misc]
        assert client.busy

    told = run(tmp_path, f"{READY}asked()\nsys.exit(0)", act)
    failed = [entry[1] for entry in told if entry[0] == "spawn_failed"]
    assert sorted(failed) == list(range(20))  # type: ignore[type-var]
    assert told[-1][0] == "gone"


def test_a_worker_that_cannot_be_prepared_is_a_failed_spawn(tmp_path: Path) -> None:
    def prepare() -> Parts:
        raise OSError(24, "Too many open files")

    def act(client: ZygoteClient, owner: Owner) -> None:
        client.spawn(1, prepare)
        client.stop()

    told = run(tmp_path, f"{READY}wait()", act)
    assert ("spawn_failed", 1, "no descriptors for a new worker: Too many open files", False) in told
    assert told[-1][0] == "gone"


def test_a_report_is_handed_on_as_it_was_told(tmp_path: Path) -> None:
    told = run(tmp_path, "say('failed', stage='import', report='NameError: x'); sys.exit(1)")
    assert told == [("failed", "NameError: x")]


def test_one_that_ends_without_a_word_is_told_with_its_status(tmp_path: Path) -> None:
    assert run(tmp_path, "os._exit(42)") == [("failed", "the zygote ended with exit code 42")]


def test_where_forking_is_unsafe_a_second_process_takes_the_place(tmp_path: Path) -> None:
    script = """
if not os.path.exists("second"):
    open("second", "w").close()
    say("unsafe", why="a thread")
    os._exit(0)
say("loaded", preloaded=False, unsafe="")
os._exit(0)
"""
    assert run(tmp_path, script)[0] == ("ready", False, "a thread")


def test_one_that_cannot_be_started_is_a_failed_one(tmp_path: Path) -> None:
    async def main(plan: Plan, output: Callable[[], tuple[int, int]]) -> str:
        owner = Owner()
        ZygoteClient(asyncio.get_running_loop(), plan, owner, output).start()
        return str(await asyncio.wait_for(owner.ended, DEADLINE))

    def nothing_left() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    def null() -> tuple[int, int]:
        return os.open(os.devnull, os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)

    load = wire.Load("test", "web", 1, "app:app", "auto", "auto", os.getpid(), None)
    nowhere = Plan(load, dict(os.environ), cwd=str(tmp_path / "nowhere"))
    assert "nowhere" in asyncio.run(main(nowhere, null))
    assert "Too many open files" in asyncio.run(main(Plan(load, dict(os.environ)), nothing_left))
    endless = Plan(replace(load, target="x" * 100_000), dict(os.environ))
    assert "cannot be told" in asyncio.run(main(endless, null))


def test_a_predecessors_zygote_is_spoken_to_as_it_speaks(tmp_path: Path) -> None:
    """Until it is built anew: it knows no lifeline, and answers with the version that it has."""
    zygote, primary = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    load = wire.Load("test", "web", 1, "app:app", "auto", "auto", os.getpid(), None)
    child = spawn.spawn(["sleep", "60"], env=dict(os.environ))

    async def main() -> list[tuple[object, ...]]:
        owner = Owner()
        client = ZygoteClient(asyncio.get_running_loop(), Plan(load, {}), owner, lambda: (-1, -1))
        left = Left(child.pid, child.pidfd, primary.detach(), True, False, "", "", "", load)
        client.take_up(left)
        files = [tmp_path / name for name in ("channel", "board", "stacks", "lifeline", "box")]
        fds = tuple(os.open(file, os.O_CREAT) for file in files)
        client.spawn(1, lambda: Parts(wire.Spawn(1, 0, False, [["http", "", 0]]), fds))
        packet = packets.receive(zygote, wait=True)
        assert packet is not None
        assert [os.readlink(f"/proc/self/fd/{fd}") for fd in packet.fds] == [str(files[i]) for i in (0, 1, 2, 4)]
        for fd in packet.fds:
            os.close(fd)
        packets.send(zygote, b'{"v": 1, "op": "spawn_failed", "worker": 1, "report": "no"}')
        await asyncio.wait_for(owner.refused.wait(), DEADLINE)
        assert client.describe().speaks == 1
        client.stop()
        await asyncio.wait_for(owner.ended, DEADLINE)
        return owner.told

    with zygote:
        told = asyncio.run(main())
    assert told[0] == ("spawn_failed", 1, "no", False)
