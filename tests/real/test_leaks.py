"""What connections and deaths of workers leave behind: nothing. The numbers of a long life are in ``tests/bench``."""

import os
import signal
import socket
import threading
from collections import Counter

import pytest

from tests.procfs import processes_marked, wait_for
from tests.real.clients import split
from tests.real.harness import DEADLINE, Launcher, Service, kill, merged
from tests.real.looking import AT_ONCE, app, ask, descriptors, fields, pids_of, start, zygote

CONNECTIONS = 10_000
DEATHS = 100
WORKERS = 4
PATIENCE = 600.0
"""Seconds that so many connections may take on a machine that does much else."""

REQUEST = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"


def kinds(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has; ``/proc`` numbers sockets and pipes, which tells nothing."""
    return Counter(
        "its own in /proc" if what.startswith("/proc/") else what.partition(":[")[0]
        for what in descriptors(pid).values()
    )


def resident(pid: int) -> int:
    """``VmRSS`` in KiB."""
    return int(fields(pid)["VmRSS"].split()[0])


def connections(service: Service, count: int) -> None:
    """So many, four at a time, each with a request that is answered."""
    place = split(service.address())
    lost: list[str] = []

    def some(share: int) -> None:
        for _ in range(share):
            with socket.create_connection(place, DEADLINE) as client:
                client.sendall(REQUEST)
                answer = client.recv(4096)
                while part := client.recv(4096):
                    answer += part
                if not answer.startswith(b"HTTP/1.1 200"):
                    lost.append(repr(answer))

    threads = [threading.Thread(target=some, args=(count // 4,), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not lost


def deaths(service: Service, count: int, how: int = signal.SIGKILL) -> None:
    """So many, all workers of the pool at a time."""
    for _ in range(count // WORKERS):
        mark = service.mark()
        for pid in pids_of(service).values():
            if how == signal.SIGKILL:
                kill(pid)
            else:
                os.kill(pid, how)
        service.wait_log("worker_ready", after=mark, count=WORKERS)


class Held:
    """What the service holds: by kind the descriptors of the primary, its zygote and one worker; processes; memory."""

    def __init__(self, service: Service, worker: int) -> None:
        self.primary = kinds(service.pid)
        self.zygote = kinds(zygote(service))
        self.worker = kinds(worker)
        self.processes = len(processes_marked(service.run_dir))
        self.memory = resident(service.pid)

    def counts(self) -> tuple[object, ...]:
        return self.primary, self.zygote, self.worker, self.processes


def at_rest(service: Service) -> Held:
    """What it holds once that changes no more: answers that have arrived may still be under way to their close."""
    connections(service, 4 * WORKERS)
    worker = ask(service)  # one that has what is made for the first connection: where they share a queue, not all have
    seen: list[Held] = []

    def still() -> bool:
        seen.append(Held(service, worker))
        return len(seen) > 20 and all(one.counts() == seen[-1].counts() for one in seen[-20:])

    wait_for(still, DEADLINE, "a service at rest")
    return seen[-1]


def leave_nothing(service: Service, some: int, many: int) -> tuple[int, int]:
    """``some`` connections, ``many`` deaths; descriptors and processes after them are those before.

    What is kept of the last so many (records, events, reports) is bounded and fills up first: as many deaths before.

    Returns:
        By how many KiB the primary has grown by the connections, and by the deaths.
    """
    connections(service, some // 10)  # what is made once: caches, buffers, records that are kept
    deaths(service, many)
    before = at_rest(service)
    connections(service, some)
    between = resident(service.pid)
    deaths(service, many)
    after = at_rest(service)
    grown = between - before.memory, after.memory - between
    print(
        f"primary: {before.primary.total()} descriptors, {before.memory} KiB;"
        f" +{grown[0]} KiB by {some} connections, +{grown[1]} KiB by {many} deaths"
    )
    assert after.counts() == before.counts()
    assert not service.logged("internal_error")
    return grown


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheduling", ["rr", "none"])
def test_connections_and_deaths_leave_nothing_behind(launcher: Launcher, scheduling: str) -> None:
    settings = merged(AT_ONCE, {"pools": {"web": {"scheduling": scheduling}}})
    service = start(launcher, app(), settings, workers=WORKERS)
    assert sum(leave_nothing(service, CONNECTIONS, DEATHS)) < 2048
