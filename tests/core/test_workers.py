"""What happens to a worker, history by history."""

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from tests.core.histories import FORKED, IMPORTED, ONE, START, UP, History, Row, admit, exited, play, spawn

HISTORIES: dict[str, History] = {
    "a worker is up": (ONE, UP),
    "a worker says each thing once": (
        ONE,
        (
            *UP,
            Row(0, e.Online(1), (), (f.WorkerOnline,)),
            Row(0, e.Online(1)),
            Row(0, e.Ready(1)),
            Row(0, e.Spawned(1)),
            Row(0, e.SpawnFailed(1)),
            Row(0, e.BootFailed(1, "lifespan", "too late")),
        ),
    ),
    "a failed boot is told, and its end is a boot failure": (
        ONE,
        (
            START,
            IMPORTED,
            FORKED,
            Row(0, e.BootFailed(1, "lifespan", "no database"), (), (f.WorkerBootFailed,)),
            Row(0, e.Leaving(1), (c.Drain(1, 27.0),), (f.RestartScheduled, f.WorkerDraining)),
            Row(
                1,
                e.Exited(1, 3),
                (spawn(2),),
                (exited(1, code=3, reason=f.ExitReason.BOOT, uptime=1, drained=1), f.WorkerStarting),
            ),
        ),
    ),
    "one that had been healthy is replaced at once": (
        ONE,
        (
            *UP,
            Row(
                10,
                e.Exited(1, None, 9),
                (spawn(2),),
                (
                    exited(1, signal=9, reason=f.ExitReason.CRASH, uptime=11, ready_for=10),
                    f.RestartScheduled("web", 0, 0.0, 0, 1012.0),
                    f.WorkerStarting,
                    f.ServiceUnready(("web",)),
                ),
            ),
            Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
            Row(0.5, e.Ready(2), (admit(2),), (f.WorkerReady(2, "web", 0, 1, 0.5, 0.5), f.ServiceReady(False))),
        ),
    ),
    "one that had not is replaced after a delay": (
        ONE,
        (*UP, Row(9, e.Exited(1, 0), (), (f.WorkerExited, f.RestartScheduled, f.ServiceUnready))),
    ),
    "one that leaves gives up its slot before it is gone": (
        ONE,
        (
            *UP,
            Row(
                10,
                e.Leaving(1),
                (c.Drain(1, 27.0), spawn(2)),
                (f.RestartScheduled, f.WorkerDraining, f.WorkerStarting, f.ServiceUnready),
            ),
            Row(
                1,
                e.Exited(1, 0),
                (),
                (exited(1, code=0, reason=f.ExitReason.VOLUNTARY, uptime=12, ready_for=11, drained=1),),
            ),
        ),
    ),
    "a channel that closes because the worker died is no leave": (
        ONE,
        (
            *UP,
            Row(0, e.Leaving(1), (c.Drain(1, 27.0),), (f.RestartScheduled, f.WorkerDraining, f.ServiceUnready)),
            Row(
                0,
                e.Exited(1, None, 11),
                (),
                (exited(1, signal=11, reason=f.ExitReason.CRASH, uptime=1, ready_for=0, drained=0),),
            ),
        ),
    ),
    "one that leaves is killed when its drain is over": (
        ONE,
        (
            *UP,
            Row(
                10,
                e.Leaving(1),
                (c.Drain(1, 27.0), spawn(2)),
                (f.RestartScheduled, f.WorkerDraining, f.WorkerStarting, f.ServiceUnready),
            ),
            Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
            Row(1, e.Ready(2), (admit(2),), (f.WorkerReady, f.ServiceReady)),
            Row(26, e.Tick(), (c.Kill(1),), (f.WorkerKilled(1, "web", 0, f.KillReason.DRAIN_TIMEOUT),)),
        ),
    ),
    "a boot that takes too long is killed, and counts at its end": (
        ONE,
        (
            START,
            IMPORTED,
            FORKED,
            Row(59, e.Tick()),
            Row(1, e.Tick(), (c.Kill(1),), (f.WorkerKilled(1, "web", 0, f.KillReason.START_TIMEOUT),)),
            Row(0, e.Ready(1)),
            Row(0, e.Exited(1, None, 9), (), (f.WorkerExited, f.RestartScheduled)),
        ),
    ),
    "an answer in the last moment is an answer": (
        ONE,
        (START, IMPORTED, FORKED, Row(60, e.Ready(1), (admit(1),), (f.WorkerReady, f.ServiceReady))),
    ),
    "what SIGKILL does not end gives up its slot": (
        ONE,
        (
            START,
            IMPORTED,
            FORKED,
            Row(60, e.Tick(), (c.Kill(1),), (f.WorkerKilled,)),
            Row(5, e.Tick(), (), (f.RestartScheduled,)),
            Row(0.25, e.Tick(), (spawn(2),), (f.WorkerStarting,)),
            Row(0, e.Exited(1, None, 9), (), (f.WorkerExited,)),
        ),
    ),
    "a fork that fails counts for its slot": (
        ONE,
        (START, IMPORTED, Row(0, e.SpawnFailed(1, "EAGAIN"), (), (f.WorkerSpawnFailed, f.RestartScheduled))),
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    policy, rows = HISTORIES[name]
    play(policy, *rows)
