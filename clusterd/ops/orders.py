"""What operators change over the control socket, each with its outcome: the handlers of every POST."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.core.events import Event
from clusterd.core.facts import PoolView
from clusterd.errors import ClusterdError, UsageError
from clusterd.ops.exchange import Answer, Response, error, json
from clusterd.ops.journal import Journal
from clusterd.ops.routes import Call
from clusterd.ops.source import Source

MOST_WORKERS: Final = 4096
"""That a pool can be scaled to: a slip of the hand must not be a fork bomb."""

T = TypeVar("T")
Span = Annotated[float, Meta(gt=0, le=86_400, description="seconds to wait for the outcome, at most")]
Wait = Annotated[bool, Meta(description="answer when there is an outcome, and not when it has begun")]


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

    def changes(self) -> Awaitable[Sequence[Change]]:
        """What a reload would change.

        Raises:
            ClusterdError: the configuration cannot be used.
        """


class Audit(Protocol):
    """Writes one line about something that was changed, or was not allowed."""

    def __call__(self, action: str, *, uid: int | None, pid: int | None, **fields: Any) -> None: ...


class ScaleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many workers: ``to`` (or as many as there are to be now), and ``by`` more."""

    to: Annotated[Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | None, Meta(description="this many")] = None
    by: Annotated[int, Meta(ge=-MOST_WORKERS, le=MOST_WORKERS, description="so many more, or fewer")] = 0


class ShutdownBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the service is to end."""

    now: Annotated[bool, Meta(description="without a drain")] = False


class WaitBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to wait for the outcome."""

    wait: Wait = True
    timeout: Span = 300.0


class RestartBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to be replaced: all, those of a pool, or one worker."""

    pool: Annotated[str | None, Meta(description="only this pool's workers")] = None
    worker: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="only this worker, by id")] = None
    wait: Wait = True
    timeout: Span = 300.0


class ReloadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be reloaded."""

    pool: Annotated[str | None, Meta(description="only this pool")] = None
    wait: Wait = True
    timeout: Span = 600.0


class Scaled(msgspec.Struct, frozen=True):
    """What became of it."""

    pool: str
    wanted: Annotated[int, Meta(description="workers it is to have")]
    was: Annotated[int, Meta(description="workers it was to have before")]


class Ending(msgspec.Struct, frozen=True):
    """What became of it."""

    state: Annotated[str, Meta(description="the service's state now")]


class Stacks(msgspec.Struct, frozen=True):
    """What a worker showed."""

    worker: int
    stacks: Annotated[str, Meta(description="of its threads and its event loop's tasks, for people; untrusted")]


class Replaced(msgspec.Struct, frozen=True):
    """What became of it."""

    workers: Annotated[tuple[int, ...], Meta(description="those that are to be replaced, by id")]
    done: Annotated[bool, Meta(description="all of them have been, each by one that was ready before")]


class Running(msgspec.Struct, frozen=True):
    """What became of it."""

    pool: str
    wanted: Annotated[int, Meta(description="workers it is to have")]
    ready: Annotated[int, Meta(description="workers that are ready")]
    given_up: Annotated[bool, Meta(description="its workers ended too often too soon")] = False


class Verdict(msgspec.Struct, frozen=True):
    """How a reload ended."""

    generation: Annotated[int | None, Meta(description="what was tried; null where nothing was")]
    verdict: Annotated[str, Meta(description="promoted, rolled_back, superseded, stopped, refused; begun: none yet")]
    reason: Annotated[str, Meta(description="one sentence")] = ""
    report: Annotated[str, Meta(description="what there is to read, a traceback as a rule")] = ""
    took: Annotated[float, Meta(description="seconds")] = 0.0


class Changed(msgspec.Struct, frozen=True):
    """One key that a reload would change; values as they stand in a file."""

    key: str
    before: Annotated[str | None, Meta(description="null: it was not there")]
    after: Annotated[str | None, Meta(description="null: it is gone")]
    restart: Annotated[bool, Meta(description="a reload does not do it: it takes a restart")]


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

    async def reload(self, call: Call) -> Response:
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
        if found is None:
            return error(504, f"no verdict within {call.body.timeout:g} s; the reload goes on, `clusterd events` tells")
        return json(Verdict(found.generation, found.verdict.value, found.reason, found.report, round(found.took, 3)))

    async def changes(self, call: Call) -> Response:
        """No change itself: what a reload would do."""
        try:
            found = await self._controls.changes()
        except ClusterdError as problem:
            return error(409, str(problem))
        return json([Changed(one.key, one.before, one.after, one.restart) for one in found])

    # -- small things --------------------------------------------------------------------------------------------

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


def number_of(call: Call) -> int | None:
    """The worker's id in the path; ``None``: it is no number."""
    text = call.path["worker"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def no_worker(call: Call, worker: int | None = None) -> Response:
    """There is none of that id."""
    which = call.path["worker"] if worker is None else str(worker)
    return error(404, f"there is no worker {which!r:.100} now; the status has those that live")
