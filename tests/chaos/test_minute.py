"""Everything at once, by a seeded script: load of three kinds, and all that can befall workers.

The budget: nothing is lost but connections that a worker held when it died, and at the end all is as it was before.
``SEED=N`` plays a script again, ``ROUNDS=N`` a longer one.
"""

import os
import random
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.procfs import processes_marked, wait_for
from tests.real.clients import split
from tests.real.harness import Launcher, Service, kill
from tests.real.playground import LIVES, Load, complete, read_until, up

ROUNDS = int(os.environ.get("ROUNDS", "80"))
WORKERS = 3
MOST = 5
DEADLINE = 20.0
PATIENCE = 1.0
"""Seconds that the script waits for the load to get on; when every worker is stopped or dead it may not."""


class Clients:
    """Clients that keep their connections alive and go on until told to stop.

    Args:
        request: what each sends, again and again.
        whole: whether a response is all there.
        good: what a good one contains.

    Attributes:
        answered: requests answered in full.
        lost: what happened to the others.
    """

    def __init__(self, place: tuple[str, int], request: bytes, whole: Callable[[bytes], bool], good: bytes) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._place = place
        self._request = request
        self._whole = whole
        self._good = good
        self._over = threading.Event()
        self._lock = threading.Lock()

    def _client(self) -> None:
        with ExitStack() as stack:
            connection: socket.socket | None = None
            while not self._over.is_set():
                said = ""
                try:
                    if connection is None:
                        connection = stack.enter_context(socket.create_connection(self._place, DEADLINE))
                    connection.sendall(self._request)
                    answer = read_until(connection, self._whole)
                    if not (self._whole(answer) and self._good in answer):
                        said = f"ended after {answer[-60:]!r}"
                except OSError as error:
                    answer, said = b"", repr(error)
                if said or b"\r\nconnection: close" in answer.lower():
                    if connection is not None:
                        connection.close()
                    connection = None
                with self._lock:
                    if said:
                        self.lost.append(said)
                    else:
                        self.answered += 1

    @contextmanager
    def running(self, clients: int) -> Iterator["Clients"]:
        threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(DEADLINE)


class Chaos:
    """The script: what befalls the service, chosen by ``rng``, one after another, while the load goes on."""

    def __init__(self, rng: random.Random, service: Service, load: Load, *, deadly: bool) -> None:
        self.rng = rng
        self.service = service
        self.load = load
        self.wanted = WORKERS
        self.done: Counter[str] = Counter()
        self._deadly = deadly
        self._what = {"stop": 3, "leave": 2, "more": 2, "fewer": 2}
        if deadly:
            self._what |= {"kill": 4, "crash": 3, "both": 1}

    def step(self) -> None:
        """One of them."""
        what = self.rng.choices([*self._what], [*self._what.values()])[0]
        getattr(self, what)()
        self.done[what] += 1
        self.progress(self.rng.randint(5, 120))

    def progress(self, answers: int) -> None:
        """Until the load has got so many answers more, and not for ever."""
        end, aim = time.monotonic() + PATIENCE, self.load.answered + answers
        while self.load.answered < aim and time.monotonic() < end:
            select.select([], [], [], 0.005)

    def victim(self) -> int | None:
        """The pid of a worker that is ready, if there is one."""
        pids = [worker["pid"] for worker in self.service.workers() if worker["state"] == "ready"]
        return self.rng.choice(pids) if pids else None

    def kill(self) -> None:
        """The worst."""
        pid = self.victim()
        if pid is not None:
            kill(pid)

    def both(self) -> None:
        """Two at once."""
        self.kill()
        self.kill()

    def stop(self) -> None:
        """A worker stands still for a while, as under a debugger or a starved machine; sometimes it dies of it."""
        pid = self.victim()
        if pid is None:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            self.progress(self.rng.randint(10, 600))
            ends = self._deadly and self.rng.random() < 0.3
            signal.pidfd_send_signal(pidfd, signal.SIGKILL if ends else signal.SIGCONT)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    def _ask(self, path: str) -> None:
        try:
            self.service.get(path, timeout=DEADLINE)
        except (OSError, EOFError):
            pass

    def crash(self) -> None:
        """A request that its worker does not survive."""
        self._ask(self.rng.choice(("/exit?code=7", "/exit?code=0", "/segv")))

    def leave(self) -> None:
        """A worker that gets SIGTERM of somebody."""
        self._ask("/leave")

    def scale(self, by: int) -> None:
        count = len(self.service.logged("scaled"))
        self.service.signal(signal.SIGTTIN if by > 0 else signal.SIGTTOU)
        self.service.wait_log("scaled", count=count + 1)
        self.wanted += by

    def more(self) -> None:
        """One worker more."""
        if self.wanted < MOST:
            self.scale(1)

    def fewer(self) -> None:
        """One fewer, with whatever it is doing."""
        if self.wanted > 2:
            self.scale(-1)


