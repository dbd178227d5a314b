"""Asks workers over HTTP, from outside, whether they work (``health.http_path``) or are ready (``ready_when``).

Each worker is asked over a connection of its own, which goes to it alone and through no queue. One answer that does not
come, or that is no success, may be chance; the second in a row is not.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import h11

from clusterd.core import events as e
from clusterd.core import facts as f
from clusterd.ops.source import Source

FAILURES: Final = 2
"""Failures in a row after which a worker is unwell."""

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at who is to be asked."""

NO_ANSWER: Final = 5.0
"""Seconds after which a worker that starts is asked again, where nothing else is said."""

HEAD: Final = 16 * 1024
"""Bytes of an answer's head that are read; its body is not."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the workers of a pool are asked. Seconds.

    Attributes:
        interval: from one question to the next.
        timeout: for the answer's head.
    """

    path: str
    interval: float
    timeout: float


class Asked(Protocol):
    """Who has the workers."""

    def questions(self) -> Mapping[str, Question]:
        """By pool, what those that are ready are to be asked."""

    def starts(self) -> Mapping[str, Question]:
        """By pool, what those are to be asked that start, and are ready when the answer is 2xx."""

    def visit(self, worker: int, refused: Callable[[], None], *, starting: bool) -> socket.socket | None:
        """A new connection to this worker alone; ``None`` if it cannot be had. ``refused`` may be called later."""

    def well(self, worker: int) -> None:
        """It starts, and has given the right answer."""


class Probe:
    """Asks, and reports who is unwell.

    Args:
        source: which workers there are.
        asked: who has them.
        report: takes the events.
    """

    def __init__(self, source: Source, asked: Asked, report: Callable[[e.Event], None]) -> None:
        self._source = source
        self._asked = asked
        self._report = report
        self._due: dict[int, float] = {}
        self._failed: dict[int, int] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_EVERY, self.start)
        questions, starts = self._asked.questions(), self._asked.starts()
        if questions:
            self._look(questions, loop.time())
        if starts:
            self._look_at_starts(starts)

    def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._asking.values():
            task.cancel()

    def _look(self, questions: Mapping[str, Question], now: float) -> None:
        ready = {
            worker.id: worker
            for pool in self._source.view().pools
            if pool.name in questions
            for worker in pool.workers
            if worker.state == "ready"
        }
        for gone in self._due.keys() - ready.keys():
            del self._due[gone]
            self._failed.pop(gone, None)
        for worker in ready.values():
            question = questions[worker.pool]
            if now >= self._due.setdefault(worker.id, now + question.interval) and worker.id not in self._asking:
                self._due[worker.id] = now + question.interval
                self._begin(worker, self._ask(worker, question))

    def _look_at_starts(self, starts: Mapping[str, Question]) -> None:
        for pool in self._source.view().pools:
            if pool.name in starts:
                for worker in pool.workers:
                    if worker.state == "booting" and worker.id not in self._asking:
                        self._begin(worker, self._ask_start(worker, starts[pool.name]))

    def _begin(self, worker: f.WorkerView, asking: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(asking)
        self._asking[worker.id] = task
        task.add_done_callback(lambda task: self._asking.pop(worker.id, None))

    async def _ask_start(self, worker: f.WorkerView, question: Question) -> None:
        sock = self._asked.visit(worker.id, _nothing, starting=True)
        if sock is None:
            return
        with sock:
            try:
                async with asyncio.timeout(question.timeout):
                    status = await _status(sock, question.path)
            except (OSError, h11.ProtocolError, TimeoutError):
                return  # it is asked again
        if 200 <= status < 300:
            self._asked.well(worker.id)

    async def _ask(self, worker: f.WorkerView, question: Question) -> None:
        refused = asyncio.Event()
        sock = self._asked.visit(worker.id, refused.set, starting=False)
        if sock is None:
            return
        with sock:
            try:
                async with asyncio.timeout(question.timeout):
                    status = await _status(sock, question.path)
                fault = _fault(status)
            except TimeoutError:
                fault = f"no answer within {question.timeout:g} s"
            except (OSError, h11.ProtocolError) as error:
                fault = f"{error}"
        if not fault or refused.is_set():
            self._failed.pop(worker.id, None)
            return
        failures = self._failed[worker.id] = self._failed.get(worker.id, 0) + 1
        if failures >= FAILURES:
            self._report(e.Unwell(worker.id, f"GET {question.path}: {fault}"))


def _fault(status: int) -> str:
    if not status:
        return "it closed the connection"
    return "" if status < 400 else f"it answered {status}"


def _nothing() -> None:
    """One that starts may refuse."""


async def _status(sock: socket.socket, path: str) -> int:
    """The answer's status; 0 if it closed the connection instead.

    Raises:
        OSError, h11.ProtocolError: the connection broke, or this is no HTTP.
    """
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD)
    request = h11.Request(method="GET", target=path, headers=[("host", "localhost"), ("connection", "close")])
    await loop.sock_sendall(sock, (parser.send(request) or b"") + (parser.send(h11.EndOfMessage()) or b""))
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            parser.receive_data(await loop.sock_recv(sock, HEAD))
        elif isinstance(event, h11.ConnectionClosed):
            return 0
