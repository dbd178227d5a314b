"""What becomes of zygotes, history by history."""

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from tests.core.histories import (
    BOTH_IMPORTED,
    BOTH_UP,
    END_ZYGOTE,
    IMPORTED,
    ONE,
    START,
    TWO,
    UP,
    History,
    Row,
    play,
    spawn,
)

HISTORIES: dict[str, History] = {
    "a fork that is never answered is the zygote's fault": (
        ONE,
        (
            START,
            IMPORTED,
            Row(60, e.Tick(), END_ZYGOTE),
            Row(0, e.SpawnFailed(1, zygote_gone=True), (), (f.WorkerSpawnFailed,)),
            Row(0, e.ZygoteGone("web", 1), (), (f.ZygoteEnded, f.RestartScheduled)),
        ),
    ),
    "a fork that is answered although its zygote was given up is killed, once": (
        ONE,
        (
            START,
            IMPORTED,
            Row(60, e.Tick(), END_ZYGOTE),
            Row(
                0,
                e.Spawned(1),
                (c.Kill(1),),
                (f.WorkerSpawned, f.WorkerKilled(1, "web", 0, f.KillReason.START_TIMEOUT)),
            ),
            Row(0, e.ZygoteGone("web", 1), (), (f.ZygoteEnded,)),
            Row(0, e.Exited(1, None, 9), (), (f.WorkerExited, f.RestartScheduled)),
        ),
    ),
    "a zygote that dies in a fork is replaced before it is asked again": (
        TWO,
        (
            START,
            BOTH_IMPORTED,
            Row(0, e.SpawnFailed(1, zygote_gone=True), END_ZYGOTE, (f.WorkerSpawnFailed,)),
            Row(0, e.SpawnFailed(2, zygote_gone=True), (), (f.WorkerSpawnFailed,)),
            Row(0, e.ZygoteGone("web", 1), (), (f.ZygoteEnded, f.RestartScheduled, f.RestartScheduled)),
        ),
    ),
    "a zygote that hangs in its import is one crash of all its pool": (
        TWO,
        (
            START,
            Row(59, e.Tick()),
            Row(1, e.Tick(), END_ZYGOTE),
            Row(0, e.ZygoteReady("web", 1)),
            Row(
                0,
                e.ZygoteGone("web", 1, "killed"),
                (),
                (f.ZygoteEnded, f.RestartScheduled, f.RestartScheduled),
            ),
        ),
    ),
    "a zygote that had proved itself is rebuilt at once, and no slot is blamed": (
        ONE,
        (
            *UP,
            Row(
                10,
                e.ZygoteGone("web", 1, "killed"),
                (c.StartZygote("web", 1),),
                (f.ZygoteEnded("web", 1, True, "killed", 0.0, 12.0), f.ZygoteStarted),
            ),
            Row(1, e.ZygoteReady("web", 1), (), (f.ZygoteIsReady,)),
        ),
    ),
    "one that had not been healthy is rebuilt with back-off": (
        ONE,
        (
            *UP,
            Row(5, e.ZygoteGone("web", 1), (), (f.ZygoteEnded,)),
            Row(0.25, e.Tick(), (c.StartZygote("web", 1),), (f.ZygoteStarted,)),
        ),
    ),
    "a slot that waits when such a zygote dies waits no longer for it": (
        TWO,
        (
            *BOTH_UP,
            Row(0, e.Exited(2, None, 9), (), (f.WorkerExited, f.RestartScheduled)),
            Row(0, e.ZygoteGone("web", 1), (), (f.ZygoteEnded,)),
        ),
    ),
    "a slot waits for its zygote": (
        ONE,
        (
            *UP,
            Row(10, e.ZygoteGone("web", 1), (c.StartZygote("web", 1),), (f.ZygoteEnded, f.ZygoteStarted)),
            Row(0, e.Exited(1, None, 9), (), (f.WorkerExited, f.RestartScheduled, f.ServiceUnready)),
            Row(1, e.ZygoteReady("web", 1), (spawn(2),), (f.ZygoteIsReady, f.WorkerStarting)),
        ),
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    policy, rows = HISTORIES[name]
    play(policy, *rows)
