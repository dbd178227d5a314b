"""Histories: what happens, what is then to be done, and what has become true, rule by rule."""

from dataclasses import dataclass

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import OnGiveUp, ServicePolicy
from clusterd.core.supervisor import Supervisor
from tests.world import pool_policy, service_policy


@dataclass(frozen=True)
class Row:
    """After so many seconds this happens. Facts are given in full, or by their kind."""

    after: float
    event: e.Event
    commands: tuple[c.Command, ...] = ()
    facts: tuple[f.Fact | type, ...] = ()


def play(policy: ServicePolicy, *rows: Row) -> Supervisor:
    supervisor, now = Supervisor(policy), 1000.0
    for number, row in enumerate(rows):
        now += row.after
        commands, facts = supervisor.handle(row.event, now)
        where = f"row {number}: {row.event}"
        assert commands == list(row.commands), where
        assert [fact if fact in row.facts else type(fact) for fact in facts] == list(row.facts), (where, facts)
        due = supervisor.deadline()
        assert due is None or due > now, where
    return supervisor


def spawn(worker: int, slot: int = 0) -> c.Spawn:
    return c.Spawn(worker, "web", slot, 1)


def exited(
    worker: int,
    slot: int = 0,
    *,
    reason: f.ExitReason,
    uptime: float,
    code: int | None = None,
    signal: int | None = None,
    asked: bool = False,
    ready_for: float | None = None,
    drained: float | None = None,
) -> f.WorkerExited:
    return f.WorkerExited(worker, "web", slot, 1, code, signal, reason, asked, uptime, ready_for, drained)


ONE = service_policy(pool_policy(workers=1))
TWO = service_policy(pool_policy(workers=2))
UNHURRIED = service_policy(pool_policy(workers=1, start_timeout=0.0), drain_timeout=0.0)

START = Row(0, e.Start(), (c.StartZygote("web", 1),), (f.ZygoteStarted,))
IMPORTED = Row(1, e.ZygoteReady("web", 1), (spawn(1),), (f.ZygoteIsReady("web", 1, True, 1.0), f.WorkerStarting))
FORKED = Row(0, e.Spawned(1), (), (f.WorkerSpawned,))
READY = Row(1, e.Ready(1), (), (f.WorkerReady(1, "web", 0, 1, 1.0, None), f.ServiceReady(True)))
UP = (START, IMPORTED, FORKED, READY)

BOTH_IMPORTED = Row(
    1, e.ZygoteReady("web", 1), (spawn(1), spawn(2, 1)), (f.ZygoteIsReady, f.WorkerStarting, f.WorkerStarting)
)
BOTH_UP = (
    START,
    BOTH_IMPORTED,
    FORKED,
    Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
    Row(1, e.Ready(1), (), (f.WorkerReady, f.ServiceReady)),
    Row(0, e.Ready(2), (), (f.WorkerReady,)),
)
CLOSE, DROP = c.CloseListeners(hand_on=True), c.CloseListeners(hand_on=False)
STOP = Row(
    1, e.Stop(), (CLOSE,), (f.StopBegan(False, "asked to stop"), f.PhaseChanged("closing"), f.ServiceUnready(()))
)
END_ZYGOTE = (c.StopZygote("web", 1),)

