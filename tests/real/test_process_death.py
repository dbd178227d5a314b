"""Death, with real processes: of zygotes and of workers, and what they leave behind."""

import signal

import pytest

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher
from tests.real.looking import AT_ONCE, app, ask, children, descriptors, pids_of, start, watched, zombies, zygote


def test_a_zygotes_death_loses_no_status_and_it_is_rebuilt_while_workers_serve(launcher: Launcher) -> None:
    service = start(launcher, app(), AT_ONCE)
    before = pids_of(service)
    with watched(zygote(service)) as (forker,):
        mark = service.mark()
        forker.signal(signal.SIGKILL)
        forker.wait_end()
        ended = service.wait_log("zygote_ended", after=mark)
        assert ended["retry_in"] > 0
        assert ask(service) in before.values()
        service.wait_log("zygote_ready", after=mark)
    assert pids_of(service) == before
    worker, pid = next(iter(before.items()))
    with watched(pid) as (process,):
        process.signal(signal.SIGUSR1)  # its default action ends it
        exited = service.wait_log("worker_exited", worker=worker)
    assert exited["signal"] == "SIGUSR1"
    service.wait_log("worker_ready", after=mark)
    assert zombies(service.pid) == []


@pytest.mark.slow
def test_a_zygote_killed_with_spawns_in_flight_leaves_no_unknown_worker(launcher: Launcher) -> None:
    service = start(launcher, app(), AT_ONCE, workers=4)
    for _ in range(3):
        workers = pids_of(service)
        mark = service.mark()
        with watched(zygote(service), *workers.values()) as (forker, *processes):
            for process in processes:
                process.signal(signal.SIGKILL)
            service.wait_log("worker_exited", after=mark)  # the spawns begin now
            forker.signal(signal.SIGKILL)
        for slot in range(4):
            service.wait_log("worker_ready", after=mark, slot=slot)

        def settled() -> bool:
            return set(children(service.pid)) == {zygote(service), *pids_of(service).values()}

        wait_for(settled, DEADLINE, "the end of every process that nobody announced")
    assert zombies(service.pid) == []


@pytest.mark.slow
def test_a_workers_process_group_dies_with_it_and_its_adopted_grandchildren_are_ended(launcher: Launcher) -> None:
    source = """
import subprocess
async def answer(path):
    inside = subprocess.Popen(["sleep", "300"])
    outside = subprocess.Popen(["sleep", "300"], start_new_session=True)
    deaf = "trap '' TERM; exec sleep 300"
    stubborn = subprocess.Popen(["sh", "-c", deaf], start_new_session=True)
    return [inside.pid, outside.pid, stubborn.pid]
"""
    service = start(launcher, app(source), AT_ONCE, workers=1)
    worker, pid = next(iter(pids_of(service).items()))
    with watched(pid, *ask(service)) as (leader, *descendants):
        leader.signal(signal.SIGKILL)
        assert service.wait_log("worker_exited", worker=worker)["signal"] == "SIGKILL"
        descendants[0].wait_end()  # with its leader
        for process in descendants[1:]:
            process.wait_end()
        for process in descendants[1:]:
            service.wait_log(
                lambda record, pid=process.pid: record.get("event") == "orphan" and str(pid) in record["reason"].split()
            )
    wait_for(lambda: not zombies(service.pid), DEADLINE, "the reaping of what was adopted")


def test_what_was_a_child_before_the_primary_was_one_is_let_be(launcher: Launcher) -> None:
    """As of an entry script that starts something and then executes clusterd."""
    (launcher.folder / "sitecustomize.py").write_text(
        "import subprocess, sys\n"
        "if 'run' in sys.orig_argv: open('beside', 'w').write(str(subprocess.Popen(['sleep', '300']).pid))\n"
    )
    source = "import subprocess\nasync def answer(path):\n    return subprocess.Popen(['setsid', 'sleep', '300']).pid"
    service = start(launcher, app(source), AT_ONCE, workers=1, env={"PYTHONPATH": str(launcher.folder)})
    beside = int((launcher.folder / "beside").read_text())
    (pid,) = pids_of(service).values()
    with watched(pid, beside, ask(service)) as (process, sidecar, orphan):
        process.signal(signal.SIGKILL)
        orphan.wait_end()
        assert not sidecar.ended
        sidecar.signal(signal.SIGKILL)
        wait_for(lambda: not zombies(service.pid), DEADLINE, "its reaping")


