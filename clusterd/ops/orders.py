"""What operators change over the control socket, each with its outcome: the handlers of every POST."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.events import Event
from clusterd.core.facts import PoolView, SlotView
from clusterd.errors import ClusterdError, UsageError
from clusterd.ops.bodies import MOST_WORKERS, Changed, Ending, Replaced, Running, Scaled, Slotted, Stacks, Verdict
from clusterd.ops.exchange import Answer, Response, error, json
from clusterd.ops.journal import Journal
from clusterd.ops.routes import Call
from clusterd.ops.source import Source

T = TypeVar("T")


class Change(Protocol):
    """One key of the configuration that a reload would change."""

    @property
    def key(self) -> str: ...

    @property
    def before(self) -> str | None: ...

    @property
    def after(self) -> str | None: ...

    @property
    def restart(self) -> bool: ...


class Controls(Protocol):
    """The primary, as far as it can be told something; the composition root supplies it."""

    def command(self, event: Event) -> None:
        """Have the core take in what an operator asks; the facts of it are told before this returns."""

    def stacks(self, worker: int, done: Callable[[str], None]) -> bool:
        """Have ``done`` called, later and once, with a worker's stacks; false if there is no such process."""

    def reload(self, pool: str) -> Awaitable[int | None]:
        """Begin a reload, of one pool or (empty) of all; its generation, ``None``: refused, a fact tells why.

        Raises:
            UsageError: there is no such pool.
        """

    def asked(self) -> Awaitable[None]:
        """Returns when every reload that was asked for until now has begun, or was refused."""

    def changes(self) -> Awaitable[Sequence[Change]]:
        """What a reload would change.

        Raises:
            ClusterdError: the configuration cannot be used.
        """


class Audit(Protocol):
    """Writes one line about something that was changed, or was not allowed."""

    def __call__(self, action: str, *, uid: int | None, pid: int | None, **fields: Any) -> None: ...


