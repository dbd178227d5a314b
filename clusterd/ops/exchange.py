"""One request and one response, as the handlers of the HTTP server see them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is at the other end of a unix connection, as the kernel saw it connect (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


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


Handler = Callable[[Request], Response | Awaitable[Response]]
"""What answers; what takes longer than a millisecond or two is a coroutine that lets others have their turns."""

Routes = Mapping[str, Handler]
"""Path to what answers GET and HEAD there."""


def text(status: int, message: str) -> Response:
    """A response of one line."""
    return Response(status, message.encode("utf-8", "replace") + b"\n")
