"""An upgrade in place under pools of programs that use ``cluster``, Python's and Node's, and with ``on_message``.

What is on its way to a worker, or asked of it, goes on.
"""

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.procfs import wait_for
from tests.real import scripting
from tests.real.clients import fetch, split
from tests.real.harness import DEADLINE, Launcher, Service, kill
from tests.real.looking import LONG, upgraded
from tests.real.scripting import Steady, each, port, said

PYTHON = """
import asyncio, json, os
from clusterd import cluster

def blocked():
    with open("blocked", "w") as file:
        file.write(f"{os.getpid()} ")
    while not os.path.exists("end"):
        pass

async def opened():
    async def other(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\n%05d" % os.getpid())
        writer.close()
    server = await asyncio.start_server(other, "127.0.0.1", 0)
    asyncio.ensure_future(server.serve_forever())
    return server.sockets[0].getsockname()[1]

async def handle(reader, writer):
    try:
        while True:
            path = (await reader.readuntil(b"\\r\\n\\r\\n")).split()[1]
            if path == b"/hold":
                while not os.path.exists("end"):
                    await asyncio.sleep(0.01)
            if path == b"/block":
                blocked()
            body = json.dumps(await opened() if path == b"/open" else os.getpid()).encode()
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

cluster.run(main())
"""

NODE = """
const cluster = require('cluster'), http = require('http'), fs = require('fs');
const server = http.createServer((request, response) => {
  const answer = body => response.end(JSON.stringify(body));
  const later = () => fs.existsSync('end') ? answer(process.pid) : setTimeout(later, 10);
  if (request.url === '/hold') later();
  else if (request.url === '/block') {
    fs.writeFileSync('blocked', process.pid + ' ');
    while (!fs.existsSync('end'));
    answer(process.pid);
  }
  else if (request.url === '/open') {
    const other = http.createServer((_, response) => response.end(String(process.pid).padStart(5, '0')));
    other.listen(0, '127.0.0.1', function () { answer(this.address().port); });
  } else answer(process.pid);
});
server.keepAliveTimeout = 120000;
server.listen(0, '127.0.0.1', function () { console.log('port', this.address().port); });
"""

SOURCES = {"server.py": PYTHON, "server.js": NODE}

pytestmark = pytest.mark.timeout(240)


def start(launcher: Launcher, script: str, source: str = "", **pool: Any) -> Service:
    pool = {"steal_after": "0s", **pool}
    return scripting.start(launcher, script, source or SOURCES[script], **pool)


def pids(service: Service) -> set[int]:
    return {worker["pid"] for worker in service.workers()}


@contextmanager
def kept_alive(where: str) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(*split(where), timeout=LONG)
    try:
        yield client
    finally:
        client.close()


def ask(client: http.client.HTTPConnection, path: str = "/") -> Any:
    client.request("GET", path)
    return json.loads(client.getresponse().read())


@each
def test_connections_old_and_new_are_served_all_the_time(launcher: Launcher, script: str) -> None:
    service = start(launcher, script)
    where, before = port(service), pids(service)
    with kept_alive(where) as kept, kept_alive(where) as held:
        first = ask(kept)
        held.request("GET", "/hold")
        with Steady(where, 3, LONG) as load:
            for times in (1, 2):
                upgraded(service, times)
                assert ask(kept) == first
        (launcher.folder / "end").touch()
        assert json.loads(held.getresponse().read()) in before
    assert load.failures == []
    assert set(load.answers) == before == pids(service)
    assert service.metrics().value("clusterd_worker_starts_total", pool="web") == 2
    assert service.stop() == 0


@each
def test_what_a_worker_has_not_taken_is_another_s_when_it_dies_after_it(launcher: Launcher, script: str) -> None:
    """It blocks, with a connection on its way to it; whether it takes that or dies is for the successor to see."""
    service = start(launcher, script)
    where = port(service)
    with kept_alive(where) as blocking:
        blocking.request("GET", "/block")
        victim = blocked(launcher)
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(fetch(where, "/", timeout=LONG).json()))]
        threads += [threading.Thread(target=lambda: answers.append(fetch(where, "/", timeout=LONG).json()))]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) == 1, DEADLINE, "that of the other")  # and one lies at the one that blocks
        upgraded(service)
        kill(victim)
        for thread in threads:
            thread.join(LONG)
    assert len(answers) == 2
    assert victim not in answers


