"""What each fact is called in the log: level, event name, fields."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from enum import Enum
from typing import Any

from clusterd.core import facts as f
from clusterd.ops.crash import signal_name

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
"""Level name to its rank, as in :mod:`logging`."""

Level = str | Callable[[Any], str]

RECORDS: dict[type, tuple[Level, str]] = {
    f.ZygoteStarted: ("debug", "zygote_started"),
    f.ZygoteIsReady: ("info", "zygote_ready"),
    f.ZygoteEnded: ("error", "zygote_ended"),
    f.WorkerStarting: ("debug", "worker_starting"),
    f.WorkerSpawned: ("debug", "worker_spawned"),
    f.WorkerOnline: ("debug", "worker_online"),
    f.WorkerReady: ("info", "worker_ready"),
    f.WorkerBootFailed: ("error", "worker_boot_failed"),
    f.WorkerHung: ("error", "worker_hung"),
    f.StacksReported: ("error", "worker_stacks"),
    f.WorkerRecycled: ("info", "worker_recycled"),
    f.SpareAdmitted: ("info", "spare_admitted"),
    f.WorkerDraining: ("info", "worker_draining"),
    f.WorkerKilled: ("warning", "worker_killed"),
    f.WorkerExited: (lambda fact: "info" if fact.asked else "error", "worker_exited"),
    f.WorkerSpawnFailed: ("error", "worker_spawn_failed"),
    f.RestartScheduled: ("warning", "restart_scheduled"),
    f.SlotHealthy: ("info", "slot_healthy"),
    f.SlotGaveUp: ("error", "slot_gave_up"),
    f.PoolGaveUp: ("critical", "pool_gave_up"),
    f.PoolRecovered: ("info", "pool_recovered"),
    f.Scaled: ("info", "scaled"),
    f.PoolStopped: ("info", "pool_stopped"),
    f.PoolStarted: ("info", "pool_started"),
    f.SlotHeld: ("info", "slot_held"),
    f.SlotReleased: ("info", "slot_released"),
    f.PoolRemoved: ("info", "pool_removed"),
    f.ReloadBegan: ("info", "reload_began"),
    f.CanaryBegan: ("info", "reload_canary"),
    f.RollBegan: ("info", "reload_rolls"),
    f.ReloadEnded: (lambda fact: "info" if fact.verdict is f.Verdict.PROMOTED else "error", "reload_ended"),
    f.ServiceReady: ("info", "service_ready"),
    f.ServiceUnready: (lambda fact: "warning" if fact.lacking else "info", "service_unready"),
    f.StopBegan: ("info", "stop_began"),
    f.PhaseChanged: ("debug", "phase_changed"),
    f.Stopped: (lambda fact: "error" if fact.code or fact.unkillable else "info", "stopped"),
}
"""Fact to its level (or how to choose it) and its event name. A zygote that was never ready is ``zygote_failed``."""

REPORTED_ELSEWHERE = {f.ZygoteEnded: "report", f.WorkerBootFailed: "report", f.StacksReported: "report"}
"""Fields that the crash report carries, so that a traceback stands in the log once."""


def plain(value: object) -> object:
    """A field's value as the renderers take it: enums by value, seconds to the millisecond."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def record_of(fact: f.Fact) -> tuple[str, str, dict[str, Any]]:
    """Level, event name and fields of a fact. Fields that are ``None`` say nothing and are left out."""
    kind = type(fact)
    level, event = RECORDS[kind]
    left_out = REPORTED_ELSEWHERE.get(kind)
    values = {
        item.name: plain(value)
        for item in fields(fact)
        if item.name != left_out and (value := getattr(fact, item.name)) is not None
    }
    match fact:
        case f.ZygoteEnded(was_ready=False):
            event = "zygote_failed"
        case f.WorkerExited(signal=int(number)):
            values["signal"] = signal_name(number)
        case f.RestartScheduled():
            # A moment on the core's clock means nothing to a reader; the delay and the record's own time say it.
            del values["at"]
    return level if isinstance(level, str) else level(fact), event, values


def status_records(view: f.View) -> Iterator[tuple[str, dict[str, Any]]]:
    """The whole service as records (event name, fields): one for it, one a pool, one a slot. What SIGUSR1 logs."""
    yield "status", {"phase": view.phase, "ready": view.ready}
    for pool in view.pools:
        yield (
            "status_pool",
            {
                "pool": pool.name,
                "generation": pool.generation,
                "wanted": pool.wanted,
                "ready": pool.ready,
                "min_ready": pool.min_ready,
                "given_up": pool.given_up,
                "zygote": pool.zygote,
            },
        )
        for slot in pool.slots:
            values: dict[str, Any] = {"pool": pool.name, "slot": slot.index, "worker": slot.worker}
            if slot.worker is None and slot.next_start is not None:
                values["next_start_in"] = round(max(0.0, slot.next_start - view.now), 3)
            values |= {"row": slot.row, "given_up": slot.given_up, "starts": slot.starts, "ends": slot.ends}
            if slot.held:
                values["held"] = True
            if slot.last_reason is not None:
                values["last_reason"] = slot.last_reason.value
            for worker in pool.workers:
                if worker.id == slot.worker:
                    values |= {
                        "state": worker.state,
                        "generation": worker.generation,
                        "uptime": round(view.now - worker.started_at, 3),
                    }
            yield "status_slot", values
        for worker in pool.workers:
            if all(worker.id != slot.worker for slot in pool.slots):
                yield (
                    "status_worker",
                    {
                        "pool": pool.name,
                        "slot": worker.slot,
                        "worker": worker.id,
                        "state": worker.state,
                        "generation": worker.generation,
                        "uptime": round(view.now - worker.started_at, 3),
                    },
                )
