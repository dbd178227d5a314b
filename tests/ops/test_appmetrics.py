"""The aggregate of the app's metrics, over workers that live, die, lie and define what they like."""

import asyncio
import json
import math
import struct
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clusterd.ops import aggregate
from clusterd.ops.appmetrics import ABSENT, AppMetrics
from clusterd.ops.exposition import Encoder, at_once
from clusterd.wire import series
from clusterd.wire.series import Book, FamilyLine, Reader

Labels = frozenset[tuple[str, str]]


class Memory:
    """A worker's, with both of its ends."""

    def __init__(self, slot: int = 0, pool: str = "web", generation: int = 1) -> None:
        self.pool, self.slot, self.generation = pool, slot, generation
        memory = memoryview(bytearray(series.SIZE))
        self.board = memory
        self.book, self.reader = Book(memory), Reader(memory)
        self.collects = False
        self.places: dict[tuple[Any, ...], int] = {}

    def put(
        self, name: str, kind: Any, value: float, mode: str = "", suffix: str | None = None, le: str = "",
        inherited: float = 0.0, **labels: str,
    ) -> None:  # fmt: skip
        """Define it if it is new; then its value is ``value``."""
        suffix = {"counter": "_total"}.get(kind, "") if suffix is None else suffix
        key = (name, kind, mode, suffix, le, *labels.items())
        if key not in self.places:
            family = FamilyLine(name, kind, f"help of {name}", mode, tuple(labels))
            place = self.book.define(family, suffix, tuple(labels.values()), le, value, inherited)
            assert place is not None
            self.places[key] = place[1]
        self.book.cells[self.places[key]] = value

    def keep(self) -> None:
        self.reader.keep()

    def news(self) -> Any:
        return self.reader.news()

    def cells(self) -> bytes:
        return self.reader.cells()

    def exemplars(self) -> Any:
        return self.reader.exemplars()


def read(app: AppMetrics, memories: dict[int, Memory]) -> dict[tuple[str, Labels], float]:
    at_once(app.read(memories))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in app.families()
        for sample in family.samples()
    }


def page(app: AppMetrics, memories: dict[int, Memory]) -> dict[str, float]:
    """By name and label values."""
    return {
        " ".join([name, *sorted(text for _, text in labels)]): value
        for (name, labels), value in read(app, memories).items()
    }


def test_the_bits_of_an_absent_value_are_the_same_at_both_ends() -> None:
    assert ABSENT == series.ABSENT


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("sum", {"g": 12}), ("livesum", {"g": 12}), ("min", {"g": 2}), ("max", {"g": 7}), ("livemax", {"g": 7}),
        ("all", {"g 0 web": 3, "g 1 web": 7, "g 2 web": 2}), ("liveall", {"g 0 web": 3, "g 1 web": 7, "g 2 web": 2}),
    ],
)  # fmt: skip
def test_gauges_become_one_by_their_mode(mode: str, expected: dict[str, float]) -> None:
    memories = {worker: Memory(slot=worker - 1) for worker in (1, 2, 3)}
    for worker, value in ((1, 3), (2, 7), (3, 2)):
        memories[worker].put("g", "gauge", value, mode)
    assert page(AppMetrics(), memories) == expected


def test_the_last_value_is_the_one_with_the_latest_time() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory(1)}
    for worker, value, time in ((1, 5, 200.0), (2, 6, 100.0)):
        memories[worker].put("g", "gauge", value, "mostrecent")
        memories[worker].book.cells[1] = time
    assert page(app, memories) == {"g": 5}
    memories[2].book.cells[1] = 300.0  # set to the same value, later
    assert page(app, memories) == {"g": 6}


def test_of_two_workers_in_a_slot_the_younger_one_s_gauge_counts_and_the_app_s_own_labels_stay() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory()}
    memories[1].put("g", "gauge", 1, "all", pool="x", slot="y")
    memories[2].put("g", "gauge", 2, "all", pool="x", slot="y")
    labels = frozenset({("exported_pool", "x"), ("exported_slot", "y"), ("pool", "web"), ("slot", "0")})
    assert read(app, memories) == {("g", labels): 2}


