"""What concerns all: scaling, lateness, readiness, words that come too late, pools that give up."""

import pytest

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import OnGiveUp
from tests.core.histories import (
    BOTH_IMPORTED,
    BOTH_UP,
    CLOSE,
    DROP,
    END_ZYGOTE,
    FORKED,
    IMPORTED,
    ONE,
    START,
    STOP,
    TWO,
    UP,
    History,
    Row,
    admit,
    exited,
    play,
    spawn,
)
from tests.world import pool_policy, service_policy

HISTORIES: dict[str, History] = {
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
    "what is overdue together is dealt with together": (
        ONE,
        (
            *UP,
            Row(0, e.Exited(1, None, 9), (), (f.WorkerExited, f.RestartScheduled, f.ServiceUnready)),
            Row(0.25, e.Tick(), (spawn(2),), (f.WorkerStarting,)),
            Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
            Row(0, e.Ready(2), (admit(2),), (f.WorkerReady, f.ServiceReady)),
            Row(10, e.Tick(), (), (f.SlotHealthy,)),
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
    "a primary that was late kills nobody for it": (
        ONE,
        (
            START,
            IMPORTED,
            FORKED,
            Row(160, e.Tick()),
            Row(0.5, e.Ready(1), (admit(1),), (f.WorkerReady, f.ServiceReady)),
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
    "a primary that was late in closing gives that time back": (
        ONE,
        (
            *UP,
            STOP,
            Row(60, e.Tick()),
            Row(0.5, e.ListenersClosed(), (c.Drain(1, 0.5),), (f.PhaseChanged("draining"), f.WorkerDraining)),
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
        Row(0, e.Ready(1), (admit(1),), (f.WorkerReady,)),
        Row(0, e.Ready(3), (admit(3),), (f.WorkerReady,)),
        Row(0, e.Ready(2), (admit(2, 1),), (f.WorkerReady, f.ServiceReady(True))),
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


def test_a_slot_that_gave_up_in_a_pool_that_never_worked_is_not_tried_again() -> None:
    play(
        service_policy(pool_policy(workers=2, give_up_after=1, max_delay=1.0)),
        START,
        BOTH_IMPORTED,
        FORKED,
        Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
        Row(0, e.Exited(1, 1), (), (f.WorkerExited, f.SlotGaveUp)),
        Row(1, e.Tick()),
        Row(50, e.Tick()),
        Row(
            0,
            e.Exited(2, 1),
            (DROP, *END_ZYGOTE),
            (f.WorkerExited, f.SlotGaveUp, f.PoolGaveUp, f.StopBegan, f.PhaseChanged),
        ),
    )


def test_a_pool_that_never_worked_goes_down_alone_while_the_others_end_in_order() -> None:
    policy = service_policy(pool_policy(), pool_policy("cpu", give_up_after=1, max_delay=1.0))
    gone = (f.WorkerExited, f.SlotGaveUp, f.PoolGaveUp("cpu", "exit", False, None))
    play(
        policy,
        Row(0, e.Start(), (c.StartZygote("web", 1), c.StartZygote("cpu", 1)), (f.ZygoteStarted, f.ZygoteStarted)),
        Row(0, e.ZygoteReady("web", 1), (spawn(1),), (f.ZygoteIsReady, f.WorkerStarting)),
        Row(0, e.ZygoteReady("cpu", 1), (c.Spawn(2, "cpu", 0, 1),), (f.ZygoteIsReady, f.WorkerStarting)),
        FORKED,
        Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
        Row(0, e.Ready(1), (admit(1),), (f.WorkerReady,)),
        Row(0, e.Exited(2, 1), (CLOSE, c.StopZygote("cpu", 1)), (*gone, f.StopBegan, f.PhaseChanged("closing"))),
        Row(0, e.ZygoteGone("cpu", 1)),
        Row(2, e.Tick()),
        Row(0, e.Stop()),
        Row(0, e.ListenersClosed(), (c.Drain(1, 25.0),), (f.PhaseChanged("draining"), f.WorkerDraining)),
    )


def test_an_end_that_is_not_rapid_breaks_a_run_of_those_that_are_even_if_the_tick_before_it_came_late() -> None:
    again = (f.WorkerReady, f.ServiceReady)
    gone = (f.WorkerExited, f.RestartScheduled, f.ServiceUnready)
    play(
        service_policy(pool_policy(give_up_after=2)),
        *UP,
        Row(0.5, e.Exited(1, 1), (), gone),
        Row(0.25, e.Tick(), (spawn(2),), (f.WorkerStarting,)),
        Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
        Row(0, e.Ready(2), (admit(2),), again),
        Row(1.5, e.Exited(2, 1), (), gone),
        Row(0.5, e.Tick(), (spawn(3),), (f.WorkerStarting,)),
        Row(0, e.Spawned(3), (), (f.WorkerSpawned,)),
        Row(0, e.Ready(3), (admit(3),), again),
        Row(0.5, e.Exited(3, 1), (), gone),
    )