def blocked(launcher: Launcher) -> int:
    """The pid of a worker that blocks, once there is one."""
    file = launcher.folder / "blocked"
    wait_for(lambda: file.exists() and file.read_text().endswith(" "), DEADLINE, "a worker that blocks")
    return int(file.read_text())


@each
def test_a_worker_that_blocks_holds_nothing_up_and_takes_what_was_on_its_way(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, workers=1)
    where = port(service)
    with kept_alive(where) as blocking, kept_alive(where) as waiting:
        blocking.request("GET", "/block")
        blocked(launcher)
        waiting.request("GET", "/")
        for times in (1, 2):
            upgraded(service, times)
        (launcher.folder / "end").touch()
        (pid,) = pids(service)
        assert json.loads(blocking.getresponse().read()) == pid
        assert json.loads(waiting.getresponse().read()) == pid
        assert fetch(where, "/", timeout=LONG).json() == pid


@each
def test_servers_that_are_asked_for_after_it_are_shared(launcher: Launcher, script: str) -> None:
    service = start(launcher, script)
    where = port(service)
    with kept_alive(where) as one, kept_alive(where) as other:
        assert ask(one) != ask(other)
        first = ask(one, "/open")
        upgraded(service)
        assert ask(other, "/open") == first, "the same server as the other's"
        assert {int(fetch(f"127.0.0.1:{first}", "/").body) for _ in range(4)} == pids(service)
        assert ask(one, "/open") == ask(other, "/open") != first


@each
def test_workers_are_replaced_and_stopped_after_it_as_before(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, reload={"canary": "100ms"})
    where = port(service)
    upgraded(service)
    victim = min(pids(service))
    mark = service.mark()
    kill(victim)
    service.wait_log("worker_ready", after=mark)
    assert victim not in pids(service)
    assert {fetch(where, "/").json() for _ in range(4)} == pids(service)
    mark = service.mark()
    service.signal(signal.SIGHUP)
    assert service.wait_log("reload_ended", LONG, after=mark)["verdict"] == "promoted"
    wait_for(lambda: len(pids(service)) == 2, DEADLINE, "the end of the old workers")
    assert {fetch(where, "/").json() for _ in range(4)} == pids(service)
    assert service.stop() == 0


# -- on_message --------------------------------------------------------------------------------------------------------

HOOKS = """
import os
said = 0

async def handle(worker, message):
    global said
    if message != "ready":
        said += 1
        worker.send({"asked": message, "pid": os.getpid(), "said": said})
"""

SPEAKS = """
import asyncio
from clusterd import cluster

heard = 0

@cluster.worker.on("message")
def _(message, handle):
    global heard
    if message["asked"] != heard:
        print("missed", heard, "heard", message["asked"], flush=True)
    heard += 1
    if heard % 20 == 0:
        print("heard", heard, message["pid"], message["said"], flush=True)

async def main():
    cluster.worker.send("ready")
    number = 0
    while True:
        cluster.worker.send(number)
        number += 1
        await asyncio.sleep(0.005)

cluster.run(main())
"""


def test_messages_and_the_process_that_they_go_to_go_on(launcher: Launcher) -> None:
    (launcher.folder / "hooks.py").write_text(HOOKS)
    service = start(launcher, "server.py", SPEAKS, workers=1, on_message="hooks:handle", ready_when="message")

    def heard(after: int = 0) -> list[str]:
        line = service.wait_log(lambda record: said(record).startswith("heard "), LONG, after=after)
        return said(line).split()

    hook = heard()[2]
    for times in (1, 2):
        upgraded(service, times)
        _, count, pid, told = heard(service.mark())
        assert (pid, count) == (hook, told)
    assert not service.logged(lambda record: said(record).startswith("missed "))
    mark = service.mark()
    kill(int(hook))
    service.wait_log(
        lambda record: said(record).startswith("heard ") and said(record).split()[2] != hook, LONG, after=mark
    )
