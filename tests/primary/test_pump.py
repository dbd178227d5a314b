"""The pump around a real supervisor: nothing in a shell or an observer stops it from going on."""

import asyncio
from typing import Any

from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core.policy import ServicePolicy, StopPolicy
from clusterd.core.supervisor import Supervisor
from clusterd.primary.pump import Pump
from tests.world import pool_policy

DEADLINE = 5.0


def supervisor(start_timeout: float = 60.0) -> Supervisor:
    pool = pool_policy(start_timeout=start_timeout)
    return Supervisor(ServicePolicy((pool,), StopPolicy(0.0, 1.0, 5.0)))


class Shell:
    """Does commands by noting them; answers, at once, those that it has an answer for."""

    def __init__(self, start_timeout: float = 60.0) -> None:
        self.commands: list[c.Command] = []
        self.facts: list[Any] = []
        self.faults: list[str] = []
        self.answers: dict[type, e.Event] = {}
        self.broken = False
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.faults.append(repr(context["exception"])))
        self.changed = asyncio.Event()
        self.pump = Pump(loop, supervisor(start_timeout), self.execute, [self.fault, self.facts.append])

    def fault(self, fact: Any) -> None:
        if self.broken:
            raise RuntimeError("an observer's")

    def execute(self, command: c.Command) -> None:
        self.commands.append(command)
        self.changed.set()
        if type(command) in self.answers:
            self.pump.feed(self.answers[type(command)])
        if self.broken:
            raise RuntimeError("a command's")


def test_an_answer_at_once_is_handled_after_the_event_that_asked() -> None:
    async def main() -> None:
        shell = Shell()
        shell.answers = {c.StartZygote: e.ZygoteReady("web", 1), c.Spawn: e.Spawned(1)}
        shell.pump.feed(e.Start())
        assert [type(command) for command in shell.commands] == [c.StartZygote, c.Spawn]
        shell.pump.close()

    asyncio.run(main())


def test_a_fault_in_an_observer_or_a_command_is_told_and_the_rest_is_done() -> None:
    async def main() -> None:
        shell = Shell()
        shell.answers = {c.StartZygote: e.ZygoteReady("web", 1), c.Spawn: e.Spawned(1)}
        shell.broken = True
        shell.pump.feed(e.Start())
        assert [type(command) for command in shell.commands] == [c.StartZygote, c.Spawn]
        assert len(shell.facts) >= 3
        assert set(shell.faults) == {
            'RuntimeError("an observer\'s")',
            'RuntimeError("a command\'s")',
        }
        shell.pump.close()

    asyncio.run(main())


def test_the_timer_wakes_the_rules_when_their_deadline_has_come() -> None:
    async def main() -> None:
        shell = Shell(start_timeout=0.05)
        shell.pump.feed(e.Start())
        while not any(isinstance(command, c.StopZygote) for command in shell.commands):
            shell.changed.clear()
            await asyncio.wait_for(shell.changed.wait(), DEADLINE)
        shell.pump.close()

    asyncio.run(main())


def test_rules_that_fail_are_broken_from_then_on_and_the_loop_turns() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        loop.set_exception_handler(lambda _, context: told.append(str(context["message"])))

        class Failing:
            def handle(self, event: object, now: float) -> tuple[list[object], list[object]]:
                raise KeyError("a worker that nobody knows")

            def deadline(self) -> float | None:
                return None

        pump = Pump(loop, Failing(), lambda command: None, ())  # type: ignore[arg-type]
        assert pump.broken == ""
        pump.feed(e.Start())
        pump.feed(e.Tick())
        assert "Start" in pump.broken
        assert len(told) == 2
        assert pump.overdue() == 0.0

    asyncio.run(run())
