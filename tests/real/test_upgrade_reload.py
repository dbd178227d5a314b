"""An upgrade in place in the middle of a reload: that goes on, to its verdict; the old code can always be forked."""

import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.procfs import wait_for
from tests.real.clients import fetch, split
from tests.real.harness import DEADLINE, Launcher, Service, Settings, kill, merged
from tests.real.looking import LONG, app, children, is_running, pids_of, start, title, upgraded

pytestmark = pytest.mark.timeout(240)

VERSION = """
import asyncio, os, time
VERSION = 1
if VERSION > 1:
    while not os.path.exists("go"):
        time.sleep(0.01)
    if os.path.exists("bad"):
        raise RuntimeError("this code is no good")
async def answer(path):
    if path == "/hold":
        while not os.path.exists("end"):
            await asyncio.sleep(0.01)
    return [VERSION, os.getpid()]
"""

SLOW_START = """
async def app(scope, receive, send, served=app):
    if VERSION > 1 and scope["type"] == "lifespan":
        try:
            os.mkdir("first")
        except FileExistsError:
            while not os.path.exists("roll"):
                await asyncio.sleep(0.01)
    await served(scope, receive, send)
"""
"""Of the new code only the first worker starts at once."""

AT_ONCE = {"restart": {"initial_delay": "10ms", "max_delay": "10ms"}}


class Here:
    """A service that is reloaded and upgraded under load."""

    def __init__(self, launcher: Launcher, settings: Settings | None = None, *, canary: str = "100ms") -> None:
        self.folder = launcher.folder
        self.source = app(VERSION) + SLOW_START
        pool = {"reload": {"canary": canary}, **AT_ONCE}
        self.service = start(launcher, self.source, merged({"pools": {"web": pool}}, settings or {}), workers=3)
        self.where = self.service.address()
        self.before = set(pids_of(self.service).values())
        self.answers: list[int] = []
        self.failures: list[Exception] = []
        self.stop = threading.Event()
        self.turns = [threading.Lock(), threading.Lock()]
        self.go = threading.Event()
        self.go.set()

    @contextmanager
    def load(self) -> Iterator[None]:
        """New connections all the time; none of them may notice anything."""
        threads = [threading.Thread(target=self._ask, args=(turn,)) for turn in self.turns]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        assert self.failures == []

    def _ask(self, turn: threading.Lock) -> None:
        while not self.stop.is_set():
            self.go.wait()  # a lock alone would go to who has just released it, again and again
            try:
                with turn:
                    self._ask_once()
            except Exception as error:
                self.failures.append(error)

    def _ask_once(self) -> None:
        self.answers.append(fetch(self.where, "/", timeout=LONG).json()[0])

    def kill(self, pid: int) -> None:
        """One of the workers dies, with no request that it would take with it."""
        with ExitStack() as nobody_asks:
            self.go.clear()
            nobody_asks.callback(self.go.set)
            for turn in self.turns:
                nobody_asks.enter_context(turn)
            mark = self.service.mark()
            kill(pid)
            self.service.wait_log("worker_exited", LONG, after=mark, signal="SIGKILL")

    def reload(self) -> int:
        """New code is there, and is to be tried out."""
        (self.folder / "app.py").write_text(self.source.replace("VERSION = 1", "VERSION = 2"))
        mark = self.service.mark()
        self.service.signal(signal.SIGHUP)
        self.service.wait_log("reload_began", LONG, after=mark)
        return mark

    def upgrade(self, times: int = 1) -> None:
        upgraded(self.service, times)

    def verdict(self, mark: int) -> str:
        return str(self.service.wait_log("reload_ended", LONG, after=mark)["verdict"])

    def touch(self, name: str) -> None:
        (self.folder / name).touch()

    def versions(self) -> set[int]:
        return {fetch(self.where, "/").json()[0] for _ in range(9)}

    def killed(self) -> None:
        """One of the old workers dies, and has a successor."""
        mark = self.service.mark()
        self.kill(min(self.before))
        self.service.wait_log("worker_ready", LONG, after=mark)
        self.before = {worker["pid"] for worker in self.service.workers() if worker["generation"] == 1}

    def settled(self) -> None:
        wait_for(lambda: len(self.service.workers()) == 3, DEADLINE, "the end of those that have been replaced")


def zygotes(service: Service) -> list[int]:
    return [pid for pid in children(service.pid) if " zygote " in title(pid)]


@pytest.mark.parametrize("bad", [False, True], ids=["promoted", "rolled back"])
def test_while_the_new_code_is_imported(launcher: Launcher, bad: bool) -> None:
    here = Here(launcher)
    with here.load():
        mark = here.reload()
        old = zygotes(here.service)
        for times in (1, 2):
            here.upgrade(times)
        assert here.service.status()["reload"]["stage"] == "importing"
        assert set(old) <= set(zygotes(here.service)), "what was being imported is not imported again"
        here.killed()
        assert here.versions() == {1}, "by the old zygote, whatever has become of the code"
        if bad:
            here.touch("bad")
        here.touch("roll")
        here.touch("go")
        assert here.verdict(mark) == ("rolled_back" if bad else "promoted")
        here.settled()
        if bad:
            here.killed()
            assert len(zygotes(here.service)) == 1
    assert here.versions() == ({1} if bad else {2})
    assert set(here.answers) == ({1} if bad else {1, 2})
    assert here.service.status()["pools"][0]["generation"] == (1 if bad else 2)


