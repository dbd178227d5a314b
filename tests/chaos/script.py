"""The script: what befalls a service, step by step. Each step depends on the seed and its number alone, so that a seed
tells the same story however fast the machine is.
"""

import json
import os
import random
import select
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from tests.chaos.crowd import DEADLINE, Crowd
from tests.real.clients import UnixConnection
from tests.real.harness import Service, kill
from tests.real.playground import APP, deploy

WORKERS = 3
FEWEST, MOST = 2, 5
PATIENCE = 1.0
"""Seconds that the script waits for the load to get on; when every worker is stopped or dead it may not."""

GENTLE = {"pause": 3, "leave": 2, "more": 2, "fewer": 2, "block": 2, "restart": 2, "reload": 4, "broken": 3}
DEADLY = {"kill": 4, "crash": 3, "both": 1, "hang": 1, "frail": 2}

COMPLETE = 'await send({"type": phase + ".complete"})'
BROKEN = {
    "at import": APP + "\nraise RuntimeError('broken')\n",
    "in its lifespan": APP.replace(
        COMPLETE, 'await send({"type": "lifespan.startup.failed", "message": "broken"}); return'
    ),
    "without the attribute": APP.replace("async def app(", "async def application("),
}
FRAIL = APP.replace(COMPLETE, COMPLETE + "; asyncio.get_running_loop().call_later(0.1, os._exit, 9)")


class Chaos:
    """What is done to the service.

    Args:
        seed: tells the story.
        source: the file of the app's code, which is replaced for a reload.
        deadly: processes are killed, too; else not one request may be lost.

    Attributes:
        wanted: how many workers there ought to be.
        done: how often what was done.
    """

    def __init__(self, seed: int, service: Service, source: Path, crowd: Crowd, *, deadly: bool) -> None:
        self.service = service
        self.wanted = WORKERS
        self.done: Counter[str] = Counter()
        self._seed = seed
        self._source = source
        self._crowd = crowd
        self._deadly = deadly
        self._what = {**GENTLE, **(DEADLY if deadly else {})}
        self._rng = random.Random(seed)
        self._steps = 0
        self._asking: list[threading.Thread] = []

    def step(self) -> None:
        """The next one."""
        self._rng = random.Random(f"{self._seed}:{self._steps}")
        self._steps += 1
        what = self._rng.choices([*self._what], [*self._what.values()])[0]
        answers = self._rng.randint(5, 120)
        getattr(self, what)()
        self.done[what] += 1
        self.progress(answers)

    def progress(self, answers: int) -> None:
        """Until the load has got so many answers more, and not for ever."""
        end, aim = time.monotonic() + PATIENCE, self._crowd.fresh.answered + answers
        while self._crowd.fresh.answered < aim and time.monotonic() < end:
            select.select([], [], [], 0.005)

    def calm(self) -> None:
        """The end: the number of workers that there were, good code, and everybody who was asked has answered."""
        for thread in self._asking:
            thread.join(2 * DEADLINE)
            assert not thread.is_alive(), "an answer never came"
        while self.wanted != WORKERS:
            self._scale(1 if self.wanted < WORKERS else -1)
        deploy(self._source, APP)

    # -- to workers ----------------------------------------------------------------------------------------------

    def victim(self) -> int | None:
        """The pid of a worker that is ready, if there is one."""
        which = self._rng.random()
        pids = [worker["pid"] for worker in self.service.workers() if worker["state"] == "ready"]
        return pids[int(which * len(pids))] if pids else None

    def kill(self) -> None:
        """The worst."""
        pid = self.victim()
        if pid is not None:
            kill(pid)

    def both(self) -> None:
        """Two at once."""
        self.kill()
        self.kill()

    def pause(self) -> None:
        """A worker stands still for a while, as under a debugger or a starved machine; sometimes it dies of it."""
        pid, answers = self.victim(), self._rng.randint(10, 600)
        ends = self._rng.random() < 0.3 and self._deadly
        if pid is None:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            self.progress(answers)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL if ends else signal.SIGCONT)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def _ask(self, path: str) -> None:
        """A request that its worker may not survive; nobody waits for it."""

        def ask() -> None:
            try:
                self.service.get(path, timeout=DEADLINE)
            except (OSError, EOFError):
                pass

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        self._asking = [*(one for one in self._asking if one.is_alive()), thread]

    def crash(self) -> None:
        """A request that its worker does not survive."""
        self._ask(self._rng.choice(("/exit?code=7", "/exit?code=0", "/segv")))

    def leave(self) -> None:
        """A worker that gets SIGTERM of somebody."""
        self._ask("/leave")

    def block(self) -> None:
        """A request that lets its worker do nothing else for a while."""
        self._ask(f"/block?s={self._rng.uniform(0.05, 1.0):.2f}")

    def hang(self) -> None:
        """A request in which its worker stays until it is taken to hang."""
        self._ask("/stuck")

    # -- by operators --------------------------------------------------------------------------------------------

    def _scale(self, by: int) -> None:
        count = len(self.service.logged("scaled"))
        self.service.signal(signal.SIGTTIN if by > 0 else signal.SIGTTOU)
        self.service.wait_log("scaled", count=count + 1)
        self.wanted += by

    def more(self) -> None:
        """One worker more."""
        if self.wanted < MOST:
            self._scale(1)

    def fewer(self) -> None:
        """One fewer, with whatever it is doing."""
        if self.wanted > FEWEST:
            self._scale(-1)

    def restart(self) -> None:
        """All workers drain, one after another, when those that follow are ready."""
        body = json.dumps({"pool": "web", "wait": False})
        connection = UnixConnection(self.service.run_dir / "control.sock", DEADLINE)
        try:
            connection.request("POST", "/v1/restart", body=body, headers={"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status in (200, 202, 409), answer.read()
        finally:
            connection.close()

    def reload(self) -> None:
        """Good code; whether it comes to a verdict before the next reload is as it may be."""
        self._reload(f"{APP}\nVERSION = {json.dumps(self._steps)}\n")

    def broken(self) -> None:
        """Code that never becomes ready."""
        self._reload(self._rng.choice([*BROKEN.values()]))

    def frail(self) -> None:
        """Code that serves for a moment, and dies."""
        self._reload(FRAIL)

    def _reload(self, text: str) -> None:
        wait = self._rng.random() < 0.7
        mark = self.service.mark()
        deploy(self._source, text)
        self.service.signal(signal.SIGHUP)
        self.service.wait_log("reload_began", after=mark, deadline=2 * DEADLINE)
        if wait:
            self.service.wait_log("reload_ended", after=mark, deadline=3 * DEADLINE)
