"""Memory and CPUs of a container: leaks, kills by the kernel, and limits that change while it runs."""

import time
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real.containers.conftest import Runner
from tests.real.containers.engine import DEADLINE, Container
from tests.real.playground import Load

pytestmark = [pytest.mark.needs("podman", "runc", "conmon"), pytest.mark.slow, pytest.mark.timeout(300)]

LEAKS = """
import asyncio, os

kept = []

async def leak(rate):
    while True:
        kept.append(bytearray(os.urandom(1)) * (rate // 10))  # written to, so that it is there
        await asyncio.sleep(0.1)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        task = None
        while True:
            phase = (await receive())["type"]
            if phase == "lifespan.startup" and os.environ.get("CLUSTERD_SLOT") == "0":
                task = asyncio.create_task(leak(int(os.environ["LEAK"])))
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    what, _, number = scope["path"].strip("/").partition("/")
    if what == "take":
        kept.append(bytearray(b"x") * (int(number) * 1_000_000))
    body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def leaking(runner: Runner, *, soft: float, hard: float) -> Container:
    """Two workers in 220 MiB, of which the one in slot 0 leaks 15 MB a second.

    Thresholds are lower than usual: a busy machine may be seconds late, and the leak would go on meanwhile.
    """
    settings = {"memory": {"soft": soft, "hard": hard}}
    flags = ["--memory", "220m", "--memory-swap", "220m"]
    return runner.start(LEAKS, settings, flags=flags, env={"LEAK": "15000000"})


def test_a_leaking_worker_is_replaced_before_the_limit_and_nothing_is_lost(runner: Runner) -> None:
    service = leaking(runner, soft=0.7, hard=0.95)
    with Load(service.address()).running(4) as load:
        for number in (1, 2):
            said = service.wait_log("memory_pressure", count=number)
            assert "it is replaced" in said["reason"], said
            assert "MiB a second" in said["reason"]
            service.wait_log("worker_exited", worker=said["worker"])
    assert load.lost == []
    assert load.answered > 100
    assert not service.logged("worker_killed")
    metrics = service.metrics()
    assert metrics.value("clusterd_worker_exits_total", reason="recycled") == 2
    assert metrics.value("clusterd_cgroup_oom_kills_total") == 0
    assert service.stop() == 0
    assert not service.oom_killed()


def test_at_the_last_threshold_the_fattest_is_killed_and_the_others_live(runner: Runner) -> None:
    service = leaking(runner, soft=0.0, hard=0.75)
    said = service.wait_log("memory_pressure")
    assert "it is killed" in said["reason"]
    killed = service.wait_log("worker_killed")
    assert (killed["worker"], killed["slot"], killed["reason"]) == (said["worker"], 0, "memory")
    service.wait_log("worker_ready", count=3)
    assert service.get("/").status == 200
    metrics = service.metrics()
    assert metrics.value("clusterd_worker_kills_total", reason="memory") == 1
    assert metrics.value("clusterd_cgroup_oom_kills_total") == 0
    assert service.stop() == 0
    assert not service.oom_killed()


def test_a_kill_by_the_kernel_is_named_as_one(runner: Runner) -> None:
    flags = ["--memory", "150m", "--memory-swap", "150m"]
    service = runner.start(LEAKS, {"memory": {"guard": False}}, flags=flags, env={"LEAK": "0"})
    with pytest.raises(OSError, match=r"."):
        service.get("/take/500")
    ended = service.wait_log("worker_exited")
    assert (ended["signal"], ended["reason"]) == ("SIGKILL", "oom")
    report = service.wait_log("crash_report")
    assert "killed by the kernel: the memory limit was reached" in report["cause"]
    service.wait_log("worker_ready", count=3)  # the container lives: the worker was to go first
    metrics = service.metrics()
    assert metrics.value("clusterd_worker_exits_total", reason="oom") == 1
    assert metrics.value("clusterd_cgroup_oom_kills_total") >= 1
    mark = service.mark()
    (pid,) = (row for row in pids_inside(service)[:1])
    service.exec("python3", "-c", f"import os, signal; os.kill({pid}, signal.SIGKILL)")
    assert service.wait_log("worker_exited", after=mark)["reason"] == "crash"  # a SIGKILL of somebody else's
    assert service.stop() == 0


def pids_inside(service: Container) -> list[int]:
    """Workers, by the answers of the app."""
    return sorted({int(service.get("/").text) for _ in range(4)})


def quota_file(pid: int) -> Path:
    """Where the CPU quota of a process's group is written, outside of it: version 1 or 2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controllers}{group}/cpu.cfs_quota_us")
        if not controllers and Path(f"/sys/fs/cgroup{group}/cpu.max").exists():
            return Path(f"/sys/fs/cgroup{group}/cpu.max")
    pytest.fail("no group of the container has a CPU quota")


def test_the_number_of_workers_follows_the_cpus_while_it_runs(runner: Runner) -> None:
    service = runner.start(settings={"pools": {"web": {"workers": "auto"}}}, workers=1, flags=["--cpus", "1"])
    time_of_one = time.monotonic()
    assert service.metrics().value("clusterd_pool_workers_desired") == 1
    file = quota_file(service.pid())
    for quota, workers in ((200_000, 2), (100_000, 1)):
        mark = service.mark()
        file.write_text(f"{quota} 100000" if file.name == "cpu.max" else str(quota))
        assert service.wait_log("cpus_changed", after=mark)["cpus"] == workers
        wait_for(lambda n=workers: ready(service) == n, DEADLINE, f"{workers} workers")
    print(f"followed twice in {time.monotonic() - time_of_one:.1f} s")
    assert service.stop() == 0


def ready(service: Container) -> float:
    return service.metrics().value("clusterd_pool_workers", state="ready")
