"""What can be asked over the control socket: the routes under ``/v1``, and who is told of what they changed."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clusterd.ops.admin import health_routes
from clusterd.ops.bodies import (
    Changed,
    Ending,
    ReloadBody,
    Replaced,
    RestartBody,
    Running,
    ScaleBody,
    Scaled,
    ShutdownBody,
    Slotted,
    Stacks,
    Verdict,
    WaitBody,
)
from clusterd.ops.describe import Described, describe
from clusterd.ops.document import Status
from clusterd.ops.exchange import Answer, Answerer, Request, Response, Stream, error, json
from clusterd.ops.journal import Journal
from clusterd.ops.orders import Audit, Controls, Orders, no_worker, number_of
from clusterd.ops.recent import MAX_LINES, Choice, Shown
from clusterd.ops.roles import Role, Roles
from clusterd.ops.routes import Call, Route, router
from clusterd.ops.source import Rated, Source
from clusterd.ops.status import About, encode, status
from clusterd.ops.upgrades import Upgrades
from clusterd.ops.upgrades import route as upgrade_route

MAX_FOLLOWERS = 32
"""Streams at the same time: connections stay free for short questions."""

NO_POOL = {404: "There is no such pool."}
NO_SLOT = {404: "There is no such pool or slot."}
NO_WORKER = {404: "There is no such worker."}
LATE = {504: "It has begun, and there is no outcome in time."}
TOO_MANY = {503: "Too many follow already."}


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


class Control:
    """The routes and what they do.

    Args:
        journal: what has happened; also told of by changes.
        audit: writes the audit line of each change.
        upgrades: what replaces the primary's own code.
    """

    def __init__(
        self,
        source: Source,
        about: About,
        controls: Controls,
        journal: Journal,
        rates: Rated | None,
        audit: Audit,
        upgrades: Upgrades | None = None,
    ) -> None:
        self._upgrades = upgrades
        self._source = source
        self._about = about
        self._orders = Orders(source, controls, journal, audit)
        self._journal = journal
        self._rates = rates
        self._audit = audit
        self.routes = self._routes()
        self._document: dict[str, Any] | None = None

    def answers(self, roles: Roles) -> Answerer:
        """What answers at a socket at which these are the roles."""
        return router(self.routes, roles, self._refused)

    def _routes(self) -> Sequence[Route]:
        orders = self._orders
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
                "GET", "/v1/changes", run, "What a reload would change in the configuration.", orders.changes,
                list[Changed], fails={409: "The configuration cannot be used."},
            ),
            Route(
                "POST", "/v1/reload", run, "The next generation, with a verdict.", orders.reload, Verdict,
                body=ReloadBody, fails={**NO_POOL, 409: "There was none, or its verdict is not of one pool.", **LATE},
            ),
            Route(
                "POST", "/v1/restart", run, "The same code in new workers, in turn.", orders.restart, Replaced,
                body=RestartBody, fails={404: "There is no such pool or worker.", 409: "It is not ready.", **LATE},
            ),
            Route(
                "POST", "/v1/pools/{pool}/scale", run, "More or fewer workers.", orders.scale, Scaled, body=ScaleBody,
                fails={**NO_POOL, 409: "It cannot be scaled so."},
            ),
            Route(
                "POST", "/v1/pools/{pool}/start", run, "A pool that was stopped, or has given up, works again.",
                orders.start, Running, body=WaitBody, fails={**NO_POOL, **LATE},
            ),
            Route(
                "POST", "/v1/pools/{pool}/stop", run, "All workers of a pool drain, and none follow.", orders.stop,
                Running, body=WaitBody, fails={**NO_POOL, 409: "The service is ending.", **LATE},
            ),
            Route(
                "POST", "/v1/pools/{pool}/slots/{slot}/hold", run, "Its worker drains, and the slot stays empty.",
                orders.hold, Slotted, body=WaitBody, fails={**NO_SLOT, 409: "The service is ending.", **LATE},
            ),
            Route(
                "POST", "/v1/pools/{pool}/slots/{slot}/release", run, "A slot that is held gets a worker again.",
                orders.release, Slotted, body=WaitBody, fails={**NO_SLOT, **LATE},
            ),
            Route(
                "POST", "/v1/workers/{worker}/stacks", run, "What its threads and tasks are doing; it is not stopped.",
                orders.stacks, Stacks, fails=NO_WORKER,
            ),
            Route(
                "POST", "/v1/shutdown", end, "The service ends.", orders.shutdown, Ending, body=ShutdownBody,
            ),
            upgrade_route(self._upgrades, self._about.upgrades, orders.changed),
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
        number = number_of(call)
        found = None if number is None else describe(number, self._source, self._journal, self._rates)
        return no_worker(call) if found is None else json(found)

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

    def _refused(self, request: Request, role: str) -> None:
        peer = request.peer
        uid, pid = (None, None) if peer is None else (peer.uid, peer.pid)
        self._audit("refused", uid=uid, pid=pid, role=role, path=request.path[:200])
