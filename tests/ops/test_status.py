import json
from dataclasses import replace
from typing import Any, get_type_hints

import msgspec
import pytest

from clusterd.core.facts import ExitReason, ReloadView, View
from clusterd.ops import document as room
from clusterd.ops.document import Status
from clusterd.ops.status import encode, status
from tests.ops.staged import ABOUT, Staged, healthy_view, pool_view, slot_view, worker_view

V1 = {
    "Status": {"api", "service", "pools", "leftovers", "time", "reload"},
    "Service": {"name", "pid", "version", "state", "ready", "uptime", "run_dir", "monitoring", "listeners", "upgrades"},
    "Listener": {"name", "address", "backlog", "backlog_limit"},
    "Pool": {
        "name", "generation", "wanted", "ready", "min_ready", "given_up", "zygote", "preloaded", "slots", "leaving",
        "stopped",
    },
    "Slot": {"index", "worker", "restarts", "row", "given_up", "last_reason", "next_start_in", "held"},
    "Worker": {
        "id", "slot", "state", "generation", "uptime", "pid", "ready_for", "connections", "requests", "in_flight",
        "memory", "heartbeat_age", "requests_per_second", "cpu", "loop_lag",
        "latency",
    },
}  # fmt: skip
"""The members of the first version: programs read them, so none may go. Further ones are added here."""

REQUIRED = {
    "Status": {"api", "service", "pools"},
    "Service": {"name", "pid", "version", "state", "ready", "uptime", "run_dir"},
    "Listener": {"name", "address"},
    "Pool": V1["Pool"] - {"leaving", "stopped"},
    "Slot": {"index"},
    "Worker": {"id", "slot", "state", "generation", "uptime"},
}
"""What a primary of the first version sends without fail; a member that is added has a default, so that a newer
client understands it."""


def structs() -> dict[str, type[msgspec.Struct]]:
    return {name: getattr(room, name) for name in V1}


def document(source: Staged) -> dict[str, Any]:
    found = json.loads(encode(status(ABOUT, source)))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", V1)
def test_the_document_of_version_1_only_grows(name: str) -> None:
    struct = structs()[name]
    assert set(struct.__struct_fields__) == V1[name]
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    assert required == REQUIRED[name]


def test_every_member_is_described() -> None:
    for struct in structs().values():
        for field, hint in get_type_hints(struct, include_extras=True).items():
            assert hint.__metadata__[0].description, f"{struct.__name__}.{field}"
    assert msgspec.json.schema(Status)


def test_the_document_tells_of_service_pools_slots_and_workers() -> None:
    beat = {"heartbeat_ns": int(99.5e9), "connections_open": 3, "requests_2xx": 5, "requests_4xx": 2}
    view = View(
        100.0, "running", True, True,
        (pool_view(
            [
                slot_view(0, 1),
                slot_view(1, None, next_start=101.6, last_reason=ExitReason.CRASH, starts=3),
                slot_view(2, 4),
            ],
            [worker_view(1, 0), worker_view(2, 1, "draining"), worker_view(4, 2, "spawning")],
        ),),
    )  # fmt: skip
    found = document(Staged(view, rows={1: beat}, left=[77]))
    assert found["api"] == 1
    assert found["service"].items() >= {"name": "shop", "pid": 4711, "version": "1.2.3", "uptime": 60.0}.items()
    assert found["service"]["listeners"] == [
        {"name": "http", "address": "127.0.0.1:8000", "backlog": 3, "backlog_limit": 2048}
    ]
    assert found["leftovers"] == [77]
    (pool,) = found["pools"]
    first, second, third = pool["slots"]
    assert first["worker"].items() >= {
        "id": 1, "state": "ready", "uptime": 10.0, "ready_for": 9.0, "connections": 3, "requests": 7,
        "heartbeat_age": 0.5,
    }.items()  # fmt: skip
    assert second["worker"] is None
    assert second.items() >= {"restarts": 2, "last_reason": "crash", "next_start_in": 1.6}.items()
    assert third["worker"]["pid"] is None
    assert third["worker"]["requests"] is None
    assert [worker["id"] for worker in pool["leaving"]] == [2]


def test_a_held_slot_is_told_and_not_waited_for_by_a_reload() -> None:
    pool = pool_view([slot_view(0, 1), slot_view(1, None, held=True)], [worker_view(1, 0)])
    view = View(100.0, "running", True, True, (pool,), ReloadView(2, ("web",), 99.0, "canary", 101.0))
    found = document(Staged(view))
    assert [slot["held"] for slot in found["pools"][0]["slots"]] == [False, True]
    assert found["reload"]["of"] == 1


def test_a_reader_understands_a_newer_and_an_older_document() -> None:
    newer = document(Staged())
    newer["service"]["mood"] = "fine"
    newer["pools"][0]["slots"][0]["worker"]["stars"] = 5
    assert msgspec.convert(newer, Status).service.name == "shop"
    older = {
        name: {key: value for key, value in newer[name].items() if key in REQUIRED["Service"]} for name in ("service",)
    }
    assert msgspec.convert({"api": 1, "pools": [], **older}, Status).service.monitoring is None


def test_nothing_is_negative_when_clocks_disagree_by_a_hair() -> None:
    view = replace(healthy_view(1), now=89.0)
    found = document(Staged(view, rows={1: {"heartbeat_ns": int(95e9)}}))
    worker = found["pools"][0]["slots"][0]["worker"]
    assert worker["uptime"] == worker["heartbeat_age"] == 0.0
