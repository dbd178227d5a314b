"""The core's state as a document: any state it can be in, read again, goes on as if nothing had been."""

import copy
from collections.abc import Container
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import ServicePolicy
from clusterd.core.pool import Slot
from clusterd.core.supervisor import Supervisor
from clusterd.primary import state
from clusterd.primary.state import StateError, freeze, thaw
from tests.world import World, pool_policy, service_policy

POLICY = service_policy(pool_policy("web", 2), pool_policy("cpu", 1), lame_duck=1.0)


def handed_on(supervisor: Supervisor) -> Supervisor:
    """What a successor makes of it."""
    raw = msgspec.msgpack.encode(freeze(supervisor))
    found = thaw(msgspec.msgpack.decode(raw), Supervisor(POLICY, "another"))
    assert isinstance(found, Supervisor)
    return found


@given(st.data())
def test_any_state_goes_on_in_another_process(data: Any) -> None:
    """After every step the rules are handed on; the world holds them to their law all the same."""
    world = World(POLICY)
    world.give(e.Start())
    for _ in range(data.draw(st.integers(1, 40))):
        if world.exit is not None:
            break
        before = world.supervisor
        world.supervisor = handed_on(before)
        assert world.supervisor.view() == before.view()
        assert world.supervisor.deadline() == before.deadline()
        assert freeze(world.supervisor) == freeze(before)
        options = list(world.options())
        if options:
            options[data.draw(st.integers(0, len(options) - 1))].act()


class Both:
    """Rules that are handed on after every event, zygotes and all, beside the same that never were."""

    def __init__(self, supervisor: Supervisor, zygotes: Container[tuple[str, int]]) -> None:
        self.never = supervisor
        self.always = handed_on(supervisor)
        self.zygotes = zygotes

    def handle(self, event: e.Event, now: float) -> tuple[list[c.Command], list[f.Fact]]:
        decided = self.never.handle(event, now)
        assert self.always.handle(event, now) == decided
        assert self.always.view() == self.never.view()
        assert self.always.deadline() == self.never.deadline()
        return decided

    def hand_on(self) -> None:
        self.always = handed_on(self.always)
        self.always.bereave(self.zygotes)
        assert self.always.deadline() == self.never.deadline()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.never, name)


class Twins(World):
    """A world of such rules."""

    def __init__(self, policy: ServicePolicy) -> None:
        super().__init__(policy)
        self.both = Both(self.supervisor, self.zygotes)
        self.supervisor = cast(Supervisor, self.both)

    def give(self, event: e.Event) -> None:
        super().give(event)
        self.both.hand_on()


ORDERS = st.sampled_from(
    [
        lambda world: world.reload(),
        lambda world: world.reload(pool_policy("web", 3), pool_policy("new", 1)),
        lambda world: world.reload(pool_policy("cpu", 1, canary=5.0), only=frozenset({"cpu"})),
        lambda world: world.give(e.Restart("web")),
        lambda world: world.give(e.Scale("web", 1)),
        lambda world: world.give(e.Hold("web", 0)),
        lambda world: world.give(e.Release("web", 0)),
        lambda world: world.give(e.Stop()),
    ]
)


@settings(deadline=None)
@given(st.data())
def test_stored_at_any_event_they_decide_as_rules_that_never_were(data: Any) -> None:
    """In the middle of a reload too: of its import, its canary, its roll, and of what comes after its verdict."""
    world = Twins(POLICY)
    world.give(e.Start())
    for _ in range(data.draw(st.integers(1, 60))):
        if world.exit is not None:
            break
        options = list(world.options())
        good = [option for option in options if option.kind != "bad"]
        kind = data.draw(st.sampled_from(["good"] * 6 + ["any", "order"]))
        if kind == "order" or not options:
            data.draw(ORDERS)(world)
        else:
            data.draw(st.sampled_from(good if kind == "good" and good else options)).act()


def test_what_is_reached_on_two_ways_is_one_again() -> None:
    shared = [1]
    found = thaw(freeze({"a": shared, "b": shared, "loop": None}))
    assert found["a"] is found["b"]
    circle: list[Any] = []
    circle.append(circle)
    again = thaw(freeze(circle))
    assert again[0] is again


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.tuples(st.text(), st.integers(0, 9)), inner),
    )
)
def test_plain_values_come_back(value: object) -> None:
    assert thaw(msgspec.msgpack.decode(msgspec.msgpack.encode(freeze(value)))) == value


# -- between two versions ----------------------------------------------------------------------------------------------


def slot_node(document: dict[str, Any]) -> dict[str, Any]:
    return next(node[2] for node in document["nodes"] if node[0] == "object" and node[1].endswith(".Slot"))


def test_an_attribute_that_an_older_version_did_not_have_gets_its_default() -> None:
    document = freeze(Slot(3, row=5))
    del slot_node(document)["row"]
    assert thaw(document) == Slot(3)


def test_an_attribute_that_this_version_does_not_have_is_left_out() -> None:
    document = freeze(Slot(3))
    slot_node(document)["mood"] = "sunny"
    assert thaw(document) == Slot(3)


def test_one_without_a_default_is_an_error_that_names_it() -> None:
    document = freeze(Slot(3))
    del slot_node(document)["index"]
    with pytest.raises(StateError, match="no index of a Slot"):
        thaw(document)


def test_what_has_no_defaults_takes_them_from_a_fresh_one() -> None:
    supervisor = Supervisor(POLICY)
    document = freeze(supervisor)
    (node,) = (node[2] for node in document["nodes"] if node[0] == "object" and node[1].endswith(".Supervisor"))
    del node["_was_ready"]
    assert thaw(document, Supervisor(POLICY))._was_ready is False


def test_an_older_format_is_migrated_and_a_newer_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(document: dict[str, Any]) -> None:
        values = slot_node(document)
        values["index"] = values.pop("number")
        document["format"] = state.FORMAT

    monkeypatch.setitem(state.MIGRATIONS, 0, rename)
    document = freeze(Slot(3)) | {"format": 0}
    values = slot_node(document)
    values["number"] = values.pop("index")
    assert thaw(document) == Slot(3)
    with pytest.raises(StateError, match="version 99"):
        thaw(freeze(Slot(3)) | {"format": 99})


# -- what it is not ----------------------------------------------------------------------------------------------------


def test_what_is_no_value_cannot_be_written() -> None:
    with pytest.raises(StateError, match="StateError"):
        freeze([StateError("x")])


@pytest.mark.parametrize("name", ["os.system", "clusterd.core.pool.Nothing", "builtins.dict", "clusterd.core.os.x"])
def test_no_other_class_is_ever_made(name: str) -> None:
    document = freeze(Slot(3))
    document["nodes"][0][1] = name
    with pytest.raises(StateError):
        thaw(document)


@given(st.data())
def test_garbage_is_one_kind_of_error(data: Any) -> None:
    document = copy.deepcopy(freeze(Supervisor(POLICY)))
    nodes = document["nodes"]
    for _ in range(data.draw(st.integers(1, 3))):
        garbage = st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=3)
        nodes[data.draw(st.integers(0, len(nodes) - 1))] = data.draw(garbage)
    try:
        thaw(document, Supervisor(POLICY))
    except StateError:
        pass
