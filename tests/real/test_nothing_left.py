"""Nothing is left behind, with real processes: of a service whose processes are killed in any order, and which nobody
starts again; and what only its next start can end."""

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from tests.procfs import processes_marked, wait_for
from tests.real import scripting
from tests.real.harness import DEADLINE, Launcher, Service, merged
from tests.real.looking import app, ask, descriptors, fields, pids_of, start, title, upgraded, watched, zygote
from tests.real.test_death_of_primary import BRIEF, SOURCE, Request, requests, successor

FAMILY = """
import os, signal, subprocess, sys
DEAF = "trap '' TERM; sleep 300 & exec sleep 300"
async def answer(path):
    if path == "/none":
        return os.getpid()
    inside = subprocess.Popen(["sleep", "300"])
    outside = subprocess.Popen(["sleep", "300"], start_new_session=True)
    stubborn = subprocess.Popen(["sh", "-c", DEAF], start_new_session=True)
    daemon = subprocess.run(["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE).stdout
    forked = os.fork()
    if forked == 0:
        os.setsid()
        signal.pause()
        os._exit(0)
    return [inside.pid, outside.pid, stubborn.pid, int(daemon), forked]
"""
"""Its children: in the worker's group, in sessions of their own, deaf to SIGTERM, a daemon, and a fork without exec."""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    time.sleep(60)
"""


def lifelines(pid: int) -> list[tuple[str, bool]]:
    """The pipes that the kernel is to tell the process of: what each is, and whether it is the end that is read."""
    found = []
    for fd, what in descriptors(pid).items():
        flags = flags_of(pid, fd)
        if what.startswith("pipe:") and flags & fcntl.FASYNC:
            found.append((what, flags & os.O_ACCMODE == os.O_RDONLY))
    return found


def flags_of(pid: int, fd: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return int(next(line for line in lines if line.startswith("flags:")).split()[1], 8)


def writers(what: str, *pids: int) -> list[int]:
    """Those who hold a writing end of a pipe."""
    return [
        pid
        for pid in pids
        for fd, one in descriptors(pid).items()
        if one == what and flags_of(pid, fd) & os.O_ACCMODE != os.O_RDONLY
    ]


def handles_or_ignores(pid: int, key: str, number: int) -> bool:
    return bool(int(fields(pid)[key], 16) >> (number - 1) & 1)


def nothing_is_left(service: Service) -> None:
    service.wait_exit()
    wait_for(lambda: not processes_marked(service.run_dir), DEADLINE, "the end of every process of the service")


def test_the_undertaker_ends_what_the_workers_have_started(launcher: Launcher) -> None:
    service = start(launcher, app(FAMILY), BRIEF)
    with watched(*ask(service), *ask(service), zygote(service)) as processes:
        service.signal(signal.SIGKILL)
        for process in processes:
            process.wait_end()
    nothing_is_left(service)


def test_it_ends_it_also_where_the_worker_was_killed_too(launcher: Launcher) -> None:
    service = start(launcher, app(FAMILY), BRIEF, workers=1)
    (worker,) = pids_of(service).values()
    with watched(worker, *ask(service)) as (leader, *family):
        service.signal(signal.SIGSTOP)  # it is late, and will see none of it
        leader.signal(signal.SIGKILL)
        service.signal(signal.SIGKILL)
        for process in family:
            process.wait_end()
    nothing_is_left(service)


def test_without_an_undertaker_each_worker_ends_what_it_has_started_itself(launcher: Launcher) -> None:
    service = start(launcher, app(FAMILY))
    with watched(zygote(service), *ask(service), *ask(service)) as (forker, *family):
        forker.signal(signal.SIGKILL)
        service.signal(signal.SIGKILL)
        for process in family:
            process.wait_end()
    nothing_is_left(service)


def test_at_its_deadline_too(launcher: Launcher) -> None:
    """A request goes on and on, though the loop turns."""
    source = FAMILY.replace('"/none":', '"/long":\n        import asyncio\n        await asyncio.sleep(1000)')
    service = start(launcher, app(source), BRIEF, workers=1)
    with requests(service, "/long", 1), watched(zygote(service), *ask(service)) as (forker, *family):
        forker.signal(signal.SIGKILL)
        service.signal(signal.SIGKILL)
        for process in family:
            process.wait_end()
    nothing_is_left(service)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_that_keeps_the_interpreter_is_ended_by_the_kernel(launcher: Launcher) -> None:
    """It knows of nothing, and nobody is left who would end it: 16 s are the least for which there is a signal."""
    service = start(launcher, app(SOURCE), BRIEF, workers=1)
    hanging = Request(service, "/hang-in-c")
    hanging.send()
    service.wait_log(lambda record: "hanging" in json.dumps(record))
    with watched(zygote(service), *pids_of(service).values()) as (forker, worker), hanging.socket:
        forker.signal(signal.SIGKILL)
        service.signal(signal.SIGKILL)
        worker.wait_end(160)
    nothing_is_left(service)


def test_one_that_turns_takes_its_end_over(launcher: Launcher) -> None:
    """Or a drain of more than a minute, which no signal has the number for, would be cut short."""
    service = start(launcher, app(SOURCE), {"shutdown": {"drain_timeout": "1h"}}, workers=1)
    (pid,) = pids_of(service).values()
    assert handles_or_ignores(pid, "SigCgt", signal.SIGRTMAX)
    with requests(service, "/until", 1) as (request,), watched(zygote(service)) as (forker,):
        forker.signal(signal.SIGKILL)
        service.signal(signal.SIGKILL)
        wait_for(lambda: handles_or_ignores(pid, "SigIgn", signal.SIGRTMAX), DEADLINE, "a worker that knows")
        (launcher.folder / "end").touch()
        assert request.body() == pid
    nothing_is_left(service)


def test_where_a_drain_is_unbounded_nobody_is_ended(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE), {"shutdown": {"drain_timeout": 0}}, workers=1)
    (pid,) = pids_of(service).values()
    assert lifelines(pid) == []


def test_the_primary_alone_holds_the_lifeline_and_hands_it_on_by_an_upgrade(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE))
    before = pids_of(service)
    ((line, read),) = {*lifelines(next(iter(before.values())))}
    assert read
    for _ in range(2):
        everybody = [service.pid, zygote(service), *pids_of(service).values()]
        for pid in pids_of(service).values():
            assert lifelines(pid) == [(line, True)]
        wait_for(lambda pids=everybody: writers(line, *pids) == [service.pid], DEADLINE, "one writer")  # type: ignore[misc]
        if pids_of(service) == before:
            upgraded(service)
            mark = service.mark()
            with watched(min(before.values())) as (process,):
                process.signal(signal.SIGKILL)
            service.wait_log("worker_ready", after=mark)
    assert len({*before.values()} & {*pids_of(service).values()}) == 1


@pytest.mark.parametrize("undertaker", [True, False])
def test_what_of_a_program_is_deaf_is_ended_by_the_undertaker_or_the_next_primary(
    launcher: Launcher, undertaker: bool
) -> None:
    (launcher.folder / "server.py").write_text(DEAF)
    pool = {"script": "server.py", "ready_when": "running", "restart": {"rapid_exit": "0s"}}
    first = launcher.start("", merged({"listeners": None, "pools": {"web": {"app": None, **pool}}}, BRIEF), workers=1)
    first.wait_log(lambda record: scripting.said(record) == "deaf")
    with watched(zygote(first), *pids_of(first).values()) as (forker, program):
        if not undertaker:
            forker.signal(signal.SIGKILL)
        first.signal(signal.SIGKILL)
        if not undertaker:
            second = successor(launcher, first, BRIEF)
            assert second.wait_log("leftovers")["pids"] == [program.pid]
        program.wait_end(20)


def test_what_a_killed_worker_has_started_is_ended_by_the_next_primary(launcher: Launcher) -> None:
    """Where primary, zygote and worker are killed at once nobody is left but what they started."""
    first = start(launcher, app(FAMILY), BRIEF, workers=1)
    family = ask(first)
    with watched(zygote(first), *pids_of(first).values(), *family) as (forker, worker, *descendants):
        for process in (forker, worker):
            process.signal(signal.SIGSTOP)
        first.signal(signal.SIGSTOP)
        for process in (forker, worker):
            process.signal(signal.SIGKILL)
        first.signal(signal.SIGKILL)
        second = successor(launcher, first, BRIEF)
        assert {*second.wait_log("leftovers")["pids"]} >= {*family}
        for process in descendants:
            process.wait_end()
        assert ask(second, "/none") in pids_of(second).values()


def test_what_has_descendants_of_its_own_is_ended_with_them_at_a_stop(launcher: Launcher) -> None:
    """A process becomes the primary's when its parent has ended; at the end of the primary that has to go fast."""
    source = """
import subprocess
async def answer(path):
    nested = "sh -c 'sh -c \\"sleep 300; true\\"; true'; true"
    return subprocess.Popen(["sh", "-c", nested], start_new_session=True).pid
"""
    service = start(launcher, app(source), workers=1)
    ask(service)
    assert service.stop() == 0
    assert processes_marked(service.run_dir) == []


def test_the_process_of_on_message_ends_with_the_primary_whatever_it_is_at(launcher: Launcher) -> None:
    (launcher.folder / "hooks.py").write_text(
        "import itertools\ndef handle(worker, message):\n    print('at work', flush=True)\n"
        "    sum(itertools.repeat(0, 10**13))\n"
    )
    source = "from clusterd import cluster\ncluster.worker.send('ready')\ncluster.worker.send('work')\ncluster.run()\n"
    service = scripting.start(launcher, "server.py", source, on_message="hooks:handle", ready_when="message", workers=1)
    service.wait_log(lambda record: scripting.said(record) == "at work")
    (hook,) = (pid for pid in processes_marked(service.run_dir) if "worker.hooks" in title(pid))
    with watched(hook) as (process,):
        service.signal(signal.SIGKILL)
        process.wait_end()
    nothing_is_left(service)
