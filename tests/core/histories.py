"""How a history is told: what happens, what is then to be done, and what has become true."""

from dataclasses import dataclass

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.policy import ServicePolicy
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


def admit(worker: int, slot: int = 0) -> c.Admit:
    return c.Admit(worker, slot)


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
READY = Row(1, e.Ready(1), (admit(1),), (f.WorkerReady(1, "web", 0, 1, 1.0, None), f.ServiceReady(True)))
UP = (START, IMPORTED, FORKED, READY)

BOTH_IMPORTED = Row(
    1, e.ZygoteReady("web", 1), (spawn(1), spawn(2, 1)), (f.ZygoteIsReady, f.WorkerStarting, f.WorkerStarting)
)
BOTH_UP = (
    START,
    BOTH_IMPORTED,
    FORKED,
    Row(0, e.Spawned(2), (), (f.WorkerSpawned,)),
    Row(1, e.Ready(1), (admit(1),), (f.WorkerReady, f.ServiceReady)),
    Row(0, e.Ready(2), (admit(2, 1),), (f.WorkerReady,)),
)
CLOSE, DROP = c.CloseListeners(hand_on=True), c.CloseListeners(hand_on=False)
STOP = Row(
    1, e.Stop(), (CLOSE,), (f.StopBegan(False, "asked to stop"), f.PhaseChanged("closing"), f.ServiceUnready(()))
)
END_ZYGOTE = (c.StopZygote("web", 1),)

History = tuple[ServicePolicy, tuple[Row, ...]]
"""A policy, and what happens under it."""
