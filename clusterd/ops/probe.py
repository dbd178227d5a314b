"""Asks workers over HTTP whether they work, from outside: for those that have ``health.http_path``.

Each worker is asked over a connection of its own, which goes to it alone and through no queue. One answer that does not
come, or that is no success, may be chance; the second in a row is not.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
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
        """By pool, of those that are to be asked."""

    def visit(self, worker: int, refused: Callable[[], None]) -> socket.socket | None:
        """A new connection to this worker alone; ``None`` if it cannot be had. ``refused`` may be called later."""


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
        questions = self._asked.questions()
        if questions:
            self._look(questions, loop.time())

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
                task = asyncio.get_running_loop().create_task(self._ask(worker, question))
                self._asking[worker.id] = task
                task.add_done_callback(lambda task, id_=worker.id: self._asking.pop(id_, None))  # type: ignore[misc]

    async def _ask(self, worker: f.WorkerView, question: Question) -> None:
        refused = asyncio.Event()
        sock = self._asked.visit(worker.id, refused.set)
        if sock is None:
            return
        with sock:
            try:
                async with asyncio.timeout(question.timeout):
                    fault = await _fault(sock, question.path)
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


async def _fault(sock: socket.socket, path: str) -> str:
    """What is wrong with the answer, in a few words; empty if nothing is.

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
            return "" if event.status_code < 400 else f"it answered {event.status_code}"
        if event is h11.NEED_DATA:
            parser.receive_data(await loop.sock_recv(sock, HEAD))
        elif isinstance(event, h11.ConnectionClosed):
            return "it closed the connection"
