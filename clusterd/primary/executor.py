"""A method per command: does it, and owes the core its one answer, also for what it has never known."""

import asyncio
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from ..core import commands as c
from ..core import events as e
from ..spawner.client import Parts, Plan, ZygoteClient
from .children import Children
from .editions import Editions
from .handover import ZygoteState
from .listeners import Listeners
from .printed import Printed
from .renewal import Renewals


class Executor:
    """Executes the core's commands.

    Args:
        loop: the primary's loop.
        editions: what zygotes and workers of each pool and generation are made with.
        children: the workers' processes.
        listeners: the listening sockets.
        report: takes events for the core.
        printed: makes what reads the output of a pool's zygote.
        on_warning: called with pool and sentence.
        on_renewed: called when the zygote that another version of this code has started is replaced, or could not be:
            see :class:`~.renewal.Renewals`.
        on_settle: called with a generation, whether it was promoted, and what to call when that is done.
        on_exit: called with code and reason by the last command.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        editions: Editions,
        children: Children,
        listeners: Listeners,
        report: Callable[[e.Event], None],
        printed: Callable[[str], Printed],
        on_warning: Callable[[str, str], None],
        on_renewed: Callable[[str, int, bool, float, str], None],
        on_settle: Callable[[int, bool, Callable[[], None]], None],
        on_exit: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._editions = editions
        self._children = children
        self._listeners = listeners
        self._report = report
        self._new_printed = printed
        self._on_warning = on_warning
        self._on_settle = on_settle
        self._on_exit = on_exit
        self._zygotes: dict[tuple[str, int], ZygoteClient] = {}
        self._names: dict[ZygoteClient, tuple[str, int]] = {}
        self._printed: dict[ZygoteClient, Printed] = {}
        self._renewals = Renewals(self._client, self._renewed, on_renewed, self._gone, loop.time)
        self._untouched: Container[str] | None = None

    def __call__(self, command: c.Command) -> None:
        """Do one command."""
        match command:
            case c.StartZygote(pool, generation):
                self._start_zygote(pool, generation)
            case c.StopZygote(pool, generation):
                self._stop_zygote(pool, generation)
            case c.Spawn():
                self._spawn(command)
            case c.Admit(worker, slot):
                if worker in self._children.by_id:
                    self._children.admit(worker, slot)
            case c.TakeStacks(worker):
                if not self._children.stacks(worker, lambda text: self._report(e.StacksTaken(worker, text))):
                    self._report(e.StacksTaken(worker))
            case c.Settle(generation, promoted):
                self._on_settle(generation, promoted, lambda: self._report(e.Settled(generation)))
            case c.Drain(worker):
                if worker in self._children.by_id:
                    self._children.drain(worker)
                else:
                    self._report(e.Exited(worker))
            case c.Kill(worker):
                if not self._children.kill(worker):
                    self._report(e.Exited(worker))
            case c.CloseListeners(hand_on):
                listeners, scripts = self._listeners, self._children.scripts  # then those that scripts have asked for
                listeners.close(hand_on, lambda: scripts.close(hand_on, lambda: self._report(e.ListenersClosed())))
            case c.Exit(code, reason):
                self._on_exit(code, reason)

    @property
    def spawning(self) -> bool:
        """A fork is on its way: there may be a child that nobody has told us of yet."""
        return any(client.busy for client in self._zygotes.values())

    @property
    def quiet(self) -> bool:
        """No fork is on its way or waits for its turn."""
        return all(client.quiet for client in self._zygotes.values())

    def zygote_pids(self) -> set[int]:
        """The pids of all zygotes that live."""
        return {client.pid for client in self._zygotes.values()} | self._renewals.pids()

    def _client(self, pool: str, generation: int, plan: Plan | None = None) -> ZygoteClient:
        printed = self._new_printed(pool)
        client = ZygoteClient(self._loop, plan or self._editions[pool, generation].plan, self, printed.open)
        self._names[client], self._printed[client] = (pool, generation), printed
        return client

    def _start_zygote(self, pool: str, generation: int) -> None:
        client = self._zygotes[pool, generation] = self._client(pool, generation)
        client.start()

    def _stop_zygote(self, pool: str, generation: int) -> None:
        self._renewals.drop((pool, generation))
        client = self._zygotes.get((pool, generation))
        if client is not None:  # else its end has been told already, and is told once
            client.stop()

    def _spawn(self, command: c.Spawn) -> None:
        client = self._zygotes.get((command.pool, command.generation))
        if client is None:
            self._report(e.SpawnFailed(command.worker, "there is no zygote", zygote_gone=True))
            return

        def prepare() -> Parts:
            return self._children.prepare(command, self._editions[command.pool, command.generation])

        client.spawn(command.worker, prepare)

    # -- a successor of this process -----------------------------------------------------------------------------

    def describe(self) -> tuple[ZygoteState, ...]:
        """All zygotes, for it; of an executor that is quiet."""
        return tuple(
            ZygoteState(*key, client.describe(), *self._printed[client].describe())
            for key, client in self._zygotes.items()
        )

    def take_up(self, left: Sequence[ZygoteState]) -> None:
        """The zygotes of a predecessor of this process are ours."""
        for one in left:
            key, load = (one.pool, one.generation), one.process.load
            # One that no worker will be made of any more is not started again either.
            plan = replace(self._editions[key].plan, load=load) if key in self._editions else Plan(load, {})
            client = self._zygotes[key] = self._client(*key, plan)
            self._printed[client].take_up(one.outputs, one.last_lines)
            client.take_up(one.process)

    def renew(self, untouched: Container[str]) -> None:
        """Build those zygotes anew that another version of this code has started: each goes on until its successor is
        ready, and if that fails.

        Args:
            untouched: the pools whose code is another one by now, and no good: their zygotes stay.
        """
        self._untouched = untouched
        for key, client in self._zygotes.items():
            if client.taken_up and client.ready and key[0] not in untouched and key in self._editions:
                self._renewals.begin(key)

    def bury(self) -> None:
        """This process is about to be another program, which begins anew with what was not done."""
        self._renewals.drop_all()

    def _renewed(self, key: tuple[str, int], client: ZygoteClient) -> bool:
        """A zygote's successor is ready; whether it has taken the place."""
        before = self._zygotes.get(key)
        if before is None or not before.idle:
            return False
        self._zygotes[key] = client
        client.hand_to(self)
        self._adopt_workers(key, client)
        self._renewals.retire(before)
        return True

    def _gone(self, client: ZygoteClient) -> None:
        self._printed.pop(client).words()
        del self._names[client]

    def _adopt_workers(self, key: tuple[str, int], client: ZygoteClient) -> None:
        """Workers whose zygote is gone, or about to go, are its own."""
        own = [one for one in self._children.by_id.values() if (one.pool, one.generation) == key and one.pidfd >= 0]
        client.adopt([(one.pid, one.pidfd, one.board.fd) for one in own])

    # -- what zygotes say ----------------------------------------------------------------------------------------

    def zygote_ready(self, client: ZygoteClient, preloaded: bool, warning: str) -> None:
        pool, generation = self._names[client]
        self._adopt_workers((pool, generation), client)
        if warning:
            how = "forking from there all the same" if preloaded else "each worker imports the app for itself instead"
            self._on_warning(pool, f"{warning}; {how} (preload)")
        self._report(e.ZygoteReady(pool, generation, preloaded))
        if client.taken_up and self._untouched is not None:
            self.renew(self._untouched)

    def zygote_failed(self, client: ZygoteClient, report: str) -> None:
        words = self._in_its_own_words(client, report)
        self._report(e.ZygoteFailed(*self._forget(client), words))

    def zygote_gone(self, client: ZygoteClient, report: str) -> None:
        words = self._in_its_own_words(client, report)
        self._report(e.ZygoteGone(*self._forget(client), words))

    def _in_its_own_words(self, client: ZygoteClient, report: str) -> str:
        """A zygote that died without a report has perhaps printed why."""
        words = self._printed[client].words()
        return report if client.told or not words else "\n".join([f"{report}; its last output:", *words])

    def _forget(self, client: ZygoteClient) -> tuple[str, int]:
        name = self._names.pop(client)
        del self._zygotes[name], self._printed[client]
        self._renewals.drop(name)
        return name

    def spawned(self, worker: int, pid: int, fd: int) -> None:
        if pid in self.zygote_pids() or any(child.pid == pid for child in self._children.by_id.values()):
            os.close(fd)  # it is our child, but not by this birth: whoever says so is not to be believed again
            self.spawn_failed(worker, f"the zygote passed off process {pid} as a new worker", zygote_gone=True)
        else:
            self._children.born(worker, pid, fd)
        self._renewals.look()

    def spawn_failed(self, worker: int, report: str, zygote_gone: bool) -> None:
        self._children.unborn(worker)
        self._report(e.SpawnFailed(worker, report, zygote_gone))
        self._renewals.look()