def test_a_gauge_is_there_from_its_definition_and_gone_with_its_worker_or_before() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory(1)}
    memories[1].put("g", "gauge", 0.0, "sum")
    assert page(app, memories) == {"g": 0}
    memories[2].put("g", "gauge", math.nan, "max")
    memories[2].book.hide(0)
    assert page(app, memories) == {"g": 0}
    app.end(1, memories.pop(1))
    assert page(app, memories) == {}


def test_histograms_are_merged_also_where_their_buckets_differ() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory(generation=2)}
    for worker, bounds in ((1, ("0.5", "+Inf")), (2, ("0.1", "0.5", "+Inf"))):
        for le in bounds:
            memories[worker].put("h", "histogram", 2, suffix="_bucket", le=le)
        memories[worker].put("h", "histogram", 1.5, suffix="_sum")
    assert page(app, memories) == {
        "h_bucket 0.1": 2, "h_bucket 0.5": 6, "h_bucket +Inf": 10, "h_count": 10, "h_sum": 3
    }  # fmt: skip


def test_a_counter_that_is_reset_goes_on_from_where_it_was() -> None:
    app, memories = AppMetrics(), {1: Memory()}
    for value, total in ((5, 5), (0, 5), (2, 7), (2, 7)):
        memories[1].put("c", "counter", value)
        assert page(app, memories) == {"c_total": total}


def test_what_was_counted_at_import_counts_once_a_generation() -> None:
    app = AppMetrics()
    memories = {n: Memory(n, generation=1 + n // 3) for n in range(6)}
    for memory in memories.values():
        memory.put("c", "counter", 1, inherited=10)
    assert page(app, memories) == {"c_total": 6 + 2 * 10}


@pytest.mark.parametrize(
    ("name", "kind", "suffix", "le", "labels"),
    [
        ("clusterd_ready", "counter", "_total", "", {}),
        ("python_info", "gauge", "", "", {}),
        ("no name", "counter", "_total", "", {}),
        ("", "counter", "_total", "", {}),
        ("c", "counter", "_created", "", {}),
        ("c", "counter", "_total", "", {"no label": "x"}),
        ("c", "counter", "_total", "", {"__reserved": "x"}),
        ("h", "histogram", "_bucket", "wide", {}),
        ("h", "histogram", "_bucket", "nan", {}),
    ],
)
def test_what_cannot_be_on_the_page_is_refused_and_said_once(
    name: str, kind: str, suffix: str, le: str, labels: dict[str, str]
) -> None:
    said = []
    app = AppMetrics(["python_info"], lambda name, why: said.append(name))
    memories = {1: Memory(), 2: Memory(1)}
    for memory in memories.values():
        memory.put(name, kind, 1, suffix=suffix, le=le, **labels)
    assert {key: value for key, value in page(app, memories).items() if value} == {}
    assert said == [name]


def test_the_type_that_newer_code_says_is_the_one() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory()}
    memories[1].put("m", "counter", 4)
    assert page(app, memories) == {"m_total": 4}
    memories[2].put("m", "gauge", 5, "sum")
    assert page(app, memories) == {"m": 5}
    memories[1].put("m", "counter", 6)
    assert page(app, memories) == {"m": 5}


def test_there_is_a_most_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "MAX_PARTS", 5)
    said = []
    app, memories = AppMetrics(warn=lambda name, why: said.append(why)), {1: Memory()}
    for number in range(9):
        memories[1].put("c", "counter", 1, n=str(number))
    assert sum(page(app, memories).values()) == 5
    assert said == ["there are 5 series already"]