class Orders:
    """The handlers.

    Args:
        journal: where facts are heard, and changes told.
        audit: writes the audit line of each change.
    """

    def __init__(self, source: Source, controls: Controls, journal: Journal, audit: Audit) -> None:
        self._source = source
        self._controls = controls
        self._journal = journal
        self._audit = audit
        self._verdict: f.ReloadEnded | None = None
        journal.watch(self._note)

    # -- at once -------------------------------------------------------------------------------------------------

    def scale(self, call: Call) -> Response:
        pool = self._pool(call.path["pool"])
        if pool is None:
            return self._no_pool(call.path["pool"])
        to = (pool.wanted if call.body.to is None else call.body.to) + call.body.by
        if not 1 <= to <= MOST_WORKERS:
            return error(409, f"{to} workers are not possible; a pool has 1 to {MOST_WORKERS}")
        self._controls.command(e.Scale(pool.name, to - pool.wanted))
        now = self._pool(pool.name) or pool
        self.changed(call, "scale", pool=pool.name, wanted=now.wanted, was=pool.wanted)
        if now.wanted != to:
            return error(409, f"pool {pool.name} is not scaled now: the service is {self._source.view().phase}")
        return json(Scaled(pool.name, now.wanted, pool.wanted))

    def shutdown(self, call: Call) -> Response:
        self.changed(call, "shutdown", now=call.body.now)
        self._controls.command(e.Stop(call.body.now))
        return json(Ending(self._source.view().phase))

    def stacks(self, call: Call) -> Answer:
        number = number_of(call)
        later: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def done(text: str) -> None:
            if not later.done():
                later.set_result(json(Stacks(number or 0, text)))

        if number is None or not self._controls.stacks(number, done):
            return no_worker(call)
        self.changed(call, "stacks", worker=number)
        return later

    # -- with an outcome that takes its time ---------------------------------------------------------------------

    async def restart(self, call: Call) -> Response:
        body = call.body
        view = self._source.view()
        pools = [pool for pool in view.pools if body.pool is None or pool.name == body.pool]
        if body.worker is not None:
            pools = [pool for pool in pools if any(one.id == body.worker for one in pool.workers)]
        if not pools:
            return self._no_pool(body.pool) if body.worker is None else no_worker(call, body.worker)
        replaced: list[int] = []
        left: set[int] = set()

        def began(fact: f.Fact) -> None:
            if isinstance(fact, f.WorkerRecycled):
                replaced.append(fact.worker)
                left.add(fact.worker)

        stop = self._journal.watch(began)
        try:
            for pool in pools:
                self._controls.command(e.Restart(pool.name, body.worker))
        finally:
            stop()
        self.changed(call, "restart", pool=body.pool, worker=body.worker, workers=replaced)
        if not replaced and body.worker is not None:
            return error(409, f"worker {body.worker} is not ready, or is being replaced already")

        def ended(fact: f.Fact) -> bool | None:
            if isinstance(fact, f.WorkerExited):
                left.discard(fact.worker)
            return True if not left or isinstance(fact, f.Stopped) else None

        if body.wait and left and await self._outcome(ended, body.timeout) is None:
            return error(504, f"{len(left)} of {len(replaced)} workers were not replaced within {body.timeout:g} s")
        return json(Replaced(tuple(replaced), not left))

    async def stop(self, call: Call) -> Response:
        pool = self._pool(call.path["pool"])
        if pool is None:
            return self._no_pool(call.path["pool"])
        self._controls.command(e.StopPool(pool.name))
        self.changed(call, "stop", pool=pool.name)

        def emptied(fact: f.Fact | None) -> bool | None:
            now = self._pool(pool.name)
            return True if now is None or not now.workers or isinstance(fact, f.Stopped) else None

        now = self._pool(pool.name) or pool
        if not now.stopped:
            return error(409, f"pool {pool.name} is not stopped now: the service is {self._source.view().phase}")
        if call.body.wait and not emptied(None) and await self._outcome(emptied, call.body.timeout) is None:
            return error(504, f"pool {pool.name} still has workers after {call.body.timeout:g} s")
        return self._running(pool.name)

    async def start(self, call: Call) -> Response:
        pool = self._pool(call.path["pool"])
        if pool is None:
            return self._no_pool(call.path["pool"])
        self._controls.command(e.StartPool(pool.name))
        self.changed(call, "start", pool=pool.name)

        def running(fact: f.Fact | None) -> bool | None:
            now = self._pool(pool.name)
            over = isinstance(fact, f.Stopped) or (isinstance(fact, f.PoolGaveUp) and fact.pool == pool.name)
            return True if now is None or now.ready >= now.wanted or over else None

        if call.body.wait and not running(None) and await self._outcome(running, call.body.timeout) is None:
            return error(504, f"pool {pool.name} has not all of its workers ready after {call.body.timeout:g} s")
        return self._running(pool.name)

    async def hold(self, call: Call) -> Response:
        found = self._slot(call)
        if isinstance(found, Response):
            return found
        pool, index = found
        left = {one.id for one in pool.workers if one.slot == index}
        self._controls.command(e.Hold(pool.name, index))
        self.changed(call, "hold", pool=pool.name, slot=index)
        if not any(slot.held for slot in self._slots(pool.name, index)):
            return error(409, f"{pool.name}/{index} is not held now: the service is {self._source.view().phase}")

        def emptied(fact: f.Fact | None) -> bool | None:
            now = self._pool(pool.name)
            there = set() if now is None else {one.id for one in now.workers}
            return True if not left & there or isinstance(fact, f.Stopped) else None

        if call.body.wait and not emptied(None) and await self._outcome(emptied, call.body.timeout) is None:
            return error(504, f"{pool.name}/{index} is held; its worker has not ended after {call.body.timeout:g} s")
        return self._slotted(pool.name, index)

    async def release(self, call: Call) -> Response:
        found = self._slot(call)
        if isinstance(found, Response):
            return found
        pool, index = found
        self._controls.command(e.Release(pool.name, index))
        self.changed(call, "release", pool=pool.name, slot=index)

        def filled(fact: f.Fact | None) -> bool | None:
            now = self._pool(pool.name)
            ready = set() if now is None else {one.id for one in now.workers if one.ready_at is not None}
            slots = self._slots(pool.name, index)
            over = isinstance(fact, f.Stopped) or all(slot.given_up or slot.held for slot in slots)
            return True if over or any(slot.worker in ready for slot in slots) else None

        if call.body.wait and not filled(None) and await self._outcome(filled, call.body.timeout) is None:
            return error(504, f"{pool.name}/{index} has no ready worker after {call.body.timeout:g} s")
        return self._slotted(pool.name, index)

    async def reload(self, call: Call) -> Response:
        if not call.body.begin:
            return await self._verdict_of(call)
        ended: dict[int | None, f.ReloadEnded] = {}
        tried: int | None = -1

        def note(fact: f.Fact) -> None:
            if isinstance(fact, f.ReloadEnded):
                ended[fact.generation] = fact

        stop = self._journal.watch(note)
        try:
            self.changed(call, "reload", pool=call.body.pool)
            try:
                tried = await self._controls.reload(call.body.pool or "")
            except UsageError as problem:
                return error(404, str(problem))
            found = ended.get(tried)
            if found is None and not call.body.wait:
                return json(Verdict(tried, "begun"))
            if found is None:
                found = await self._outcome(lambda fact: ended.get(tried), call.body.timeout)
        finally:
            stop()
        return _told(found, call)

    async def _verdict_of(self, call: Call) -> Response:
        """No change itself: the verdict of the reload that somebody else, or a signal, has asked for."""
        if call.body.pool is not None:
            return error(409, "the verdict is of all pools that are reloaded: leave out pool, or have a reload begin")

        def ended(fact: f.Fact) -> f.ReloadEnded | None:
            # One that is superseded is followed by another at once.
            return fact if isinstance(fact, f.ReloadEnded) and fact.verdict is not f.Verdict.SUPERSEDED else None

        await self._controls.asked()
        under_way = self._source.view().reload
        if under_way is None:
            if self._verdict is None:
                return error(409, "there was no reload since this primary has started")
            return _told(self._verdict, call)
        if not call.body.wait:
            return json(Verdict(under_way.generation, "begun"))
        return _told(await self._outcome(ended, call.body.timeout), call)

    async def changes(self, call: Call) -> Response:
        """No change itself: what a reload would do."""
        try:
            found = await self._controls.changes()
        except ClusterdError as problem:
            return error(409, str(problem))
        return json([Changed(one.key, one.before, one.after, one.restart) for one in found])

    # -- small things --------------------------------------------------------------------------------------------

    def _note(self, fact: f.Fact) -> None:
        if isinstance(fact, f.ReloadEnded):
            self._verdict = fact

    async def _outcome(self, decide: Callable[[f.Fact], T | None], timeout: float) -> T | None:
        """What ``decide`` makes of the first fact of which it makes something; ``None``: none came in time."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def tell(fact: f.Fact) -> None:
            if not future.done() and (found := decide(fact)) is not None:
                future.set_result(found)

        stop = self._journal.watch(tell)
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            return None
        finally:
            stop()

    def _pool(self, name: str) -> PoolView | None:
        return next((pool for pool in self._source.view().pools if pool.name == name), None)

    def _running(self, name: str) -> Response:
        pool = self._pool(name)
        if pool is None:
            return self._no_pool(name)
        return json(Running(name, pool.wanted, pool.ready, pool.given_up))

    def _slots(self, pool: str, index: int) -> list[SlotView]:
        """The one slot, or none if there is not that one any more."""
        found = self._pool(pool)
        return [] if found is None else [slot for slot in found.slots if slot.index == index < found.wanted]

    def _slot(self, call: Call) -> tuple[PoolView, int] | Response:
        """The slot that the path means, or why there is none."""
        pool, text = self._pool(call.path["pool"]), call.path["slot"]
        if pool is None:
            return self._no_pool(call.path["pool"])
        index = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if self._slots(pool.name, index):
            return pool, index
        there = f"its slots are 0 to {pool.wanted - 1}" if pool.wanted else "it is to have no workers now"
        return error(404, f"pool {pool.name} has no slot {text!r:.100}; {there}")

    def _slotted(self, pool: str, index: int) -> Response:
        for slot in self._slots(pool, index):
            return json(Slotted(pool, index, slot.held, slot.worker))
        return error(404, f"slot {pool}/{index} has gone meanwhile")

    def _no_pool(self, name: str | None) -> Response:
        pools = ", ".join(pool.name for pool in self._source.view().pools)
        return error(404, f"there is no pool {name!r:.100}; there are {pools}")

    def changed(self, call: Call, action: str, **fields: Any) -> None:
        """Somebody changes something: a line in the log and an event."""
        peer = call.peer
        uid, pid = (None, None) if peer is None else (peer.uid, peer.pid)
        said = {name: value for name, value in fields.items() if value is not None}
        self._audit(action, uid=uid, pid=pid, role=call.role.title, **said)
        self._journal.event("info", "audit", {"action": action, "uid": uid, "pid": pid, **said})


def _told(found: f.ReloadEnded | None, call: Call) -> Response:
    """A verdict; ``None``: there was none in time."""
    if found is None:
        return error(504, f"no verdict within {call.body.timeout:g} s; the reload goes on, `clusterd events` tells")
    return json(Verdict(found.generation, found.verdict.value, found.reason, found.report, round(found.took, 3)))


def number_of(call: Call) -> int | None:
    """The worker's id in the path; ``None``: it is no number."""
    text = call.path["worker"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def no_worker(call: Call, worker: int | None = None) -> Response:
    """There is none of that id."""
    which = call.path["worker"] if worker is None else str(worker)
    return error(404, f"there is no worker {which!r:.100} now; the status has those that live")
