"""One story of chaos from beginning to end, and what must be true of it."""

import os
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.chaos.crowd import CLIENTS, DEADLINE, Crowd
from tests.chaos.script import WORKERS, Chaos
from tests.procfs import processes_marked, wait_for
from tests.real.clients import split
from tests.real.harness import Launcher, Service, merged
from tests.real.playground import LIVES, up

SETTINGS = {
    "shutdown": {"linger": "2s", "drain_timeout": "10s"},
    "pools": {"web": {"health": {"heartbeat_timeout": "5s"}, "reload": {"canary": "300ms"}}},
}


@dataclass(frozen=True, slots=True)
class Story:
    """What came of it.

    Attributes:
        done: what was done, how often.
        verdicts: how the reloads ended.
        answered: requests, by kind of client.
        lost: what happened to those that were not answered.
        held: connections that dead workers had taken, by the crash reports; ``unread`` the most of one.
        forced: workers that died by force while they drained: of these there is no report, and each may have held all.
        longest: seconds that the longest request on a new connection took.
    """

    seed: int
    done: dict[str, int]
    verdicts: dict[str, int]
    answered: dict[str, int]
    lost: tuple[str, ...]
    held: int
    unread: int
    forced: int
    longest: float

    @property
    def budget(self) -> int:
        """How many requests may be lost."""
        return self.held + self.forced * CLIENTS

    def __str__(self) -> str:
        return (
            f"SEED={self.seed}: {self.done}, {self.verdicts}, {self.answered} answered, {len(self.lost)} lost of"
            f" {self.held} held by the dead and by {self.forced} that drained, longest {self.longest:.2f} s"
        )


def play(launcher: Launcher, seed: int, seconds: float, *, deadly: bool) -> Story:
    """Chaos for so long.

    Raises:
        AssertionError: more was lost than the dead had held, or something was left behind.
    """
    print(f"SEED={seed}")
    service = up(launcher, merged(LIVES, SETTINGS), workers=WORKERS)
    wait_for(lambda: settled(service), DEADLINE)
    before = at_rest(service.pid)
    address = service.address()
    with Crowd(address).running() as crowd:
        chaos = Chaos(seed, service, launcher.folder / "app.py", crowd, deadly=deadly)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            chaos.step()
        chaos.calm()
        wait_for(lambda: settled(service), 3 * DEADLINE, "as many workers as at the start")
        then = crowd.answered
        wait_for(
            lambda: all(crowd.answered[kind] > answered for kind, answered in then.items()),
            DEADLINE,
            "answers to every kind of client",
        )
    # Who leaves by itself leaves nobody behind: only those that a signal or their app ended had taken something along.
    reports = [report for report in service.logged("crash_report") if deadly and "connections_open" in report]
    story = Story(
        seed=seed,
        done=dict(chaos.done),
        verdicts=dict(verdicts(service)),
        answered=crowd.answered,
        lost=tuple(crowd.lost),
        held=sum(report["connections_open"] for report in reports),
        unread=max((report["connections_unread"] for report in reports), default=0),
        forced=len([end for end in service.logged("worker_exited", asked=True) if end.get("signal")]) if deadly else 0,
        longest=crowd.fresh.longest,
    )
    print(story)
    assert len(story.lost) <= story.budget, f"{story}: {Counter(story.lost)}"
    assert story.unread <= 2, story
    assert story.longest < DEADLINE, story
    for event in ("internal_error", "worker_broken", "short_of_resources"):
        assert service.logged(event) == [], story
    assert set(story.verdicts) <= {"promoted", "rolled_back", "superseded"}, story
    # What is scaled away before it is born is killed as it comes; for want of time nobody is who does not hang.
    killed = {record["reason"] for record in service.logged("worker_killed")}
    assert killed <= ({"stop_now", "hang", "drain_timeout"} if deadly else {"stop_now"}), f"{story}: {killed}"
    assert at_rest(service.pid) == before, story
    assert service.stop() == 0
    assert sorted(os.listdir(service.run_dir)) == ["test-notify"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(split(address), DEADLINE)
    return story


# -- what is seen of a service from outside ----------------------------------------------------------------------


def settled(service: Service) -> bool:
    """As many workers as at the start, all of them ready, nobody else, and every reload has its verdict."""
    if len(service.logged("reload_began")) != sum(verdicts(service).values()):
        return False
    states = [worker["state"] for worker in service.workers()]
    return states == ["ready"] * WORKERS and len(processes_marked(service.run_dir)) == WORKERS + 2


def verdicts(service: Service) -> Counter[str]:
    """How its reloads ended."""
    return Counter(record["verdict"] for record in service.logged("reload_ended"))


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