def test_what_a_worker_computes_is_summed_or_its_own_and_what_it_tells_no_more_is_gone() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory(1)}
    for worker, memory in memories.items():
        app.computed(worker, memory, [
            ("c", "counter", "", "all", [("c_total", {"a": "x"}, 5.0)]),
            ("g", "gauge", "", "all", [("g", {}, float(worker))]),
            ("v", "info", "", "all", [("v_info", {"version": "1"}, 1.0)]),
            ("s", "stateset", "", "all", [("s", {"s": "on"}, 1.0), ("s", {"s": "off"}, 0.0)]),
            ("h", "histogram", "", "all", [
                ("h_bucket", {"le": "1.0"}, 2.0), ("h_bucket", {"le": "+Inf"}, 3.0),
                ("h_count", {}, 3.0), ("h_sum", {}, 4.0),
            ]),
        ])  # fmt: skip
    assert page(app, memories) == {
        "c_total x": 10, "g 0 web": 1, "g 1 web": 2, "v_info 1": 1,
        "s 0 off web": 0, "s 0 on web": 1, "s 1 off web": 0, "s 1 on web": 1,
        "h_bucket 1.0": 4, "h_bucket +Inf": 6, "h_count": 6, "h_sum": 8,
    }  # fmt: skip
    app.computed(1, memories[1], [("c", "counter", "", "all", [("c_total", {"a": "x"}, 7.0)])])
    app.end(2, memories.pop(2))
    assert page(app, memories) == {
        "c_total x": 12, "h_bucket 1.0": 4, "h_bucket +Inf": 6, "h_count": 6, "h_sum": 8
    }  # fmt: skip


def test_a_worker_that_dies_while_it_is_read_is_read_to_its_end() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory(1)}
    for memory in memories.values():
        for number in range(3000):
            memory.put("c", "counter", 1, n=str(number))
    reading = app.read(memories)
    for _ in range(3):
        next(reading)
    memories[1].put("c", "counter", 3, n="2999")
    app.end(1, memories.pop(1))
    at_once(reading)
    assert sum(page(app, memories).values()) == 6002


SUFFIXES = st.sampled_from(["", "_total", "_bucket", "_sum", "_count", "_x"])
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["a_total", "a", "h_bucket", ""]),
        st.dictionaries(st.sampled_from(["le", "a", "a b"]), st.text(max_size=3)),
        st.floats() | st.integers(0, 9).map(float),
    )
)


def test_a_worker_with_very_much_to_tell_is_read_on_after_its_end_and_holds_up_nobody() -> None:
    app, memory = AppMetrics(), Memory()
    for number in range(20_000):
        memory.put("c", "counter", 1, n=str(number))

    async def scene() -> int:
        app.end(1, memory)
        for cell in range(20_000):
            memory.book.cells[cell] = 100.0  # whoever has that memory now
        turns = 0
        while app._dying:
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(scene()) > 5
    assert sum(page(app, {}).values()) == 20_000


def test_another_goes_on_from_the_books_and_counts_nothing_twice() -> None:
    app, memories = AppMetrics(), {1: Memory(), 2: Memory(1)}
    for worker, memory in memories.items():
        memory.put("c", "counter", 3, inherited=10, a="x")
        memory.put("h", "histogram", 2, suffix="_bucket", le="+Inf")
        memory.put("h", "histogram", -1.5, suffix="_sum")
        memory.put("g", "gauge", 7, "sum")
        app.computed(worker, memory, [("k", "counter", "", "all", [("k_total", {"a": "x"}, 5.0)])])
    dead = Memory(2)
    dead.put("c", "counter", 100, a="x")
    app.end(3, dead)
    before = page(app, memories)
    books = json.loads(json.dumps(app.books()))  # plain values
    for memory in memories.values():
        memory.reader = Reader(memory.board)  # another primary reads from the beginning
    other = AppMetrics()
    other.go_on(books)
    assert page(other, memories) == before
    memories[1].put("c", "counter", 4, a="x")
    memories[1].put("c", "counter", 1, a="new")
    other.computed(2, memories[2], [("k", "counter", "", "all", [("k_total", {"a": "x"}, 6.0)])])
    after = page(other, memories)
    assert after["c_total x"] == before["c_total x"] + 1 == 3 + 3 + 10 + 100 + 1
    assert (after["c_total new"], after["k_total x"], after["g"]) == (1, 11, 14)