def test_who_waits_for_the_verdict_is_told(launcher: Launcher) -> None:
    here = Here(launcher)
    (here.folder / "app.py").write_text(here.source.replace("VERSION = 1", "VERSION = 2"))
    told: list[Any] = []
    waiting = threading.Thread(target=lambda: told.append(here.service.cli("reload", timeout=2 * LONG)))
    waiting.start()
    here.service.wait_log("reload_began", LONG)
    for times in (1, 2):
        here.upgrade(times)
    here.touch("roll")
    here.touch("go")
    waiting.join()
    (done,) = told
    assert done.returncode == 0, done.stderr
    assert "promoted" in done.stdout
    assert here.versions() == {2}


@pytest.mark.parametrize("dies", [False, True], ids=["promoted", "rolled back"])
def test_while_the_canary_is_watched(launcher: Launcher, dies: bool) -> None:
    here = Here(launcher, canary="10s")
    here.touch("go")
    here.touch("roll")
    with here.load():
        mark = here.reload()
        canary = here.service.wait_log("reload_canary", LONG, after=mark)["worker"]
        here.upgrade()
        assert here.service.status()["reload"]["stage"] == "canary"
        if dies:
            here.kill(next(worker["pid"] for worker in here.service.workers() if worker["id"] == canary))
        assert here.verdict(mark) == ("rolled_back" if dies else "promoted")
        here.settled()
    assert here.versions() == ({1} if dies else {2})


@pytest.mark.parametrize("dies", [False, True], ids=["promoted", "rolled back"])
def test_while_it_rolls(launcher: Launcher, dies: bool) -> None:
    here = Here(launcher)
    here.touch("go")
    with here.load():
        mark = here.reload()
        here.service.wait_log("reload_rolls", LONG, after=mark)
        wait_for(lambda: len(here.service.workers()) > 3, DEADLINE, "a successor that starts")
        for times in (1, 2):
            here.upgrade(times)
        assert here.service.status()["reload"]["stage"] == "rolling"
        if dies:
            new = [worker for worker in here.service.workers() if worker["generation"] == 2]
            here.kill(next(worker["pid"] for worker in new if worker["state"] == "ready"))
        here.touch("roll")
        assert here.verdict(mark) == ("rolled_back" if dies else "promoted")
        wait_for(lambda: here.versions() == ({1} if dies else {2}), DEADLINE, "one code")
        here.settled()


def test_listeners_that_it_brings_and_takes_away(launcher: Launcher) -> None:
    """A request that came by the old one is answered by an old worker while that goes; the new one serves at once."""
    one, two = launcher.folder / "one.sock", launcher.folder / "two.sock"
    settings = {"listeners": {"more": {"address": f"unix:{one}"}}, "pools": {"web": {"listeners": ["http", "more"]}}}
    here = Here(launcher, settings, canary="10s")
    here.touch("go")
    here.touch("roll")
    config = here.folder / "clusterd.toml"
    config.write_text(config.read_text().replace("one.sock", "two.sock"))
    with here.load(), held(here.where) as holding:
        wait_for(lambda: here.service.metrics().value("clusterd_http_requests_in_flight") >= 1, DEADLINE, "a request")
        mark = here.reload()
        here.service.wait_log("reload_canary", LONG, after=mark)
        here.upgrade()
        assert fetch(f"unix:{one}", "/").json()[0] == 1
        assert fetch(f"unix:{two}", "/").json()[0] == 2
        assert here.verdict(mark) == "promoted"
        here.touch("end")
        assert json.loads(holding.getresponse().read())[0] == 1
        here.settled()
    assert fetch(f"unix:{two}", "/").json()[0] == 2
    wait_for(lambda: not one.exists(), DEADLINE, "the end of the old one's file")
    here.upgrade(2)
    assert fetch(f"unix:{two}", "/").json()[0] == 2
    assert here.service.stop() == 0
    assert not two.exists()


@contextmanager
def held(where: str) -> Iterator[http.client.HTTPConnection]:
    """A request that is answered when the file ``end`` is there."""
    client = http.client.HTTPConnection(*split(where), timeout=LONG)
    try:
        client.request("GET", "/hold")
        yield client
    finally:
        client.close()


def test_zygotes_are_built_anew_and_what_cannot_be_imported_any_more_goes_on(launcher: Launcher) -> None:
    here = Here(launcher)
    (old,) = zygotes(here.service)
    mark = here.service.mark()
    here.upgrade()
    here.service.wait_log("zygote_ready", LONG, after=mark)
    wait_for(lambda: len(zygotes(here.service)) == 1 and zygotes(here.service) != [old], DEADLINE, "another zygote")
    (new,) = zygotes(here.service)
    (here.folder / "app.py").write_text("half of it is not th\n")
    mark = here.service.mark()
    here.upgrade(2)
    here.service.wait_log("zygote_kept", LONG, after=mark)
    assert zygotes(here.service) == [new]
    here.killed()
    assert here.versions() == {1}


def test_workers_are_buried_by_a_zygote_that_did_not_fork_them(launcher: Launcher) -> None:
    """The primary is killed after the upgrade, and a worker that does not hear of it has to be ended all the same."""
    here = Here(launcher, {"shutdown": {"lame_duck": "0s", "linger": "0s", "drain_timeout": "1s"}})
    mark = here.service.mark()
    here.upgrade()
    here.service.wait_log("zygote_ready", LONG, after=mark)
    wait_for(lambda: len(zygotes(here.service)) == 1, DEADLINE, "one zygote")
    for pid in here.before:
        os.kill(pid, signal.SIGSTOP)
    kill(here.service.pid)
    for pid in here.before:
        wait_for(lambda pid=pid: not is_running(pid), LONG, f"the end of worker {pid}")  # type: ignore[misc]
