"""One worker's table."""

import pytest

from clusterd.core.facts import ExitReason, KillReason
from clusterd.core.lifecycle import LIVING, TRANSITIONS, UNBORN, Do, Input, State, Worker

ALLOWED = {
    (State.SPAWNING, Input.SPAWNED): (State.BOOTING, Do.NOTHING),
    (State.SPAWNING, Input.SPAWN_FAILED): (State.GONE, Do.NOTHING),
    (State.SPAWNING, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.SPAWNING, Input.DRAIN): (State.CANCELLED, Do.CANCEL),
    (State.SPAWNING, Input.KILL): (State.CANCELLED, Do.STOP_ZYGOTE),
    (State.SPAWNING, Input.TIMEOUT): (State.CANCELLED, Do.STOP_ZYGOTE),
    (State.CANCELLED, Input.SPAWNED): (State.KILLING, Do.KILL),
    (State.CANCELLED, Input.SPAWN_FAILED): (State.GONE, Do.NOTHING),
    (State.CANCELLED, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.CANCELLED, Input.KILL): (State.CANCELLED, Do.STOP_ZYGOTE),
    (State.CANCELLED, Input.TIMEOUT): (State.CANCELLED, Do.STOP_ZYGOTE),
    (State.BOOTING, Input.READY): (State.READY, Do.NOTHING),
    (State.BOOTING, Input.LEAVING): (State.DRAINING, Do.DRAIN),
    (State.BOOTING, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.BOOTING, Input.DRAIN): (State.DRAINING, Do.DRAIN),
    (State.BOOTING, Input.KILL): (State.KILLING, Do.KILL),
    (State.BOOTING, Input.TIMEOUT): (State.KILLING, Do.KILL),
    (State.READY, Input.LEAVING): (State.DRAINING, Do.DRAIN),
    (State.READY, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.READY, Input.DRAIN): (State.DRAINING, Do.DRAIN),
    (State.READY, Input.KILL): (State.KILLING, Do.KILL),
    (State.READY, Input.HANG): (State.HUNG, Do.TAKE_STACKS),
    (State.HUNG, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.HUNG, Input.STACKS_TAKEN): (State.KILLING, Do.KILL),
    (State.HUNG, Input.DRAIN): (State.KILLING, Do.KILL),
    (State.HUNG, Input.KILL): (State.KILLING, Do.KILL),
    (State.HUNG, Input.TIMEOUT): (State.KILLING, Do.KILL),
    (State.DRAINING, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.DRAINING, Input.KILL): (State.KILLING, Do.KILL),
    (State.DRAINING, Input.TIMEOUT): (State.KILLING, Do.KILL),
    (State.KILLING, Input.EXITED): (State.GONE, Do.NOTHING),
    (State.KILLING, Input.TIMEOUT): (State.KILLING, Do.ABANDON),
}


def worker(state: State) -> Worker:
    return Worker(1, "web", 0, 1, started_at=0.0, state=state)


@pytest.mark.parametrize("what", Input)
@pytest.mark.parametrize("state", State)
def test_every_state_has_an_answer_to_every_input_and_an_illegal_one_changes_nothing(state: State, what: Input) -> None:
    one = worker(state)
    before = worker(state)
    do = one.step(what)
    if (state, what) in ALLOWED:
        assert (one.state, do) == ALLOWED[state, what]
    else:
        assert (one, do) == (before, Do.NOTHING)


def test_the_table_is_complete() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Input) for row in TRANSITIONS.values())


def test_every_state_can_be_reached_and_left_for_good() -> None:
    for state in State:
        reached, waiting = {state}, [state]
        while waiting:
            following = {to for to, _ in TRANSITIONS[waiting.pop()].values()} - reached
            reached |= following
            waiting += following
        assert State.GONE in reached
        if state is State.SPAWNING:
            assert reached == set(State)


def test_a_state_is_before_the_process_or_with_it_or_after_it() -> None:
    assert UNBORN | LIVING | {State.GONE} == set(State)
    assert not UNBORN & LIVING


@pytest.mark.parametrize(
    ("ready", "left", "asked", "killed", "code", "reason"),
    [
        (False, False, None, None, 1, ExitReason.BOOT),
        (False, False, None, None, 0, ExitReason.BOOT),
        (False, False, None, KillReason.START_TIMEOUT, None, ExitReason.BOOT),
        (False, True, None, None, 0, ExitReason.BOOT),
        (True, False, None, None, 0, ExitReason.VOLUNTARY),
        (True, False, None, None, 3, ExitReason.CRASH),
        (True, False, None, None, None, ExitReason.CRASH),
        (True, True, None, None, 0, ExitReason.VOLUNTARY),
        (True, True, None, None, None, ExitReason.CRASH),  # its channel closed because it died
        (True, True, None, KillReason.DRAIN_TIMEOUT, None, ExitReason.VOLUNTARY),
        (True, False, ExitReason.SCALE, None, None, ExitReason.SCALE),
        (True, False, ExitReason.STOP, KillReason.DRAIN_TIMEOUT, None, ExitReason.STOP),
        (False, False, ExitReason.STOP, None, 0, ExitReason.STOP),
    ],
)
def test_why_it_ended_is_told_apart(
    ready: bool,
    left: bool,
    asked: ExitReason | None,
    killed: KillReason | None,
    code: int | None,
    reason: ExitReason,
) -> None:
    one = worker(State.GONE)
    one.ready_at, one.left, one.asked, one.killed = 1.0 if ready else None, left, asked, killed
    assert one.exit_reason(code) is reason