HISTORIES: dict[str, tuple[ServicePolicy, tuple[Row, ...]]] = {
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
    "words of and about the unknown change nothing": (
        ONE,
        (
            *UP,
            Row(0, e.Ready(9)),
            Row(0, e.Exited(9, 0)),
            Row(0, e.Leaving(9)),
            Row(0, e.Online(9)),
            Row(0, e.SpawnFailed(9, zygote_gone=True)),
            Row(0, e.ZygoteGone("other", 1)),
            Row(0, e.ZygoteFailed("web", 2)),
            Row(0, e.ZygoteReady("web", 1)),
            Row(0, e.ListenersClosed()),
            Row(0, e.Scale("other", 1)),
            Row(0, e.Start()),
            Row(0, e.Tick()),
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
            Row(0.5, e.Ready(2), (), (f.WorkerReady(2, "web", 0, 1, 0.5, 0.5), f.ServiceReady(False))),
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
            Row(1, e.Ready(2), (), (f.WorkerReady, f.ServiceReady)),
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
        (START, IMPORTED, FORKED, Row(60, e.Ready(1), (), (f.WorkerReady, f.ServiceReady))),
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
                (f.ZygoteEnded("web", 1, True, "killed", 0.0), f.ZygoteStarted),
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
    "a slot waits for its zygote": (
        ONE,
        (
            *UP,
            Row(10, e.ZygoteGone("web", 1), (c.StartZygote("web", 1),), (f.ZygoteEnded, f.ZygoteStarted)),
            Row(0, e.Exited(1, None, 9), (), (f.WorkerExited, f.RestartScheduled, f.ServiceUnready)),
            Row(1, e.ZygoteReady("web", 1), (spawn(2),), (f.ZygoteIsReady, f.WorkerStarting)),
        ),
    ),
    "more are started and fewer are drained, the youngest slots first": (
        TWO,
        (
            *BOTH_UP,
            Row(0, e.Scale("web", 1), (spawn(3, 2),), (f.Scaled("web", 3, 2), f.WorkerStarting)),
            Row(0, e.Spawned(3), (), (f.WorkerSpawned,)),
            Row(
                0,
                e.Scale("web", -9),
                (c.Drain(3, 27.0), c.Drain(2, 27.0)),
                (f.Scaled("web", 1, 3), f.WorkerDraining, f.WorkerDraining),
            ),
            Row(0, e.Scale("web", -1)),
            Row(
                1,
                e.Exited(2, 0),
                (),
                (exited(2, slot=1, code=0, reason=f.ExitReason.SCALE, asked=True, uptime=2, ready_for=1, drained=1),),
            ),
            Row(26, e.Tick(), (c.Kill(3),), (f.WorkerKilled(3, "web", 2, f.KillReason.DRAIN_TIMEOUT),)),
        ),
    ),
    "a slot that is wanted again need not wait for its last worker to be gone": (
        TWO,
        (
            *BOTH_UP,
            Row(0, e.Scale("web", -1), (c.Drain(2, 27.0),), (f.Scaled, f.WorkerDraining)),
            Row(0, e.Scale("web", 1), (spawn(3, 1),), (f.Scaled, f.WorkerStarting)),
            Row(0, e.Exited(2, None, 11), (), (f.WorkerExited,)),
        ),
    ),
    "a fork in flight that nobody wants any more is killed when it is known": (
        TWO,
        (
            START,
            BOTH_IMPORTED,
            FORKED,
            Row(0, e.Scale("web", -1), (), (f.Scaled,)),
            Row(0, e.Spawned(2), (c.Kill(2),), (f.WorkerSpawned, f.WorkerKilled)),
            Row(0, e.Exited(2, None, 9), (), (f.WorkerExited,)),
        ),
    ),
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
            Row(0, e.Ready(2), (), (f.WorkerReady,)),
            Row(0, e.Leaving(2), (c.Drain(2, 27.0),), (f.RestartScheduled, f.WorkerDraining)),
            Row(0.5, e.Tick(), (spawn(3),), (f.WorkerStarting,)),
            Row(0, e.Spawned(3), (), (f.WorkerSpawned,)),
            Row(0, e.Ready(3), (), (f.WorkerReady,)),
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
    "a primary that was late kills nobody for it": (
        ONE,
        (
            START,
            IMPORTED,
            FORKED,
            Row(160, e.Tick()),
            Row(0.5, e.Ready(1), (), (f.WorkerReady, f.ServiceReady)),
        ),
    ),
    "and not more than once": (
        ONE,
        (START, IMPORTED, FORKED, Row(160, e.Tick()), Row(1, e.Tick(), (c.Kill(1),), (f.WorkerKilled,))),
    ),
    "a primary that was late kills no zygote for it": (
        ONE,
        (START, Row(160, e.ZygoteReady("web", 1), (spawn(1),), (f.ZygoteIsReady, f.WorkerStarting))),
    ),
    "a primary that was late in a drain gives that time back": (
        ONE,
        (
            *UP,
            STOP,
            Row(0, e.ListenersClosed(), (c.Drain(1, 27.0),), (f.PhaseChanged, f.WorkerDraining)),
            Row(60, e.Tick()),
            Row(1, e.Tick(), (c.Kill(1),), (f.WorkerKilled,)),
        ),
    ),
    "a little late is not late": (
        ONE,
        (START, IMPORTED, FORKED, Row(61, e.Tick(), (c.Kill(1),), (f.WorkerKilled,))),
    ),
    "a clock that goes back stands still": (
        ONE,
        (*UP, Row(-100, e.Tick()), Row(100, e.Tick())),
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    policy, rows = HISTORIES[name]
    play(policy, *rows)


def test_a_service_is_ready_when_every_pool_has_enough() -> None:
    policy = service_policy(pool_policy(workers=2, min_ready=2), pool_policy("cpu"))
    supervisor = play(
        policy,
        Row(0, e.Start(), (c.StartZygote("web", 1), c.StartZygote("cpu", 1)), (f.ZygoteStarted, f.ZygoteStarted)),
        Row(0, e.ZygoteReady("web", 1), (spawn(1), spawn(2, 1)), (f.ZygoteIsReady, f.WorkerStarting, f.WorkerStarting)),
        Row(0, e.ZygoteReady("cpu", 1), (c.Spawn(3, "cpu", 0, 1),), (f.ZygoteIsReady, f.WorkerStarting)),
        *(Row(0, e.Spawned(worker), (), (f.WorkerSpawned,)) for worker in (1, 2, 3)),
        Row(0, e.Ready(1), (), (f.WorkerReady,)),
        Row(0, e.Ready(3), (), (f.WorkerReady,)),
        Row(0, e.Ready(2), (), (f.WorkerReady, f.ServiceReady(True))),
        Row(0, e.Scale("web", -1), (c.Drain(2, 27.0),), (f.Scaled, f.WorkerDraining)),
    )
    assert supervisor.view().ready, "fewer are wanted, so fewer are enough"


@pytest.mark.parametrize("then", [OnGiveUp.STOP, OnGiveUp.EXIT])
def test_a_pool_that_gives_up_stays_down_or_takes_the_service_down(then: OnGiveUp) -> None:
    policy = service_policy(pool_policy(give_up_after=1, on_give_up=then))
    gone = (f.WorkerExited, f.SlotGaveUp("web", 0, 1), f.PoolGaveUp("web", then.value, True, None))
    if then is OnGiveUp.STOP:
        last = Row(0, e.Exited(1, None, 9), END_ZYGOTE, (*gone, f.ServiceUnready))
        supervisor = play(policy, *UP, last, Row(0, e.ZygoteGone("web", 1)), Row(10**6, e.Tick()))
        assert supervisor.deadline() is None
        assert supervisor.view().pools[0].given_up
    else:
        reason = "pool web has given up, and its on_give_up is exit"
        stop = (f.StopBegan(False, reason), f.PhaseChanged("draining"), f.ServiceUnready(()))
        play(
            policy,
            *UP,
            Row(0, e.Exited(1, None, 9), (DROP, *END_ZYGOTE), (*gone, *stop)),
            Row(0, e.Stop()),  # an operator who joins in asks for no haste
            Row(0, e.ListenersClosed()),
            Row(0, e.ZygoteGone("web", 1), (c.Exit(1, reason),), (f.Stopped,)),
        )
