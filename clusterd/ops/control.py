"""What can be asked over the control socket: the routes under ``/v1``, and who is told of what they changed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from clusterd.core import events as e
from clusterd.core.events import Event
from clusterd.ops.admin import health_routes
from clusterd.ops.describe import Described, describe
from clusterd.ops.exchange import Answer, Answerer, Request, Response, Stream, error, json
from clusterd.ops.journal import Journal
from clusterd.ops.recent import MAX_LINES, Choice, Shown
from clusterd.ops.roles import Role, Roles
from clusterd.ops.routes import Call, Route, router
from clusterd.ops.source import Rated, Source
from clusterd.ops.status import About, Status, encode, status

MAX_FOLLOWERS = 32
"""Streams at the same time: connections stay free for short questions."""

MOST_WORKERS = 4096
"""That a pool can be scaled to: a slip of the hand must not be a fork bomb."""

NO_POOL = {404: "There is no such pool."}
NO_WORKER = {404: "There is no such worker."}
TOO_MANY = {503: "Too many follow already."}


class Controls(Protocol):
    """The primary, as far as it can be told something; the composition root supplies it."""

    def command(self, event: Event) -> None:
        """Have the core take in what an operator asks; the facts of it are told before this returns."""

    def stacks(self, worker: int, done: Callable[[str], None]) -> bool:
        """Have ``done`` called, later and once, with a worker's stacks; false if there is no such process."""


class Audit(Protocol):
    """Writes one line about something that was changed, or was not allowed."""

    def __call__(self, action: str, *, uid: int | None, pid: int | None, **fields: Any) -> None: ...


class Flag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of the health checks."""

    verbose: Annotated[str | None, Meta(description="present: a line for each slot too")] = None


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of the events."""

    last: Annotated[int, Meta(ge=0, le=1000, description="events that there were already")] = 50
    follow: Annotated[bool, Meta(description="go on with those that come")] = False


class LogsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of the output."""

    pool: Annotated[str | None, Meta(description="only this pool's")] = None
    slot: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="only this slot's")] = None
    worker: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="only this worker's, by id")] = None
    lines: Annotated[int, Meta(ge=0, le=MAX_LINES, description="lines that there were already")] = 50
    since: Annotated[
        Annotated[float, Meta(ge=0, le=1e9)] | None, Meta(description="none older than so many seconds")
    ] = None
    follow: Annotated[bool, Meta(description="go on with those that come")] = False


class CrashesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of the crash reports."""

    last: Annotated[int, Meta(ge=0, le=100, description="how many")] = 5


class ScaleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many workers: ``to`` (or as many as there are to be now), and ``by`` more."""

    to: Annotated[Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | None, Meta(description="this many")] = None
    by: Annotated[int, Meta(ge=-MOST_WORKERS, le=MOST_WORKERS, description="so many more, or fewer")] = 0


class ShutdownBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the service is to end."""

    now: Annotated[bool, Meta(description="without a drain")] = False


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


