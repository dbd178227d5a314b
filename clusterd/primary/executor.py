"""A method per command: does it, and owes the core its one answer, also for what it has never known."""

import asyncio
import os
from collections.abc import Callable

from ..core import commands as c
from ..core import events as e
from ..spawner.client import Parts, ZygoteClient
from .children import Children
from .editions import Editions
from .listeners import Listeners


class Executor:
    """Executes the core's commands.

    Args:
        loop: the primary's loop.
        editions: what zygotes and workers of each pool and generation are made with.
        children: the workers' processes.
        listeners: the listening sockets.
        report: takes events for the core.
        zygote_output: gives the descriptors that the zygote of a pool and generation prints to.
        zygote_words: gives the last lines that it has printed, when it has ended.
        on_warning: called with pool and sentence.
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
        zygote_output: Callable[[str, int], tuple[int, int]],
        zygote_words: Callable[[str, int], list[str]],
        on_warning: Callable[[str, str], None],
        on_settle: Callable[[int, bool, Callable[[], None]], None],
        on_exit: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._editions = editions
        self._children = children
        self._listeners = listeners
        self._report = report
        self._zygote_output = zygote_output
        self._zygote_words = zygote_words
        self._on_warning = on_warning
        self._on_settle = on_settle
        self._on_exit = on_exit
        self._zygotes: dict[tuple[str, int], ZygoteClient] = {}
        self._names: dict[ZygoteClient, tuple[str, int]] = {}

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

    def bury(self) -> None:
        """End all zygotes, and hear no more of them: this process is about to be another program."""
        for client in self._zygotes.values():
            client.bury()

    def zygote_pids(self) -> set[int]:
        """The pids of all zygotes that live."""
        return {client.pid for client in self._zygotes.values()}

    def _start_zygote(self, pool: str, generation: int) -> None:
        plan = self._editions[pool, generation].plan
        client = ZygoteClient(self._loop, plan, self, lambda: self._zygote_output(pool, generation))
        self._zygotes[pool, generation] = client
        self._names[client] = (pool, generation)
        client.start()

    def _stop_zygote(self, pool: str, generation: int) -> None:
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

    # -- what zygotes say ----------------------------------------------------------------------------------------

    def zygote_ready(self, client: ZygoteClient, preloaded: bool, warning: str) -> None:
        pool, generation = self._names[client]
        if warning:
            how = "forking from there all the same" if preloaded else "each worker imports the app for itself instead"
            self._on_warning(pool, f"{warning}; {how} (preload)")
        self._report(e.ZygoteReady(pool, generation, preloaded))

    def zygote_failed(self, client: ZygoteClient, report: str) -> None:
        pool, generation = self._forget(client)
        self._report(e.ZygoteFailed(pool, generation, self._in_its_own_words(client, report, pool, generation)))

    def zygote_gone(self, client: ZygoteClient, report: str) -> None:
        pool, generation = self._forget(client)
        self._report(e.ZygoteGone(pool, generation, self._in_its_own_words(client, report, pool, generation)))

    def _in_its_own_words(self, client: ZygoteClient, report: str, pool: str, generation: int) -> str:
        """A zygote that died without a report has perhaps printed why."""
        words = self._zygote_words(pool, generation)
        return report if client.told or not words else "\n".join([f"{report}; its last output:", *words])

    def _forget(self, client: ZygoteClient) -> tuple[str, int]:
        name = self._names.pop(client)
        del self._zygotes[name]
        return name

    def spawned(self, worker: int, pid: int, fd: int) -> None:
        if pid in self.zygote_pids() or any(child.pid == pid for child in self._children.by_id.values()):
            os.close(fd)  # it is our child, but not by this birth: whoever says so is not to be believed again
            self.spawn_failed(worker, f"the zygote passed off process {pid} as a new worker", zygote_gone=True)
        else:
            self._children.born(worker, pid, fd)

    def spawn_failed(self, worker: int, report: str, zygote_gone: bool) -> None:
        self._children.unborn(worker)
        self._report(e.SpawnFailed(worker, report, zygote_gone))
