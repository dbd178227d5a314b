"""The document that a primary leaves to its successor: what other versions write is read as far as it goes."""

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.core import events as e
from clusterd.core.supervisor import Supervisor
from clusterd.primary import bequest, handover, state
from clusterd.primary.handed import BoxState, OutputState, SocketState
from clusterd.primary.handover import ChildState, Handover, HandoverError
from clusterd.primary.state import StateError
from clusterd.unix import memfile
from tests.stored_state import POLICY, STORED, whole

pytestmark = pytest.mark.usefixtures("no_fd_leak")

CHILD = ChildState(
    id=7, pool="web", slot=0, generation=2, pid=99, pidfd=10, channel=11, board=12, stacks=13, unread=b'{"cmd":',
    boxes={"http": BoxState(writing=14, reading=15, handed=3, turn=1)}, outputs=(OutputState(16, "stdout", b"part"),),
)  # fmt: skip
WHOLE = Handover(
    clusterd="1.2.3",
    pid=1,
    children=(CHILD,),
    listeners={"http": SocketState(17)},
    control=SocketState(18, "/run/x", 1, 2),
)


def read(data: bytes) -> Handover:
    fd = memfile.create("test", data)
    try:
        return handover.read(fd)
    finally:
        os.close(fd)


def test_it_is_read_as_it_was_written() -> None:
    fd = handover.write(WHOLE)
    try:
        assert handover.read(fd) == WHOLE
    finally:
        os.close(fd)
    assert WHOLE.descriptors() == {10, 11, 12, 13, 14, 15, 16, 17, 18}


def test_a_closed_mailbox_names_no_descriptor() -> None:
    one = msgspec.structs.replace(CHILD, boxes={"http": BoxState(writing=-1, reading=15)})
    assert -1 not in Handover(children=(one,)).descriptors()


def test_another_version_may_have_more_and_less() -> None:
    plain = msgspec.to_builtins(WHOLE, builtin_types=(bytes,))
    plain["mood"] = "sunny"
    plain["children"][0]["mood"] = "sunny"
    del plain["listeners"]
    assert read(msgspec.msgpack.encode(plain)) == msgspec.structs.replace(WHOLE, listeners={})


def test_a_later_version_is_refused_with_both_versions() -> None:
    later = msgspec.structs.replace(WHOLE, version=handover.VERSION + 1)
    assert "version" not in msgspec.msgpack.decode(msgspec.msgpack.encode(Handover(version=1))), "as the first wrote it"
    with pytest.raises(HandoverError, match=r"clusterd 1\.2\.3"):
        read(msgspec.msgpack.encode(later))


@given(st.binary(max_size=200) | st.builds(lambda cut: msgspec.msgpack.encode(WHOLE)[:cut], st.integers(0, 300)))
def test_garbage_is_one_kind_of_error(data: bytes) -> None:
    try:
        read(data or b"\0")
    except HandoverError:
        pass


def test_descriptors_are_kept_open_and_closed_to_others_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    left = Handover(listeners={"http": SocketState(fd)})
    handover.keep_open(left, fd)
    assert os.get_inheritable(fd)
    handover.close_again(left)
    assert not os.get_inheritable(fd)
    os.close(fd)


# -- the rules of an earlier version ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(STORED.glob("*.msgpack")), ids=lambda file: file.name)
def test_a_state_that_an_earlier_version_stored_goes_on(file: Path) -> None:
    """Two ready workers and one that waits for its back-off; zygotes that were not left are built anew."""
    left = read(file.read_bytes())
    supervisor = bequest.rules(left, Supervisor(POLICY, "seed"))
    view = supervisor.view()
    (pool,) = view.pools
    assert (pool.ready, pool.wanted, pool.generation, view.was_ready) == (2, 3, 1, True)
    assert pool.slots[2].row == 1
    assert pool.slots[2].next_start is not None
    commands, _ = supervisor.handle(e.Tick(), view.now)
    assert ("StartZygote" in {type(command).__name__ for command in commands}) is not bool(left.zygotes)
    supervisor.handle(e.Stop(), view.now)
    assert supervisor.view().phase != "running"


RELOADING = [file for file in sorted(STORED.glob("*.msgpack")) if read(file.read_bytes()).version >= 2]


@pytest.mark.parametrize("file", RELOADING, ids=lambda file: file.name)
def test_a_reload_that_an_earlier_version_stored_has_its_verdict(file: Path) -> None:
    left = read(file.read_bytes())
    assert left == whole(left.clusterd), "everything that it handed on is understood"
    supervisor = bequest.rules(left, Supervisor(POLICY, "seed"))
    reload = supervisor.view().reload
    assert reload is not None
    assert (reload.generation, reload.stage) == (2, "canary")
    for _ in range(40):  # the canary is watched for its time, then one successor follows after another
        now = supervisor.deadline() or supervisor.view().now
        supervisor.handle(e.Tick(), now)
        for worker in [one.id for one in supervisor.view().pools[0].workers if one.state == "spawning"]:
            supervisor.handle(e.Spawned(worker), now)
            supervisor.handle(e.Ready(worker), now)
    assert supervisor.view().pools[0].generation == 2
    assert supervisor.view().reload is None


def test_a_slot_that_is_held_is_held_by_the_next_version_too() -> None:
    before = Supervisor(POLICY, "seed")
    for event in (e.Start(), e.ZygoteReady("web", 1), *map(e.Spawned, (1, 2, 3)), *map(e.Ready, (1, 2, 3))):
        before.handle(event, 1000.0)
    before.handle(e.Hold("web", 1), 1001.0)
    before.handle(e.Exited(2, 0), 1001.0)
    fd = handover.write(Handover(core=state.freeze(before)))
    try:
        after = bequest.rules(handover.read(fd), Supervisor(POLICY, "seed"))
    finally:
        os.close(fd)
    assert [slot.held for slot in after.view().pools[0].slots] == [False, True, False]
    after.handle(e.ZygoteReady("web", 1), 1002.0)
    assert [worker.slot for worker in after.view().pools[0].workers] == [0, 2]


def test_rules_that_are_none_are_refused() -> None:
    for core in (None, {"format": 1, "root": 5, "nodes": []}, {"format": 99}, "x"):
        with pytest.raises((HandoverError, StateError)):
            bequest.rules(Handover(core=core), Supervisor(POLICY, "seed"))
