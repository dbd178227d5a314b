"""What a handler is asked and what it may answer: at once, later, or bit by bit."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
LINES = "application/x-ndjson"
"""One JSON value a line, for as long as somebody reads."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is at the other end of a unix connection, as the kernel saw it connect (unix(7), SO_PEERCRED).

    Attributes:
        groups: its supplementary groups.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read to its end.

    Attributes:
        query: the last value of each parameter; one without a value is ``""``.
        headers: by lower-case name; of several with one name, the last.
        peer: over a unix socket, who asks.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: Credentials | None


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers."""

    status: int = 200
    body: bytes = b""
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


class Feed(Protocol):
    """The body of a response that is written as it comes to be. Bounded by itself: whoever does not read loses some."""

    def attach(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when there is something to take again. The first call of all."""

    def take(self) -> bytes | None:
        """The next piece, small enough for one turn of the loop; ``None``: nothing now; empty: it is over."""

    def close(self) -> None:
        """Nobody reads any more. Harmless when repeated."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that is written bit by bit, until the feed is at its end or the client goes."""

    feed: Feed
    content_type: str = LINES
    status: int = 200


Answer = Response | Stream | Awaitable[Response]
"""What is awaited is cancelled when its client goes."""

Handler = Callable[[Request], Response | Awaitable[Response]]
"""What answers; what takes longer than a millisecond or two is a coroutine that lets others have their turns."""

Routes = Mapping[str, Handler]
"""Path to what answers GET and HEAD there."""

Answerer = Callable[[Request], Answer]
"""The whole of a server's answers."""


def text(status: int, message: str) -> Response:
    """A response of one line."""
    return Response(status, message.encode("utf-8", "replace") + b"\n")


def json(value: object, status: int = 200) -> Response:
    """A response of one JSON value."""
    return Response(status, msgspec.json.encode(value) + b"\n", JSON)


class Error(msgspec.Struct, frozen=True):
    """What every answer of 400 and above is under ``/v1``."""

    error: str


def error(status: int, message: str, **headers: str) -> Response:
    """A refusal or a failure: one sentence, as JSON."""
    body = msgspec.json.encode(Error(message.encode("utf-8", "backslashreplace").decode())) + b"\n"
    return Response(status, body, JSON, headers)


def read_only(routes: Routes) -> Answerer:
    """Answers of routes that change nothing: GET and HEAD, to whoever reaches the socket."""

    def answer(request: Request) -> Answer:
        handler = routes.get(request.path)
        if handler is None:
            return text(404, f"nothing here; there are {', '.join(sorted(routes))}")
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET and HEAD\n", headers={"allow": "GET, HEAD"})
        return handler(request)

    return answer
