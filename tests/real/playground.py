"""An app that does on request what apps do, good and bad, and clients that see what becomes of their requests."""

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.real.clients import fetch, split
from tests.real.harness import Launcher, Service, Settings

APP = r'''
import asyncio, json, os, signal, sys, time
from urllib.parse import parse_qsl

def state_of():
    """What there is to know of this worker."""
    from clusterd.worker import link
    me = link.current
    loop = asyncio.get_running_loop()
    return {
        "pid": os.getpid(), "slot": me.slot, "worker": me.id, "loop": type(loop).__module__.partition(".")[0],
        "parser": "httptools" if sys.modules.get("httptools") else "h11",
    }

async def body_of(receive):
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)

class App:
    def __init__(self, scope, receive, send):
        self.scope, self.receive, self.send = scope, receive, send
        self.query = dict(parse_qsl(scope.get("query_string", b"").decode()))

    async def answer(self, text, status=200):
        body = text if isinstance(text, bytes) else str(text).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def number(self, name, default="0"):
        return float(self.query.get(name, default))

    async def index(self): await self.answer(state_of()["slot"])
    async def pid(self): await self.answer(os.getpid())
    async def state(self): await self.answer(json.dumps(state_of()))

    async def scope_(self):
        scope = self.scope
        await self.answer(json.dumps({
            "client": scope["client"], "server": scope["server"], "scheme": scope["scheme"], "path": scope["path"],
            "root_path": scope["root_path"],
        }))

    async def status(self): await self.answer("as asked", int(self.number("code", "200")))

    async def sleep(self):
        print("begun", flush=True)
        await asyncio.sleep(self.number("s"))
        await self.answer("slept")

    async def echo(self):
        """In flight until the client has sent its body."""
        print("begun", flush=True)
        await self.answer(await body_of(self.receive))

    async def duplex(self):
        """Streams back whatever comes, as it comes."""
        await self.send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await self.receive()
            more = message.get("more_body", False)
            await self.send({"type": "http.response.body", "body": message.get("body", b""), "more_body": True})
        await self.send({"type": "http.response.body", "body": b"over", "more_body": False})

    async def stream(self):
        await self.send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(int(self.number("parts", "10"))):
            await self.send({"type": "http.response.body", "body": b"part %d\n" % number, "more_body": True})
            await asyncio.sleep(self.number("pause"))
        await self.send({"type": "http.response.body", "body": b"over\n"})

    async def fail(self): raise RuntimeError("asked to fail")
    async def exit(self): os._exit(int(self.number("code", "1")))
    async def segv(self): os.kill(os.getpid(), signal.SIGSEGV)
    async def leave(self):
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await self.answer("leaving")

    async def block(self):
        """Turns the loop for nobody."""
        print("begun", flush=True)
        time.sleep(self.number("s"))
        await self.answer("blocked")

    async def stuck(self):
        """Neither drains nor yields to anything but SIGKILL."""
        print("begun", flush=True)
        time.sleep(60)

    async def write(self):
        """Standard output gets the body as it is, standard error as often as asked."""
        data = await body_of(self.receive)
        os.write(1, data)
        for _ in range(int(self.number("stderr"))):
            os.write(2, data)
        await self.answer("written")

    async def flood(self):
        line = b"x" * 99 + b"\n"
        for _ in range(int(self.number("lines", "1000"))):
            os.write(1, line)
        await self.answer("flooded")

PATHS = {
    "/": App.index, "/pid": App.pid, "/state": App.state, "/scope": App.scope_, "/status": App.status,
    "/sleep": App.sleep, "/echo": App.echo, "/duplex": App.duplex, "/stream": App.stream, "/fail": App.fail,
    "/exit": App.exit, "/segv": App.segv, "/leave": App.leave, "/stuck": App.stuck, "/block": App.block,
    "/write": App.write, "/flood": App.flood,
}

async def socket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **{k: v for k, v in message.items() if k in ("text", "bytes")}})
    print("websocket ended with", message.get("code"), flush=True)

async def lifespan(receive, send):
    while True:
        phase = (await receive())["type"]
        await send({"type": phase + ".complete"})
        if phase == "lifespan.shutdown":
            return

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await socket(receive, send)
    else:
        one = App(scope, receive, send)
        path = scope["path"].removeprefix(scope["root_path"])
        await PATHS.get(path, lambda self: self.answer("nothing here", 404))(one)
'''
"""See its paths: each is one thing that a test asks an app to do."""

