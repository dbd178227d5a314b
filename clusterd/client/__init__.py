"""Talks to a running primary over its control socket; what the command line and other programs use.

A minute with it::

    from clusterd.client import Client, find_socket

    client = Client(find_socket(name="shop"))
    print(client.status()["service"]["ready"])
    client.scale("web", by=1)
    for line in client.logs(pool="web", follow=True):
        print(line["text"])
"""

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlencode

from clusterd.client import outcomes
from clusterd.client.places import CONTROL_SOCKET, find_socket, is_running, run_dir_candidates
from clusterd.errors import HostError, NotRunning, PeerError, Refused, RequestFailed, TimedOut

__all__ = ["CHECKS", "CONTROL_SOCKET", "Client", "Document", "find_socket", "is_running", "run_dir_candidates"]

TRIAL_PATIENCE = 90.0
"""Seconds that new code may take to prove itself, and the way there and back."""

MAX_RESPONSE = 64 * 1024 * 1024
"""Bytes of a response; a primary has no reason to send more."""

MAX_LINE = 4 * 1024 * 1024
"""Bytes of one line of a stream, likewise."""

SILENCE = 60.0
"""Seconds of a followed stream without a byte, after which the primary is thought to be frozen; it sends an empty line
every 15."""

CHECKS = {"live": "/livez", "ready": "/readyz", "startup": "/startupz"}

Document = dict[str, Any]
T = TypeVar("T")


