"""Stealing, with real workers that sleep, compute or are stopped: nobody waits for them, nobody is robbed
without need."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from tests.procfs import wait_for
from tests.real.clients import Response, fetch, split
from tests.real.harness import DEADLINE, Launcher, Service
from tests.real.looking import app, fields, pids_of, start

SOURCE = """
import os, threading, time
served = os.open("served", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def one_call(seconds):
    # A single call into C, so that this thread keeps the GIL whatever the switch interval.
    begun = time.monotonic()
    sum(range(3_000_000))
    sum(range(int(3_000_000 * seconds / (time.monotonic() - begun))))

def burn(seconds):
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass

async def answer(path):
    what, _, argument = path[1:].partition("/")
    if what == "n":
        os.write(served, argument.encode() + b"\\n")
    elif what in ("sleep", "call"):
        print("blocked", os.getpid(), flush=True)
        time.sleep(float(argument)) if what == "sleep" else one_call(float(argument))
    elif what == "burn":
        burn(float(argument))
    return os.getpid()
"""


class Numbered:
    """Clients that ask for one number after the other, each on a connection of its own and never twice.

    Attributes:
        times: by number, when it was asked for and when the answer had come.
        pids: by number, who answered.
        lost: what happened to the others.
    """

    def __init__(self, service: Service, path: str = "/n/") -> None:
        self.times: dict[int, tuple[float, float]] = {}
        self.pids: dict[int, int] = {}
        self.lost: list[str] = []
        self.asked: dict[int, float] = {}
        self._place = split(service.address())
        self._path = path
        self._changed = threading.Condition()
        self._over = False

    def _client(self) -> None:
        while not self._over:
            with self._changed:
                number = len(self.asked)
                self.asked[number] = begun = monotonic()
            answer = b""
            path = f"{self._path}{number}" if self._path.endswith("/n/") else self._path
            try:
                with socket.create_connection(self._place, DEADLINE) as client:
                    client.sendall(f"GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".encode())
                    answer = client.makefile("rb").read()
                said = "" if answer.startswith(b"HTTP/1.1 200") else f"{number}: {answer[:60]!r}"
            except OSError as error:
                said = f"{number}: {error!r}"
            with self._changed:
                if said:
                    self.lost.append(said)
                else:
                    self.times[number] = begun, monotonic()
                    self.pids[number] = int(answer.rpartition(b"\n")[2])
                self._changed.notify_all()

    @contextmanager
    def running(self, clients: int) -> Iterator["Numbered"]:
        """So many clients, until the block ends; then every one of them has its answer."""
        threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over = True
            for thread in threads:
                thread.join(DEADLINE)

    def wait(self, count: int, *, since: float = 0.0, by: int | None = None, deadline: float = DEADLINE) -> None:
        """Returns when so many that were asked for after ``since`` have been answered, by that worker."""

        def seen() -> int:
            return sum(
                begun > since and (by is None or self.pids[number] == by) for number, (begun, _) in self.times.items()
            )

        with self._changed:
            assert self._changed.wait_for(lambda: seen() >= count, deadline), f"{seen()} of {count}; {self.lost}"

    def spans(self, after: float, before: float) -> list[float]:
        """How long each took that was asked for in that time, in order of length; those not answered yet too."""
        now = monotonic()
        with self._changed:
            return sorted(
                self.times.get(number, (begun, now))[1] - begun
                for number, begun in self.asked.items()
                if after < begun < before
            )

    def check(self, folder: Path) -> None:
        """Each was answered, and by one worker once."""
        assert not self.lost
        assert sorted(self.times) == list(range(len(self.asked)))
        assert sorted(map(int, (folder / "served").read_text().split())) == sorted(self.times)


def stolen(service: Service) -> int:
    return int(service.metrics().value("clusterd_connections_reclaimed_total", pool="web", reason="blocked"))


def stopped(pid: int) -> bool:
    return fields(pid)["State"].startswith("T")


def report(name: str, spans: list[float], taken_back: int) -> None:
    late = spans[int(len(spans) * 0.999)] * 1000 if spans else 0.0
    longest = spans[-1] * 1000
    print(f"{name}: {len(spans)} while blocked, p99.9 {late:.0f} ms, max {longest:.0f} ms, {taken_back} taken back")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleep", "call"])
def test_nobody_waits_for_a_worker_that_is_blocked_by_its_app(launcher: Launcher, how: str) -> None:
    service = start(launcher, app(SOURCE), workers=3)
    load = Numbered(service)
    blocker: list[Response] = []
    with load.running(8):
        load.wait(100)
        thread = threading.Thread(target=lambda: blocker.append(fetch(service.address(), f"/{how}/1.5")))
        thread.start()
        said = service.wait_log(lambda record: str(record.get("text")).startswith("blocked"))
        begun, pid = monotonic(), int(said["text"].split()[1])
        thread.join(DEADLINE)
        over = monotonic()
        load.wait(5, since=over, by=pid)  # it takes part again
    assert blocker[0].status == 200
    load.check(launcher.folder)
    assert over - begun > 0.7
    spans = load.spans(begun, over)
    report(how, spans, stolen(service))
    assert len(spans) > 100
    # It had taken none of them, so none waited for it: 30 ms as a rule, and on a slow machine what is late there.
    assert spans[-1] < max(0.7, 0.6 * (over - begun))
    assert stolen(service) > 0


def test_nobody_waits_for_a_worker_that_is_stopped(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE), workers=3)
    load = Numbered(service)
    pid = next(iter(pids_of(service).values()))
    with load.running(8):
        load.wait(100)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: stopped(pid), DEADLINE, "a stopped worker")
        begun = monotonic()
        load.wait(600, since=begun)
        over = monotonic()
        waiting = [number for number, at in list(load.asked.items()) if at < begun and number not in load.times]
        spans = load.spans(begun, over - 0.5)  # the youngest may be under way: none of them waits, see below
        os.kill(pid, signal.SIGCONT)
        load.wait(5, since=over, by=pid)
    load.check(launcher.folder)
    report("stopped", load.spans(begun, over), stolen(service))
    assert max(spans, default=0.0) < 2.0  # it is stopped until all of them are answered
    assert not [n for n, at in load.asked.items() if begun < at < over and load.pids[n] == pid]
    assert len(waiting) <= 6  # what it had taken: two not yet read, and what it was answering
    assert stolen(service) > 0


def test_with_steal_after_zero_the_mail_of_a_stopped_worker_waits_for_it(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE), {"pools": {"web": {"steal_after": "0s"}}})
    mine, other = pids_of(service).values()
    os.kill(mine, signal.SIGSTOP)
    wait_for(lambda: stopped(mine), DEADLINE, "a stopped worker")
    load = Numbered(service)
    with load.running(4):
        load.wait(10, by=other)  # and two for the other: the turn goes to empty boxes only
        begun = monotonic()
        load.wait(100, since=begun)
        os.kill(mine, signal.SIGCONT)
        load.wait(5, by=mine)
    load.check(launcher.folder)
    assert stolen(service) == 0


def test_two_that_are_blocked_one_after_the_other_cost_the_primary_nothing(launcher: Launcher) -> None:
    """The first is out of the rotation with a probe in its box, which polls writable; the second's box is full."""
    service = start(launcher, app(SOURCE))
    first, second = pids_of(service).values()
    load = Numbered(service)
    with load.running(16):
        load.wait(20)
        os.kill(first, signal.SIGSTOP)
        wait_for(lambda: stolen(service), DEADLINE, "stolen mail")
        os.kill(second, signal.SIGSTOP)
        listener = service.address()
        more = [socket.create_connection(split(listener), DEADLINE) for _ in range(12)]
        try:
            before, since = ticks(service.pid), monotonic()
            wait_for(lambda: monotonic() - since > 0.5, DEADLINE, "half a second of nothing")
            used = ticks(service.pid) - before
            print(f"CPU of the primary in 0.5 s with all blocked: {used * 1000:.0f} ms")
            os.kill(first, signal.SIGCONT)
            load.wait(20, since=monotonic(), by=first)
            os.kill(second, signal.SIGCONT)
            load.wait(5, since=monotonic(), by=second)
        finally:
            for client in more:
                client.close()
    assert used < 0.2
    load.check(launcher.folder)


def ticks(pid: int) -> float:
    """User and system time of a process, seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def throttled(share: float) -> Iterator[list[str]]:
    """What goes before a command that is to have this share of one processor, and is stopped for the rest of each
    tenth of a second: a group of its own, in whichever version of cgroups has the processor here."""
    old, new = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (old if old.is_dir() else new) / f"clusterd-test-{os.getpid()}"
    group.mkdir()
    try:
        if old.is_dir():
            (group / "cpu.cfs_quota_us").write_text(str(int(share * 100_000)))
        else:
            (group / "cpu.max").write_text(f"{int(share * 100_000)} 100000")
        yield ["sh", "-ec", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group)]
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), DEADLINE, "the end of all in the group")
        group.rmdir()


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can throttle a service")
def test_in_a_group_that_is_throttled_nobody_is_robbed(run_dir: Path, tmp_path: Path) -> None:
    launcher = Launcher(tmp_path, run_dir)
    (launcher.folder / "app.py").write_text(app(SOURCE))
    path = launcher.configuration(workers=4)
    with throttled(0.3) as through:
        try:
            service = launcher.run("--config", str(path), through=through).wait_ready()
            load = Numbered(service, "/burn/0.002")
            with load.running(16):
                load.wait(600, deadline=120)
            assert not load.lost
            count, taken_back = len(load.times), stolen(service)
            print(f"throttled: {taken_back} of {count} connections were taken back, {taken_back / count:.2%}")
            assert taken_back < count / 100
        finally:
            launcher.finish()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_on_a_machine_that_is_merely_saturated_nobody_is_robbed(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE), workers=4)
    load = Numbered(service, "/burn/0.008")
    with load.running(32):
        load.wait(600, deadline=120)
    assert not load.lost
    count, taken_back = len(load.times), stolen(service)
    print(f"saturated: {taken_back} of {count} connections were taken back, {taken_back / count:.2%}")
    assert taken_back < count / 100
