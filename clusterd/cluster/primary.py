"""The primary's side of ``cluster``: forks workers, answers them, tells what happens, in Node's order."""

import asyncio
import itertools
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import PeerError
from ..wire import messages
from ..wire.channel import Received
from . import settings as settings_of
from .child_process import ChildProcess
from .emitter import Emitter, logger
from .worker import Worker

if TYPE_CHECKING:
    from ..primary.programs import Stdio
    from ..primary.sharing import Sharing

T = TypeVar("T")

SCHED_NONE = 1
SCHED_RR = 2

STEAL_AFTER = 0.02
"""Seconds after which connections that a worker has not taken may go to others."""


class Primary:
    """This process as a primary.

    Args:
        events: ``cluster`` itself, as an emitter.
        workers: ``cluster.workers``, kept here.
        loop: gives the loop that all of it runs on.
        policy: gives ``cluster.scheduling_policy`` as it is now.
    """

    def __init__(
        self,
        events: Emitter,
        workers: dict[int, Worker],
        loop: Callable[[], asyncio.AbstractEventLoop],
        policy: Callable[[], int],
    ) -> None:
        self._events = events
        self._workers = workers
        self._loop = loop
        self._policy = policy
        self._in_turn: bool | None = None
        self._ids = itertools.count(1)
        self._seq = itertools.count()
        self._steal_after: dict[int, float] = {}
        self._living: dict[int, Worker] = {}  # until both its channel and its process have ended
        self._on_empty: list[Callable[[], object]] = []
        self._changed: asyncio.Event | None = None
        self._sharing: Sharing | None = None

    def setup(self, current: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """The next ``cluster.settings``; ``setup`` is emitted for it.

        Raises:
            ValueError: ``cluster.scheduling_policy`` is neither of the two.
        """
        merged = {**settings_of.defaults(), **current, **given}
        if self._in_turn is None:
            policy = self._policy()
            self._in_turn = policy != SCHED_NONE
            if policy not in (SCHED_NONE, SCHED_RR):
                raise ValueError(f"Bad cluster.scheduling_policy: {policy}")
        self._loop().call_soon(self._events.emit, "setup", merged)
        return merged

    # -- birth ---------------------------------------------------------------------------------------------------

    def fork(self, settings: Mapping[str, Any], env: Mapping[str, Any] | None) -> Worker:
        """Start a worker; see ``cluster.fork``."""
        from ..primary.programs import Launch

        number = next(self._ids)
        launch = Launch(
            argv=settings_of.argv(settings),
            env=settings_of.environment(env),
            unique_id=number,
            stdio=[_stdio(entry) for entry in settings_of.stdio(settings)],
            codec=settings_of.codec(settings),
            cwd=None if settings.get("cwd") is None else os.fspath(settings["cwd"]),
            uid=settings_of.number(settings, "uid"),
            gid=settings_of.number(settings, "gid"),
        )
        loop = self._loop()
        process = ChildProcess(loop, lambda received: self._internal(worker, received))
        process.start(launch, self._seq)
        worker = Worker(id=number, process=process)
        worker._actions = self
        # First of its listeners: the cluster hears of a message before those of the worker itself.
        worker.on("message", lambda message, handle: self._events.emit("message", worker, message, handle))
        process.on("disconnect", lambda: self._disconnected(worker))
        process.on("exit", lambda code, signal: self._exited(worker, code, signal))
        self._living[number] = worker
        if "steal_after" in settings:
            self._steal_after[number] = float(settings["steal_after"])
        self._workers[number] = worker
        loop.call_soon(self._events.emit, "fork", worker)
        return worker

    # -- life ----------------------------------------------------------------------------------------------------

    def _internal(self, worker: Worker, received: Received) -> None:
        if received.fd is not None:
            os.close(received.fd)  # no message of the cluster from a worker carries one
        try:
            message = messages.read(received.message)
        except PeerError as error:
            logger.warning("worker %s says something that is not understood: %s", worker.id, error)
            return
        process: ChildProcess = worker.process
        match message:
            case messages.Online():
                worker.state = "online"
                worker.emit("online")
                self._events.emit("online", worker)
            case messages.QueryServer():
                self._query(worker, message)
            case messages.Listening():
                worker.state = "listening"
                worker.emit("listening", message)
                self._events.emit("listening", worker, message)
            case messages.Close(key):
                self._shares().close(worker.id, key)
            case messages.Gate(key, is_open):
                self._shares().gate(worker.id, key, is_open)
            case messages.ExitedAfterDisconnect(seq):
                worker.exited_after_disconnect = True
                process.tell(messages.acknowledgement(seq))
            case _:
                pass

    def _query(self, worker: Worker, query: messages.QueryServer) -> None:
        import errno

        from ..primary.sharing import Member

        process: ChildProcess = worker.process
        assert process.program is not None
        if worker.exited_after_disconnect:  # Node leaves it without an answer, for ever
            process.tell(messages.query_reply(query.seq, "", errno=-errno.ECANCELED))
            return
        in_turn = self._in_turn is not False
        member = Member(worker.id, process.program.talk, in_turn, self._steal_after.get(worker.id, STEAL_AFTER))
        self._shares().query(member, query)

    def _shares(self) -> "Sharing":
        if self._sharing is None:
            from ..primary.sharing import Sharing

            self._sharing = Sharing(self._loop(), logger.warning, lambda worker: None)
        return self._sharing

    # -- the end -------------------------------------------------------------------------------------------------

    def disconnect(self, worker: Worker) -> None:
        """As :meth:`Worker.disconnect`."""
        if not worker.exited_after_disconnect:
            worker.exited_after_disconnect = True
            worker.process.tell(messages.disconnect())
        self._shares().leave(worker.id, gone=False)
        self._workers.pop(worker.id, None)

    def kill(self, worker: Worker, signal: str | int) -> None:
        """As :meth:`Worker.kill`."""
        worker.process.kill(signal)

    def disconnect_all(self, callback: Callable[[], object] | None) -> None:
        """As ``cluster.disconnect``: the callback is called when the last worker has gone."""
        for worker in list(self._workers.values()):
            if worker.is_connected():
                worker.disconnect()
        if callback is not None:
            self._on_empty.append(callback)
        if not self._living:
            self._loop().call_soon(self._look)

    def _disconnected(self, worker: Worker) -> None:
        worker.exited_after_disconnect = bool(worker.exited_after_disconnect)
        worker.state = "disconnected"
        self._shares().leave(worker.id, gone=True)
        self._gone_if_both(worker)
        worker.emit("disconnect")
        self._events.emit("disconnect", worker)
        self._look()

    def _exited(self, worker: Worker, code: int | None, signal: str | None) -> None:
        worker.exited_after_disconnect = bool(worker.exited_after_disconnect)
        worker.state = "dead"
        self._shares().leave(worker.id, gone=True)
        self._gone_if_both(worker)
        worker.emit("exit", code, signal)
        self._events.emit("exit", worker, code, signal)
        self._look()

    def _gone_if_both(self, worker: Worker) -> None:
        if worker.is_dead() and not worker.is_connected():
            self._workers.pop(worker.id, None)
            self._living.pop(worker.id, None)
            self._steal_after.pop(worker.id, None)

    def _look(self) -> None:
        if not self._living:
            callbacks, self._on_empty = self._on_empty, []
            for callback in callbacks:
                callback()
        if self._changed is not None:
            self._changed.set()

    # -- running -------------------------------------------------------------------------------------------------

    async def live(self, main: Coroutine[Any, Any, T] | None) -> T | None:
        """Run ``main``, if there is one, and then until the last worker is gone."""
        self._changed = asyncio.Event()
        result = await main if main is not None else None
        while self._living:
            self._changed.clear()
            await self._changed.wait()
        for _ in range(2):  # what follows from the last event, callbacks among it, may fork
            await asyncio.sleep(0)
        return result if not self._living else await self._rest(result)

    async def _rest(self, result: T | None) -> T | None:
        await self.live(None)
        return result


def _stdio(entry: str | int) -> "Stdio | int":
    from ..primary.programs import Stdio

    if isinstance(entry, int):
        return entry
    return {settings_of.PIPE: Stdio.PIPE, settings_of.IGNORE: Stdio.IGNORE, settings_of.IPC: Stdio.IPC}[entry]