@pytest.mark.slow
def test_three_hundred_workers_that_die_at_once_give_three_hundred_statuses(launcher: Launcher) -> None:
    restart = {"initial_delay": "1ms", "max_delay": "1ms", "give_up_after": 0}
    settings = {"pools": {"web": {"preload": False, "restart": restart}}, "log": {"crash_lines": 0}}
    service = start(launcher, "import os\nos._exit(7)", settings, workers=8, ready=False)
    service.wait_log("worker_exited", count=300, deadline=60)
    exits = service.logged("worker_exited")[:300]
    assert [(record.get("code"), record.get("signal")) for record in exits] == [(7, None)] * 300
    assert len({record["worker"] for record in exits}) == 300
    assert max(record["worker"] for record in exits) <= 300 + 8
    assert service.stop() == 0
    assert not [record for record in service.logged("worker_exited", asked=False) if record.get("code") != 7]


def test_ignored_sigchld_is_not_inherited(launcher: Launcher) -> None:
    (launcher.folder / "sitecustomize.py").write_text("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n")
    source = "import os\nasync def answer(path):\n    os._exit(9)"
    service = start(launcher, app(source), AT_ONCE, workers=1, env={"PYTHONPATH": str(launcher.folder)})
    with pytest.raises((ConnectionError, OSError)):
        service.get()
    assert service.wait_log("worker_exited")["code"] == 9


def test_a_worker_that_never_takes_its_mail_and_one_that_dies_with_it_lose_nothing(launcher: Launcher) -> None:
    """A stopped worker's mailbox fills; when it is killed, what lay in it is served by the other."""
    service = start(launcher, app(), {"pools": {"web": {"steal_after": "0s"}}}, workers=2)
    (one, victim) = pids_of(service).items()
    clients = []
    with watched(victim[1]) as (process,):
        process.signal(signal.SIGSTOP)
        for _ in range(12):
            clients.append(service.connect())
            clients[-1].send(b"GET / HTTP/1.0\r\n\r\n")
        wait_for(lambda: service.metrics().value("clusterd_connections_total") >= 8, DEADLINE)
        process.signal(signal.SIGKILL)
        service.wait_log("worker_exited", worker=victim[0])
    for client in clients:
        assert b"200 OK" in client.makefile("rb").read()
        client.close()
    assert service.metrics().value("clusterd_connections_reclaimed_total", reason="dead") >= 1
    assert one[1] in pids_of(service).values()


def test_the_primary_keeps_nothing_of_workers_that_are_gone(launcher: Launcher) -> None:
    service = start(launcher, app(), AT_ONCE, workers=1)
    before = len(descriptors(service.pid))
    for _ in range(5):
        worker, pid = next(iter(pids_of(service).items()))
        with watched(pid) as (process,):
            process.signal(signal.SIGKILL)
            service.wait_log("worker_exited", worker=worker)
        service.wait_log("worker_ready", worker=worker + 1)
    wait_for(lambda: len(descriptors(service.pid)) <= before, DEADLINE, "as few descriptors as before")


def test_a_signal_to_a_child_that_the_app_forked_is_the_childs(launcher: Launcher) -> None:
    """As of ``multiprocessing``, whose ``terminate`` is a SIGTERM: a forked copy of a worker is no worker."""
    source = """
import multiprocessing, os, time
fork = multiprocessing.get_context("fork")
async def answer(path):
    child = fork.Process(target=time.sleep, args=[300])
    child.start()
    child.terminate()
    child.join(20)
    return [os.getpid(), child.exitcode]
"""
    service = start(launcher, app(source), AT_ONCE, workers=1)
    (pid,) = pids_of(service).values()
    assert [ask(service) for _ in range(3)] == [[pid, -signal.SIGTERM]] * 3
    assert not service.logged("worker_exited")