def at_rest(pid: int) -> Counter[str]:
    """What a process has open when nobody asks it anything: the same in fifty looks, one after another."""
    same, found = 0, descriptors(pid)
    end = time.monotonic() + DEADLINE
    while same < 50 and time.monotonic() < end:
        select.select([], [], [], 0.005)
        now = descriptors(pid)
        same, found = (same + 1 if now == found else 0), now
    return found


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind."""
    found: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0]] += 1
        except FileNotFoundError:
            continue
    return found


def settled(service: Service) -> bool:
    """As many workers as at the start, all of them ready, and nobody else."""
    states = [worker["state"] for worker in service.workers()]
    return states == ["ready"] * WORKERS and len(processes_marked(service.run_dir)) == WORKERS + 2


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("deadly", [True, False], ids=["deadly", "gentle"])
def test_nothing_is_lost_but_what_the_dead_held_and_nothing_is_left_behind(launcher: Launcher, deadly: bool) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"SEED={seed}")
    settings = {**LIVES, "shutdown": {"linger": "500ms", "drain_timeout": "10s"}}
    service = up(launcher, settings, workers=WORKERS)
    wait_for(lambda: settled(service), DEADLINE)
    before = at_rest(service.pid)
    address = service.address()
    get = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
    stream = b"GET /stream?parts=10&pause=0.01 HTTP/1.1\r\nhost: test\r\n\r\n"
    with (
        Load(address).running(6) as fresh,
        Clients(split(address), get, complete, b"HTTP/1.1 200").running(3) as kept,
        Clients(split(address), stream, lambda data: data.endswith(b"0\r\n\r\n"), b"over\n").running(3) as streams,
    ):
        chaos = Chaos(random.Random(seed), service, fresh, deadly=deadly)
        for _ in range(ROUNDS if deadly else ROUNDS // 2):
            chaos.step()
        while chaos.wanted != WORKERS:
            chaos.scale(1 if chaos.wanted < WORKERS else -1)
        wait_for(lambda: settled(service), DEADLINE, "as many workers as at the start")
        answered = (fresh.answered, kept.answered, streams.answered)
        wait_for(lambda: fresh.answered > answered[0] + 50, DEADLINE)
        wait_for(lambda: kept.answered > answered[1] and streams.answered > answered[2], DEADLINE)
    # Who leaves by itself leaves nobody behind: only those that a signal or their app ended had taken something along.
    reports = [report for report in service.logged("crash_report") if deadly]
    held = sum(report["connections_open"] for report in reports)
    lost = [*fresh.lost, *kept.lost, *streams.lost]
    told = f"SEED={seed}: {dict(chaos.done)}, {len(lost)} lost of {held} held"
    print(told, f"{fresh.answered} + {kept.answered} + {streams.answered} answered, longest {fresh.longest:.2f} s")
    assert len(lost) <= held, f"{told}: {Counter(lost)}"
    assert all(report["connections_unread"] <= 2 for report in service.logged("crash_report")), told
    assert fresh.longest < PATIENCE + 5, told
    for event in ("internal_error", "worker_broken", "short_of_resources", "zygote_ended"):
        assert service.logged(event) == [], told
    # What is scaled away before it is born is killed as it comes; nobody is for want of time.
    assert {record["reason"] for record in service.logged("worker_killed")} <= {"stop_now"}, told
    after = at_rest(service.pid)
    assert after == before, told
    assert service.stop() == 0
    assert sorted(os.listdir(service.run_dir)) == ["test-notify"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(split(address), DEADLINE)
