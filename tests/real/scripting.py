"""Script pools under test: the programs, where they listen, and a client that never stops asking."""

import re
import signal
import threading
from typing import Any, Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.procfs import wait_for
from tests.real.clients import fetch
from tests.real.harness import DEADLINE, Launcher, Record, Service

PYTHON = """
import asyncio, json, os
from clusterd import cluster

if cluster.is_primary:
    raise SystemExit("this branch never runs")

async def handle(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            if b"/slow" in head:
                await asyncio.sleep(1)
            body = json.dumps([cluster.worker.id, os.environ["NODE_APP_INSTANCE"]]).encode()
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

cluster.run(main())
"""

NODE = """
const cluster = require('cluster');
const http = require('http');
if (cluster.isPrimary) throw new Error('this branch never runs');
http.createServer((request, response) => {
  const answer = () => response.end(JSON.stringify([cluster.worker.id, process.env.NODE_APP_INSTANCE]));
  if (request.url === '/slow') setTimeout(answer, 1000);
  else if (request.url === '/block') { const end = Date.now() + 20000; while (Date.now() < end); }
  else answer();
}).listen(0, '127.0.0.1', function () { console.log('port', this.address().port); });
"""

SOURCES = {"server.py": PYTHON, "server.js": NODE}

each = pytest.mark.parametrize("script", ["server.py", pytest.param("server.js", marks=pytest.mark.needs("node"))])


def start(launcher: Launcher, script: str, source: str = "", *, ready: bool = True, **pool: Any) -> Service:
    (launcher.folder / script).write_text(source or SOURCES[script])
    settings = {"listeners": None, "pools": {"web": {"app": None, "script": script, "workers": 2, **pool}}}
    service = launcher.start("", settings, ready=ready)
    if ready:
        service.wait_log("worker_ready", count=pool.get("workers", 2))
    return service


def port(service: Service) -> str:
    """Where the script listens, by what its workers print."""
    line = service.wait_log(lambda record: re.match(r"port \d+", said(record)))
    return f"127.0.0.1:{said(line).split()[1]}"


def said(record: Record) -> str:
    return str(record.get("line") or record.get("message") or record.get("text") or record.get("raw") or "")


def samples(service: Service, name: str) -> list[Any]:
    text = fetch(service.monitoring(), "/metrics").text
    return [
        sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name
    ]


class Steady:
    """Clients that ask on new connections for the length of a ``with``, one after the other each.

    Args:
        where: host and port.
        clients: how many.
        timeout: seconds that one waits for an answer.

    Attributes:
        answers: what was answered.
        failures: what was raised instead.
    """

    def __init__(self, where: str, clients: int = 1, timeout: float = DEADLINE) -> None:
        self.answers: list[Any] = []
        self.failures: list[Exception] = []
        self._where, self._timeout = where, timeout
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(fetch(self._where, "/", timeout=self._timeout).json())
            except Exception as error:
                self.failures.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Waits until more has been answered."""
        count = len(self.answers)
        wait_for(lambda: len(self.answers) > count + 5, DEADLINE, "more answers")


def reload_and_scale(service: Service) -> None:
    """New code in all of its two workers, then one worker more, then one less."""
    service.signal(signal.SIGHUP)
    assert service.wait_log("reload_ended", deadline=60)["verdict"] == "promoted"
    service.signal(signal.SIGTTIN)
    service.wait_log("worker_ready", count=5)
    service.signal(signal.SIGTTOU)
    service.wait_log("worker_exited", count=3)
