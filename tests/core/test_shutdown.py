"""How the service ends, history by history."""

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from tests.core.histories import (
    BOTH_IMPORTED,
    CLOSE,
    DROP,
    END_ZYGOTE,
    FORKED,
    IMPORTED,
    ONE,
    START,
    STOP,
    TWO,
    UNHURRIED,
    UP,
    History,
    Row,
    admit,
    exited,
    play,
    spawn,
)
from tests.world import service_policy

HISTORIES: dict[str, History] = {
    "a stop closes, drains and ends": (
        ONE,
        (
            *UP,
            STOP,
            Row(1, e.ListenersClosed(), (c.Drain(1, 26.0),), (f.PhaseChanged("draining"), f.WorkerDraining)),
            Row(0, e.Scale("web", 1)),
            Row(0, e.Leaving(1)),
            Row(1, e.Exited(1, 0), END_ZYGOTE, (f.WorkerExited,)),
            Row(0, e.ZygoteGone("web", 1), (c.Exit(0, "asked to stop"),), (f.Stopped(0, "asked to stop", ()),)),
            Row(0, e.Ready(1)),
        ),
    ),
    "a lame duck works on, makes ends good, and then stops": (
        service_policy(lame_duck=5.0),
        (
            *UP,
            Row(9, e.Stop(), (), (f.StopBegan, f.PhaseChanged("lame_duck"), f.ServiceUnready(()))),
            Row(1, e.Exited(1, None, 9), (spawn(2),), (f.WorkerExited, f.RestartScheduled, f.WorkerStarting)),
            Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
            Row(0, e.Ready(2), (admit(2),), (f.WorkerReady,)),
            Row(0, e.Leaving(2), (c.Drain(2, 27.0),), (f.RestartScheduled, f.WorkerDraining)),
            Row(0.5, e.Tick(), (spawn(3),), (f.WorkerStarting,)),
            Row(0, e.Spawned(3), (), (f.WorkerSpawned,)),
            Row(0, e.Ready(3), (admit(3),), (f.WorkerReady,)),
            Row(1, e.Tick()),
            Row(2.5, e.Tick(), (CLOSE,), (f.PhaseChanged("closing"),)),
            Row(6.5, e.Tick(), (), (f.SlotHealthy,)),
            Row(16.5, e.Tick(), (c.Kill(2),), (f.WorkerKilled,)),
            Row(0, e.Exited(2, None, 9), (), (f.WorkerExited,)),
            Row(
                4,
                e.Tick(),
                (DROP, c.Drain(3, 0.0), c.Kill(3)),
                (f.PhaseChanged("draining"), f.WorkerDraining, f.WorkerKilled),
            ),
        ),
    ),
    "a stop with nobody ready drops what nobody could take": (
        ONE,
        (
            START,
            IMPORTED,
            FORKED,
            Row(0, e.Stop(), (DROP, c.Drain(1, 27.0)), (f.StopBegan, f.PhaseChanged("draining"), f.WorkerDraining)),
        ),
    ),
    "a second stop is now": (
        ONE,
        (
            *UP,
            STOP,
            Row(
                1,
                e.Stop(),
                (DROP, c.Kill(1)),
                (
                    f.StopBegan(True, "asked to stop"),
                    f.PhaseChanged("ending"),
                    f.WorkerKilled(1, "web", 0, f.KillReason.STOP_NOW),
                ),
            ),
            Row(0, e.Stop()),
            Row(0, e.Stop(now=True)),
            Row(
                0,
                e.Exited(1, None, 9),
                END_ZYGOTE,
                (exited(1, signal=9, reason=f.ExitReason.STOP, asked=True, uptime=3, ready_for=2),),
            ),
            Row(0, e.ZygoteGone("web", 1)),
            Row(0, e.ListenersClosed(), (c.Exit(0, "asked to stop"),), (f.Stopped,)),
        ),
    ),
    "a stop now is now, also for a fork in flight": (
        TWO,
        (
            START,
            BOTH_IMPORTED,
            FORKED,
            Row(
                0,
                e.Stop(now=True),
                (DROP, c.Kill(1), *END_ZYGOTE),
                (f.StopBegan, f.PhaseChanged("ending"), f.WorkerKilled),
            ),
            Row(0, e.SpawnFailed(2, zygote_gone=True), (), (f.WorkerSpawnFailed,)),
            Row(0, e.ZygoteGone("web", 1)),
            Row(0, e.ListenersClosed()),
            Row(0, e.Exited(1, None, 9), (c.Exit(0, "asked to stop"),), (f.WorkerExited, f.Stopped)),
        ),
    ),
    "a fork in flight is cancelled by a stop, and its zygote given up at the drain's end": (
        ONE,
        (
            START,
            IMPORTED,
            Row(0, e.Stop(), (DROP,), (f.StopBegan, f.PhaseChanged("draining"))),
            Row(1, e.ListenersClosed()),
            Row(26, e.Tick(), END_ZYGOTE),
            Row(0, e.SpawnFailed(1, zygote_gone=True), (), (f.WorkerSpawnFailed,)),
            Row(0, e.ZygoteGone("web", 1), (c.Exit(0, "asked to stop"),), (f.Stopped,)),
        ),
    ),
    "a worker that SIGKILL does not end is named, and not waited for": (
        ONE,
        (
            *UP,
            Row(
                0, e.Stop(now=True), (DROP, c.Kill(1)), (f.StopBegan, f.PhaseChanged, f.WorkerKilled, f.ServiceUnready)
            ),
            Row(0, e.ListenersClosed()),
            Row(5, e.Tick(), END_ZYGOTE),
            Row(0, e.ZygoteGone("web", 1), (c.Exit(0, "asked to stop"),), (f.Stopped(0, "asked to stop", (1,)),)),
        ),
    ),
    "without a drain timeout a drain has no end but its own": (
        UNHURRIED,
        (
            *UP,
            STOP,
            Row(0, e.ListenersClosed(), (c.Drain(1, None),), (f.PhaseChanged, f.WorkerDraining)),
            Row(10**6, e.Tick()),
            Row(0, e.Exited(1, 0), END_ZYGOTE, (f.WorkerExited,)),
        ),
    ),
    "a stop before the start is a stop": (
        ONE,
        (
            Row(0, e.Stop(), (DROP,), (f.StopBegan, f.PhaseChanged)),
            Row(0, e.ListenersClosed(), (c.Exit(0, "asked to stop"),), (f.Stopped,)),
            Row(0, e.Start()),
        ),
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    policy, rows = HISTORIES[name]
    play(policy, *rows)