VALUES = st.floats() | st.integers(0, 100).map(float)
NAMES = st.sampled_from(["a", "b", "clusterd_x", "h", ""])


class Histories(RuleBasedStateMachine):
    """No counter falls, whatever workers define, count, write and die of; honest counters are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.app = AppMetrics()
        self.memories: dict[int, Memory] = {}
        self.born = 0
        self.honest: dict[str, float] = defaultdict(float)
        self.seen: dict[tuple[str, Labels], float] = {}

    @rule(slot=st.integers(0, 2), generation=st.integers(1, 3))
    def is_born(self, slot: int, generation: int) -> None:
        self.born += 1
        self.memories[self.born] = Memory(slot, generation=generation)

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 9), more=st.integers(0, 1000), label=st.sampled_from("xyz"))
    def counts(self, which: int, more: int, label: str) -> None:
        memory = list(self.memories.values())[which % len(self.memories)]
        key = ("honest", "counter", "", "_total", "", ("l", label))
        before = memory.book.cells[memory.places[key]] if key in memory.places else 0.0
        memory.put("honest", "counter", before + more, l=label)
        self.honest[label] += more

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 9), name=NAMES, kind=st.sampled_from(["counter", "gauge", "histogram", "summary"]),
          suffix=SUFFIXES, le=st.sampled_from(["", "1.0", "+Inf", "x"]), value=VALUES, inherited=VALUES)  # fmt: skip
    def lies(self, which: int, name: str, kind: str, suffix: str, le: str, value: float, inherited: float) -> None:
        memory = list(self.memories.values())[which % len(self.memories)]
        memory.put(name, kind, value, "livesum" if kind == "gauge" else "", suffix, le, inherited)

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 9), name=NAMES, kind=st.text(max_size=9) | st.sampled_from(sorted(aggregate.KINDS)),
          samples=SAMPLES)  # fmt: skip
    def computes(self, which: int, name: str, kind: str, samples: list[tuple[str, dict[str, str], float]]) -> None:
        worker = list(self.memories)[which % len(self.memories)]
        self.app.computed(worker, self.memories[worker], [(name, kind, "", "all", samples)])

    @precondition(lambda self: self.memories)
    @rule(which=st.integers(0, 9))
    def dies(self, which: int) -> None:
        worker = list(self.memories)[which % len(self.memories)]
        self.app.end(worker, self.memories.pop(worker))

    @invariant()
    def no_counter_falls_and_the_page_can_be_written(self) -> None:
        now = read(self.app, self.memories)
        kinds = {family.name: family.kind for family in self.app.families()}
        for (name, labels), before in self.seen.items():
            if name.endswith("_total") and kinds.get(name.removesuffix("_total")) == "counter":
                assert now.get((name, labels), 0.0) >= before or ("a", "counter") not in kinds.items(), name
        self.seen = {key: value for key, value in now.items() if key[0] == "honest_total"}
        assert {dict(labels)["l"]: value for (_, labels), value in self.seen.items()} == dict(self.honest)
        for accept in ("", "application/openmetrics-text; version=1.0.0"):
            encoder = Encoder(accept)
            for family in self.app.families():
                for piece in encoder.pieces(family.metric(), family.samples()):
                    assert piece


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


@given(st.binary(min_size=8, max_size=8))
def test_any_bits_are_a_value_or_none(bits: bytes) -> None:
    app, memories = AppMetrics(), {1: Memory()}
    memories[1].put("c", "counter", 3)
    memories[1].put("g", "gauge", 3, "sum")
    read(app, memories)
    for cell in range(2):
        memories[1].book.cells[cell] = struct.unpack("=d", bits)[0]
    after = page(app, memories)
    assert after["c_total"] >= 3
    assert math.isfinite(after["c_total"])