class Control:
    """The routes and what they do.

    Args:
        journal: what has happened; also told of by changes.
        audit: writes the audit line of each change.
    """

    def __init__(
        self, source: Source, about: About, controls: Controls, journal: Journal, rates: Rated | None, audit: Audit
    ) -> None:
        self._source = source
        self._about = about
        self._controls = controls
        self._journal = journal
        self._rates = rates
        self._audit = audit
        self.routes = self._routes()
        self._document: dict[str, Any] | None = None

    def answers(self, roles: Roles) -> Answerer:
        """What answers at a socket at which these are the roles."""
        return router(self.routes, roles, self._refused)

    def _routes(self) -> Sequence[Route]:
        see, run, end = Role.OBSERVER, Role.OPERATOR, Role.ADMIN
        return (
            Route("GET", "/v1/status", see, "The service, its pools, its workers.", self._status, Status),
            Route(
                "GET", "/v1/workers/{worker}", see, "One worker in full.", self._describe, Described, fails=NO_WORKER
            ),
            Route(
                "GET", "/v1/events", see, "What has happened, one event a line.", self._events, dict[str, Any],
                EventsQuery, fails=TOO_MANY, streams=True,
            ),
            Route(
                "GET", "/v1/logs", see, "What the workers printed, one line a line.", self._logs, Shown, LogsQuery,
                fails=TOO_MANY, streams=True,
            ),
            Route(
                "GET", "/v1/crashes", see, "The last crash reports, one a line.", self._crashes, dict[str, Any],
                CrashesQuery, streams=True,
            ),
            Route(
                "POST", "/v1/pools/{pool}/scale", run, "More or fewer workers.", self._scale, Scaled, body=ScaleBody,
                fails={**NO_POOL, 409: "It cannot be scaled so."},
            ),
            Route(
                "POST", "/v1/workers/{worker}/stacks", run, "What its threads and tasks are doing; it is not stopped.",
                self._stacks, Stacks, fails=NO_WORKER,
            ),
            Route(
                "POST", "/v1/shutdown", end, "The service ends.", self._shutdown, Ending, body=ShutdownBody,
            ),
            Route("GET", "/v1/openapi.json", see, "This document.", self._openapi, dict[str, Any]),
            *self._health(),
        )  # fmt: skip

    def _health(self) -> list[Route]:
        said = {
            "/livez": "Whether the primary works.",
            "/readyz": "Whether the service is ready.",
            "/startupz": "Whether the service was ready once.",
        }
        routes = []
        for path, handler in health_routes(self._source).items():

            def ask(call: Call, path: str = path, handler: Callable[[Request], Response] = handler) -> Response:
                query = {} if call.query.verbose is None else {"verbose": ""}
                return handler(Request("GET", path, query, {}, b"", call.peer))

            routes.append(
                Route(
                    "GET", path, Role.OBSERVER, said[path], ask, str, Flag,
                    fails={503: "It is not; a line says why."}, text=True,
                )
            )  # fmt: skip
        return routes

    # -- what is -------------------------------------------------------------------------------------------------

    def _status(self, call: Call) -> Response:
        return Response(200, encode(status(self._about, self._source, self._rates)), "application/json")

    def _openapi(self, call: Call) -> Response:
        if self._document is None:
            from clusterd.ops import openapi  # what makes schemas is not loaded before somebody asks for one

            self._document = openapi.document(self.routes, self._about.version)
        return json(self._document)

    def _describe(self, call: Call) -> Response:
        number = self._number(call)
        found = None if number is None else describe(number, self._source, self._journal, self._rates)
        return self._no_worker(call) if found is None else json(found)

    def _events(self, call: Call) -> Answer:
        if call.query.follow and self._journal.readers >= MAX_FOLLOWERS:
            return error(503, f"{MAX_FOLLOWERS} follow already")
        return Stream(self._journal.events(call.query.last, call.query.follow))

    def _logs(self, call: Call) -> Answer:
        query = call.query
        if query.follow and self._journal.readers >= MAX_FOLLOWERS:
            return error(503, f"{MAX_FOLLOWERS} follow already")
        choice = Choice(query.pool, query.slot, query.worker)
        return Stream(self._journal.lines(query.lines, choice, query.since, query.follow))

    def _crashes(self, call: Call) -> Answer:
        return Stream(self._journal.crashes(call.query.last))

    # -- what changes something ----------------------------------------------------------------------------------

    def _scale(self, call: Call) -> Response:
        name = call.path["pool"]
        was = self._wanted(name)
        if was is None:
            return self._no_pool(name)
        to = (was if call.body.to is None else call.body.to) + call.body.by
        if not 1 <= to <= MOST_WORKERS:
            return error(409, f"{to} workers are not possible; a pool has 1 to {MOST_WORKERS}")
        self._controls.command(e.Scale(name, to - was))
        wanted = self._wanted(name)
        assert wanted is not None
        self._changed(call, "scale", pool=name, wanted=wanted, was=was)
        if wanted != to:
            return error(409, f"pool {name} is not scaled now: the service is {self._source.view().phase}")
        return json(Scaled(name, wanted, was))

    def _shutdown(self, call: Call) -> Response:
        self._changed(call, "shutdown", now=call.body.now)
        self._controls.command(e.Stop(call.body.now))
        return json(Ending(self._source.view().phase))

    def _stacks(self, call: Call) -> Answer:
        number = self._number(call)
        later: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def done(text: str) -> None:
            if not later.done():
                later.set_result(json(Stacks(number or 0, text)))

        if number is None or not self._controls.stacks(number, done):
            return self._no_worker(call)
        self._changed(call, "stacks", worker=number)
        return later

    # -- small things --------------------------------------------------------------------------------------------

    def _wanted(self, pool: str) -> int | None:
        return next((one.wanted for one in self._source.view().pools if one.name == pool), None)

    def _number(self, call: Call) -> int | None:
        text = call.path["worker"]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def _no_pool(self, name: str) -> Response:
        pools = ", ".join(pool.name for pool in self._source.view().pools)
        return error(404, f"there is no pool {name!r:.100}; there are {pools}")

    def _no_worker(self, call: Call) -> Response:
        return error(404, f"there is no worker {call.path['worker']!r:.100} now; the status has those that live")

    def _changed(self, call: Call, action: str, **fields: Any) -> None:
        peer = call.peer
        uid, pid = (None, None) if peer is None else (peer.uid, peer.pid)
        self._audit(action, uid=uid, pid=pid, role=call.role.title, **fields)
        self._journal.event("info", "audit", {"action": action, "uid": uid, "pid": pid, **fields})

    def _refused(self, request: Request, role: str) -> None:
        peer = request.peer
        uid, pid = (None, None) if peer is None else (peer.uid, peer.pid)
        self._audit("refused", uid=uid, pid=pid, role=role, path=request.path[:200])
