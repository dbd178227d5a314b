"""Apps that say what they are asked, and what ``/proc`` says of the processes of a service."""

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher, Service, Settings

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"]
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    import json
    body = json.dumps(await answer(scope["path"])).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

PIDS = """
import os
async def answer(path):
    return os.getpid()
"""


LONG = 60.0
"""Seconds for an upgrade, which is two starts of an interpreter, one after the other."""

AT_ONCE = {"pools": {"web": {"restart": {"initial_delay": "10ms", "max_delay": "10ms"}}}}
"""Back-off so short that a test need not wait for it."""


def start(
    launcher: Launcher, source: str, settings: Settings | None = None, *, workers: int = 2, **how: Any
) -> Service:
    """A service of which every worker is ready, unless the settings say otherwise."""
    return launcher.start(source, settings, workers=workers, **how)


def app(source: str = PIDS) -> str:
    """An ASGI app around ``async def answer(path)``, whose value it sends as JSON."""
    return source + ASGI


def ask(service: Service, path: str = "/", **keywords: Any) -> Any:
    """What the app answers."""
    response = service.get(path, **keywords)
    assert response.status == 200, response
    return json.loads(response.body)


def fields(pid: int) -> dict[str, str]:
    """``/proc/PID/status``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> dict[int, str]:
    """Descriptor to what it is."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def title(pid: int) -> str:
    """The command line as ``ps`` shows it; empty for a zombie or a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The process's own children, zombies among them."""
    return [int(word) for task in Path(f"/proc/{pid}/task").glob("*/children") for word in task.read_text().split()]


def zombies(pid: int) -> list[int]:
    """Children that have ended and were not reaped."""
    found = []
    for child in children(pid):
        try:
            if fields(child)["State"].startswith("Z"):
                found.append(child)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def zygote(service: Service) -> int:
    """The pid of the service's one zygote, once there is one."""

    def find() -> int | None:
        return next((pid for pid in children(service.pid) if " zygote " in title(pid)), None)

    pid = wait_for(find, DEADLINE, "a zygote")
    assert pid is not None
    return pid


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return not fields(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return False


class Watched:
    """One process, by pidfd: it cannot be mistaken for its successor."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self.fd, number)

    def wait_end(self, deadline: float = DEADLINE) -> None:
        if not select.select([self.fd], [], [], deadline)[0]:
            pytest.fail(f"process {self.pid} ({title(self.pid)}) had not ended after {deadline:g} s")

    @property
    def ended(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])


@contextmanager
def watched(*pids: int) -> Iterator[list[Watched]]:
    """Pidfds of processes, for the length of the block."""
    found = [Watched(pid) for pid in pids]
    try:
        yield found
    finally:
        for one in found:
            os.close(one.fd)


def pids_of(service: Service) -> dict[int, int]:
    """Worker id to pid, of the pool ``web``."""
    return {worker["id"]: worker["pid"] for worker in service.workers()}


def upgraded(service: Service, times: int = 1) -> None:
    """Has it become what its command runs now, which makes ``times`` upgrades in all."""
    service.signal(signal.SIGUSR2)
    service.wait_log("upgraded", LONG, count=times)
    wait_for(lambda: service.status()["service"]["upgrades"] == times, DEADLINE, "a primary of new code")