_stamps = count(1_000_000_000, 10)


def deploy(target: Path, text: str) -> None:
    """New code takes the place of the old in one step, with a time stamp of its own: pyc files go by it."""
    new, stamp = target.with_suffix(".new"), next(_stamps)
    new.write_text(text)
    os.utime(new, (stamp, stamp))
    new.replace(target)


LIVES = {
    "clusterd": {"name": "test"},
    "pools": {"web": {"restart": {"initial_delay": "50ms", "max_delay": "200ms", "healthy_after": "0s"}}},
}
"""Settings for tests in which workers are killed on purpose: no crash loop to be tamed, so no long back-off."""


def up(launcher: Launcher, settings: Settings | None = None, *, workers: int = 1, app: str = APP) -> Service:
    """A service of this app of which every worker is ready."""
    return launcher.start(app, settings, workers=workers)


@contextmanager
def own_launcher(folder: Path) -> Iterator[Launcher]:
    """For services that the tests of a module share: as the fixture ``launcher``, which is each test's own."""
    run_dir = Path(tempfile.mkdtemp(prefix="clusterd-", dir="/tmp"))  # short enough for a unix socket in it
    launcher = Launcher(folder, run_dir)
    try:
        yield launcher
    finally:
        launcher.finish()
        shutil.rmtree(run_dir, ignore_errors=True)


def last_words(service: Service) -> list[str]:
    """What an ended service wrote beside its log: the two streams are read apart, so it may stand anywhere in it."""
    return [record["raw"] for record in service.records if "raw" in record]


class Answers:
    """Requests made at the same time, each on its own connection and thread, and what came of them.

    Attributes:
        bodies: of those answered with 200.
        lost: what happened to the others.
    """

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.lost: list[str] = []
        self._threads: list[threading.Thread] = []

    def ask(self, address: str, path: str, count: int = 1) -> "Answers":
        """Makes ``count`` requests; returns when they are under way."""
        threads = [threading.Thread(target=self._one, args=(address, path), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        self._threads += threads
        return self

    def wait(self, deadline: float = 20.0) -> "Answers":
        """Returns when all have ended."""
        for thread in self._threads:
            thread.join(deadline)
            assert not thread.is_alive(), "a request has not ended"
        return self

    def _one(self, address: str, path: str) -> None:
        try:
            response = fetch(address, path)
        except OSError as error:
            self.lost.append(repr(error))
        else:
            (self.bodies if response.status == 200 else self.lost).append(response.text)


class Load:
    """Clients that ask again and again until told to stop.

    Attributes:
        answered: requests answered with 200.
        lost: what happened to the others.
        longest: seconds that the longest took.
    """

    def __init__(self, address: str, path: str = "/") -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.longest = 0.0
        self._place = split(address)
        self._request = f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode()
        self._over = threading.Event()
        self._lock = threading.Lock()

    def _client(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                with socket.create_connection(self._place, 10) as client:
                    client.sendall(self._request)
                    answer = bytearray()
                    while part := client.recv(65536):
                        answer += part
                said = "" if answer.startswith(b"HTTP/1.1 200") else f"closed after {bytes(answer[:40])!r}"
            except OSError as error:
                said = repr(error)
            took = time.monotonic() - begun
            with self._lock:
                self.longest = max(self.longest, took)
                if said:
                    self.lost.append(said)
                else:
                    self.answered += 1

    @contextmanager
    def running(self, clients: int) -> Iterator["Load"]:
        """So many clients, each with one request at a time, until the block ends."""
        threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(20)


def read_until(sock: socket.socket, ending: bytes | Callable[[bytes], bool]) -> bytes:
    """What ``sock`` gives up to ``ending`` or its end."""
    data = b""
    while not (data.endswith(ending) if isinstance(ending, bytes) else ending(data)):
        part = sock.recv(65536)
        if not part:
            break
        data += part
    return data


def complete(data: bytes) -> bool:
    """A response with a ``content-length`` is all there."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0])