class Client:
    """One primary. Every call opens a connection of its own.

    All methods raise:
        NotRunning: nobody listens on the socket.
        Refused: not for this user, or not now.
        TimedOut: no answer in time.
        PeerError: what answers there is no primary.
        RequestFailed: the primary could not do it, or is of a version that cannot.

    Args:
        socket_path: the control socket.
        timeout: seconds that each answer may take.
    """

    def __init__(self, socket_path: str | os.PathLike[str], timeout: float = 5.0) -> None:
        self.socket_path = os.fspath(socket_path)
        self.timeout = timeout

    # -- what is -------------------------------------------------------------------------------------------------

    def status(self) -> Document:
        """The status document (README, "Status")."""
        return self._document(self._read("GET", "/v1/status"))

    def status_json(self) -> bytes:
        """The status document as the primary sent it."""
        body = self._read("GET", "/v1/status")
        self._document(body)
        return body

    def describe(self, worker: int) -> Document:
        """One worker in full, by its id."""
        return self._document(self._read("GET", f"/v1/workers/{worker}"))

    def openapi(self) -> Document:
        """The description of all that can be asked."""
        return self._document(self._read("GET", "/v1/openapi.json"))

    def health(self, check: str = "ready", *, verbose: bool = False) -> tuple[bool, str]:
        """Whether a check passes, and its lines.

        Args:
            check: ``live``, ``ready`` or ``startup``.
            verbose: a line for each slot too.
        """
        status, body = self._ask("GET", CHECKS[check] + ("?verbose" if verbose else ""))
        if status not in (200, 503) or not body.startswith((b"ok ", b"FAIL ")):
            self._fail(status, body)  # 503 is also what one too many connection gets
        return status == 200, body.decode("utf-8", "replace")

    # -- what happens --------------------------------------------------------------------------------------------

    def events(self, *, last: int = 50, follow: bool = False) -> Iterator[Document]:
        """What has happened, oldest first: ``id``, ``time``, ``level``, ``event`` and the event's own members.

        Args:
            last: how many that there were already, 1000 at most.
            follow: go on with those that come, until the service ends.
        """
        return self._lines("/v1/events", {"last": last, "follow": follow}, follow)

    def logs(
        self,
        *,
        pool: str | None = None,
        slot: int | None = None,
        worker: int | None = None,
        lines: int = 50,
        since: float | None = None,
        follow: bool = False,
    ) -> Iterator[Document]:
        """What workers printed, oldest first: ``time``, ``pool``, ``slot``, ``worker``, ``stream`` and ``text``.

        Args:
            pool, slot, worker: whose; ``worker`` by id.
            lines: how many that there were already, 5000 at most.
            since: none that is older than so many seconds.
            follow: go on with those that come, until the service ends.
        """
        query = {"pool": pool, "slot": slot, "worker": worker, "lines": lines, "since": since, "follow": follow}
        return self._lines("/v1/logs", query, follow)

    def crashes(self, *, last: int = 5) -> Iterator[Document]:
        """The last crash reports, oldest first: ``time``, ``cause``, ``report``, ``last_output`` and more."""
        return self._lines("/v1/crashes", {"last": last}, False)

    # -- what changes something ----------------------------------------------------------------------------------

    def scale(self, pool: str, *, to: int | None = None, by: int = 0) -> Document:
        """More or fewer workers: ``pool``, ``wanted``, ``was``.

        Args:
            to: so many; ``None``: as many as there are to be now.
            by: so many more, or fewer.
        """
        body: Document = {"by": by} if to is None else {"to": to, "by": by}
        return self._document(self._read("POST", f"/v1/pools/{quote(pool, safe='')}/scale", body))

    def reload(self, pool: str | None = None, *, wait: bool = True, timeout: float = 600.0) -> Document:
        """The next generation: ``generation``, ``verdict``, ``reason``, ``report``, ``took``.

        ``verdict``: ``promoted``, ``rolled_back``, ``superseded``, ``stopped``, ``refused``; else ``begun``.

        Args:
            pool: this one alone.
            timeout: seconds to wait for the verdict; the reload goes on.
        """
        ask = partial(self._order, "/v1/reload", {"pool": pool}, wait)
        return outcomes.outlived(self, ask, timeout, outcomes.verdict) if wait else ask(timeout)

    def verdict(self, *, timeout: float = 600.0) -> Document:
        """How the reload that is under way ends, else how the last one did: as :meth:`reload`, which begins one.

        Args:
            timeout: seconds to wait for it.

        Raises:
            Refused: there was none since the primary has started.
        """
        ask = partial(self._order, "/v1/reload", {"begin": False}, True)
        return outcomes.outlived(self, ask, timeout, outcomes.verdict)

    def changes(self) -> list[Document]:
        """What a reload would change in the configuration: ``key``, ``before``, ``after``, ``restart``."""
        found = json.loads(self._read("GET", "/v1/changes"))
        if not isinstance(found, list):
            raise PeerError(f"{self.socket_path}: what answers there is no clusterd primary")
        return found

    def restart(
        self, pool: str | None = None, *, worker: int | None = None, wait: bool = True, timeout: float = 300.0
    ) -> Document:
        """The same code in new workers, one after another, each ready before the old one drains: ``workers``, ``done``.

        Args:
            pool, worker: only these; ``worker`` by id.
            timeout: seconds to wait until all have been replaced; it goes on.
        """
        ask = partial(self._order, "/v1/restart", {"pool": pool, "worker": worker}, wait)
        return outcomes.outlived(self, ask, timeout, outcomes.replaced(pool, worker)) if wait else ask(timeout)

    def start(self, pool: str, *, wait: bool = True, timeout: float = 300.0) -> Document:
        """Have a pool work again that was stopped or has given up: ``wanted``, ``ready``, ``given_up``.

        Args:
            timeout: seconds to wait until all of its workers are ready.
        """
        return self._again(f"/v1/pools/{quote(pool, safe='')}/start", wait, timeout)

    def stop(self, pool: str, *, wait: bool = True, timeout: float = 300.0) -> Document:
        """Have all workers of a pool drain, and none follow: ``wanted``, ``ready``.

        Args:
            timeout: seconds to wait until the last of them has ended.
        """
        return self._again(f"/v1/pools/{quote(pool, safe='')}/stop", wait, timeout)

    def hold(self, pool: str, slot: int, *, wait: bool = True, timeout: float = 300.0) -> Document:
        """Have the worker of a slot drain, and the slot stay empty: ``pool``, ``slot``, ``held``, ``worker``.

        Args:
            timeout: seconds to wait until its worker has ended.
        """
        return self._again(f"/v1/pools/{quote(pool, safe='')}/slots/{slot}/hold", wait, timeout)

    def release(self, pool: str, slot: int, *, wait: bool = True, timeout: float = 300.0) -> Document:
        """Have a slot that is held filled again: ``pool``, ``slot``, ``held``, ``worker``.

        Args:
            timeout: seconds to wait until a worker in it is ready.
        """
        return self._again(f"/v1/pools/{quote(pool, safe='')}/slots/{slot}/release", wait, timeout)

    def stacks(self, worker: int) -> str:
        """What the threads and tasks of a worker are doing, by its id, for people; it is not stopped."""
        return str(self._document(self._read("POST", f"/v1/workers/{worker}/stacks")).get("stacks", ""))

    def upgrade(self, *, check: bool = False) -> Document:
        """Have the primary's own code replaced in place; returns when the new code was tried out: ``upgrades``.

        Args:
            check: only try it out.

        Raises:
            Refused: not now, or the new code does not work; nothing has changed.
        """
        return self._document(self._read("POST", "/v1/upgrade", {"check": check}, TRIAL_PATIENCE))

    def shutdown(self, *, now: bool = False) -> Document:
        """End the service, with ``now`` without a drain; returns when that has begun: ``state``."""
        return self._document(self._read("POST", "/v1/shutdown", {"now": now}))

    def _order(self, target: str, body: Document, wait: bool, timeout: float) -> Document:
        """A change whose outcome takes its time, which the primary bounds. One that is frozen is found out before: by
        who waits, for he asks for the status anyway."""
        if not wait:
            self._read("GET", "/v1/status")
        body = {**{name: value for name, value in body.items() if value is not None}, "wait": wait, "timeout": timeout}
        return self._document(self._read("POST", target, body, self.timeout + (timeout if wait else 0.0)))

    def _again(self, target: str, wait: bool, timeout: float) -> Document:
        """An order that may be given twice: what is so already stays so."""
        ask = partial(self._order, target, {}, wait)
        return outcomes.outlived(self, ask, timeout) if wait else ask(timeout)

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _document(self, body: bytes) -> Document:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise PeerError(f"{self.socket_path}: what answers there is no clusterd primary")
        return document

    def _read(self, method: str, target: str, body: Document | None = None, timeout: float | None = None) -> bytes:
        status, answer = self._ask(method, target, body, timeout)
        if status != 200:
            self._fail(status, answer)
        return answer

    def _ask(
        self, method: str, target: str, body: Document | None = None, timeout: float | None = None
    ) -> tuple[int, bytes]:
        connection = _UnixConnection(self.socket_path, self.timeout if timeout is None else timeout)
        try:
            response = self._send(connection, method, target, body)
            answer = self._guarded(connection, lambda: response.read(MAX_RESPONSE + 1))
        finally:
            connection.close()
        if len(answer) > MAX_RESPONSE:
            raise PeerError(f"{self.socket_path}: the answer is longer than {MAX_RESPONSE} bytes")
        return response.status, answer

    def _lines(self, path: str, query: Mapping[str, Any], follow: bool) -> Iterator[Document]:
        words = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
        target = f"{path}?{urlencode({name: value for name, value in words.items() if value is not None})}"
        connection = _UnixConnection(self.socket_path, self.timeout)
        try:  # now, and not when the first line is asked for: what happens from here on is in it
            response = self._send(connection, "GET", target, None)
            if response.status != 200:
                self._fail(response.status, self._guarded(connection, lambda: response.read(MAX_RESPONSE)))
        except BaseException:
            connection.close()
            raise
        return self._each(connection, response, follow)

    def _each(self, connection: "_UnixConnection", response: HTTPResponse, follow: bool) -> Iterator[Document]:
        try:
            if follow:
                connection.patience(SILENCE)
            while line := self._next(connection, response):
                if line.strip():
                    yield self._document(line)
        finally:
            response.close()
            connection.close()

    def _next(self, connection: "_UnixConnection", response: HTTPResponse) -> bytes:
        """The next line; empty at the end, also where that came without a word: the primary has ended then."""
        try:
            return self._guarded(connection, lambda: response.readline(MAX_LINE))
        except (NotRunning, PeerError):
            return b""

    def _send(self, connection: "_UnixConnection", method: str, target: str, body: Document | None) -> HTTPResponse:
        def send() -> HTTPResponse:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, target, data, {} if data is None else {"content-type": "application/json"})
            return connection.getresponse()

        return self._guarded(connection, send)

    def _guarded(self, connection: "_UnixConnection", do: Callable[[], T]) -> T:
        """What ``do`` returns; what goes wrong in it is said in the words of this room."""
        try:
            return do()
        except (TimeoutError, BlockingIOError):  # the second: its queue of connections is full, for it accepts none
            raise TimedOut(
                f"{self.socket_path}: the primary did not answer within {connection.waits():g} s;"
                " it may be starved of CPU, and do later what it was asked"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunning(f"no clusterd is running at {self.socket_path}") from None
        except PermissionError:
            raise Refused(
                f"{self.socket_path}: permission denied; ask as root or as the user the service runs as"
            ) from None
        except HTTPException:
            raise PeerError(f"{self.socket_path}: what answers there is no clusterd primary") from None
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise NotRunning(f"{self.socket_path}: the primary ended while it was asked") from None
            raise HostError(f"{self.socket_path}: {error.strerror or error}") from None

    def _fail(self, status: int, body: bytes) -> NoReturn:
        said = body.decode("utf-8", "replace").strip()[:2000]
        try:
            said = str(json.loads(said)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if status in (403, 409):
            raise Refused(f"{self.socket_path}: {said}")
        if status == 504:
            raise TimedOut(said)
        if status in (404, 405) and not said.startswith("there is no "):
            raise RequestFailed(f"{self.socket_path}: this clusterd cannot do that, its version is another: {said}")
        if status == 404:
            raise RequestFailed(said)
        raise RequestFailed(f"{self.socket_path}: the primary answered {status}: {said}")


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._patience = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def waits(self) -> float:
        """Seconds that a read may take."""
        return (self.sock.gettimeout() if self.sock is not None else None) or self._patience

    def patience(self, seconds: float) -> None:
        """How long a read may take from now on."""
        if self.sock is not None:
            self.sock.settimeout(seconds)
