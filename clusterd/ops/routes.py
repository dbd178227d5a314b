"""The routes of a control socket as values: who may do what where, with which words, and what comes of it.

One table answers requests and is the OpenAPI document (:mod:`.openapi`), so that the two cannot differ.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from clusterd.ops.exchange import JSON, Answer, Answerer, Credentials, Request, error
from clusterd.ops.roles import Role, Roles


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be and makes sense.

    Attributes:
        path: the parts of the path that the template leaves open.
        query: as the route declares it.
        body: likewise.
        peer: who asks.
        role: as what.
    """

    path: Mapping[str, str]
    query: Any
    body: Any
    peer: Credentials | None
    role: Role


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked.

    Attributes:
        path: ``{name}`` leaves a part open.
        role: who may, at least.
        does: one sentence.
        answers: what a 200 has, a type that msgspec knows; lines of it if ``streams``.
        fails: further statuses, and what each means.
        text: a 200 is plain text.
    """

    method: str
    path: str
    role: Role
    does: str
    handle: Callable[[Call], Answer]
    answers: Any = None
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] | None = None
    fails: Mapping[int, str] = field(default_factory=dict)
    streams: bool = False
    text: bool = False

    @property
    def pattern(self) -> re.Pattern[str]:
        """What paths it is for."""
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path))


def router(routes: Sequence[Route], roles: Roles, refused: Callable[[Request, str], None]) -> Answerer:
    """What answers requests by the table.

    Args:
        refused: told of each change that somebody was not allowed, and why.
    """
    table = [(route, route.pattern) for route in routes]

    def answer(request: Request) -> Answer:
        role = roles.of(request.peer)
        if role is None:
            return error(403, "only root, the user the service runs as, control.operators and control.admins may ask")
        found = [(route, match) for route, pattern in table if (match := pattern.fullmatch(request.path))]
        if not found:
            return error(404, f"nothing is at {request.path:.200}; GET /v1/openapi.json describes what there is")
        method = "GET" if request.method == "HEAD" else request.method
        for route, match in found:
            if route.method == method:
                return _call(route, match, request, role, refused)
        allowed = ", ".join(sorted({route.method for route, _ in found}))
        return error(405, f"{request.path:.200} takes {allowed}", allow=allowed)

    return answer


def _whole(value: Any) -> Any:
    """With 3.0 as 3, which to JSON is the same number."""
    if not isinstance(value, dict):
        return value
    return {name: int(part) if isinstance(part, float) and part.is_integer() else part for name, part in value.items()}


def _call(
    route: Route, match: re.Match[str], request: Request, role: Role, refused: Callable[[Request, str], None]
) -> Answer:
    if role < route.role:
        refused(request, role.title)
        return error(403, f"this takes the role {route.role.title}; over this socket you are {role.title}")
    try:
        query = msgspec.convert(request.query, route.query, strict=False)
    except msgspec.ValidationError as problem:
        return error(400, f"the query of {route.path}: {problem}")
    body = None
    if route.body is not None:
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if request.body and kind != JSON:
            return error(415, f"the body is to be {JSON}")
        try:
            body = msgspec.convert(_whole(msgspec.json.decode(request.body or b"{}")), route.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
            return error(400, f"the body of {route.path}: {problem}")
    elif request.body and route.method != "GET":
        return error(400, f"{route.path} takes no body")
    path = {name: unquote(part) for name, part in match.groupdict().items()}
    return route.handle(Call(path, query, body, request.peer, role))
