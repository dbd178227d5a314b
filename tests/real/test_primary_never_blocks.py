"""The primary never blocks, with a real one: nobody reads what it says, descriptors run out."""

import http.client
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tests.procfs import processes_marked, wait_for
from tests.real.clients import UnixConnection, ask, fetch
from tests.real.harness import DEADLINE, NOT_INHERITED, Launcher, kill
from tests.real.looking import app, descriptors, fields, pids_of, start

PRINTS = """
import os
async def answer(path):
    print("\\n".join(["a line of output"] * 200))
    return os.getpid()
"""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid: int) -> int:
    return int(fields(pid)["voluntary_ctxt_switches"])


def exhaust(pid: int) -> None:
    """From now on the process cannot have another descriptor: the limit is on their numbers (getrlimit(2))."""
    taken = descriptors(pid)
    lowest_free = min(set(range(len(taken) + 1)) - set(taken))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))


class Unheard:
    """A service to which nobody listens: its standard output, error and notify socket are never read."""

    def __init__(self, launcher: Launcher) -> None:
        self.run_dir = launcher.run_dir
        (launcher.folder / "app.py").write_text(app(PRINTS))
        path = launcher.configuration(workers=1)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.fspath(launcher.run_dir / "notify"))
        self.reading, writing = os.pipe()
        environ = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
        environ |= {"NOTIFY_SOCKET": os.fspath(launcher.run_dir / "notify"), "CLUSTERD_RUN_DIR": str(self.run_dir)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clusterd", "run", "--config", os.fspath(path)],
            cwd=launcher.folder,
            env=environ,
            stdout=writing,
            stderr=writing,
            start_new_session=True,
        )
        os.close(writing)

    def status(self) -> Any:
        connection = UnixConnection(self.run_dir / "control.sock", DEADLINE)
        try:
            return ask(connection, "/v1/status").json()
        except OSError:
            return None
        finally:
            connection.close()

    def close(self) -> None:
        for pid in processes_marked(self.run_dir):
            kill(pid)
        self.process.wait()
        self.notify.close()
        os.close(self.reading)


@contextmanager
def unheard(launcher: Launcher) -> Iterator[Unheard]:
    service = Unheard(launcher)
    try:
        yield service
    finally:
        service.close()


def test_a_service_to_which_nobody_listens_goes_on_serving(launcher: Launcher) -> None:
    with unheard(launcher) as service:

        def ready() -> Any:
            status = service.status()
            return status if status and status["service"]["ready"] else None

        status = wait_for(ready, DEADLINE, "a ready service")
        (listener,) = status["service"]["listeners"]
        for turn in range(40):  # 8,000 lines, into a pipe that holds about 500
            assert fetch(listener["address"], timeout=5).status == 200
            if turn % 2:
                service.process.send_signal(signal.SIGTTIN if turn % 4 == 1 else signal.SIGTTOU)  # a STATUS= each
                assert fetch(status["service"]["monitoring"], "/livez", timeout=5).status == 200
        assert select.select([service.reading], [], [], 0)[0]
        assert len(service.notify.recv(4096)) > 0
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(DEADLINE) == 0
        assert not processes_marked(service.run_dir)


def test_a_primary_without_descriptors_neither_spins_nor_dies(launcher: Launcher) -> None:
    service = start(launcher, app("import os\nasync def answer(path):\n    return os.getpid()"), workers=1)
    limit = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    (worker,) = pids_of(service)
    monitoring = http.client.HTTPConnection(*service.monitoring().split(":"), timeout=5)
    assert ask(monitoring, "/livez").status == 200
    exhaust(service.pid)
    try:
        with service.connect() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            service.wait_log("short_of_resources")
            before = cpu_seconds(service.pid), wake_ups(service.pid), monotonic()
            assert not select.select([client], [], [], 1.2)[0]  # more than a beat of the primary's own
            span = monotonic() - before[2]
            assert cpu_seconds(service.pid) - before[0] < span / 4
            assert wake_ups(service.pid) - before[1] < 100 * span
            assert ask(monitoring, "/livez").status == 200
            assert len(service.logged("short_of_resources")) == 1
            resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limit)
            assert b"200 OK" in client.makefile("rb").read()
    finally:
        monitoring.close()
    assert service.health("/livez").status == 200
    assert list(pids_of(service)) == [worker]
    assert not service.logged("internal_error")


def test_a_pool_that_cannot_be_forked_for_want_of_descriptors_recovers(launcher: Launcher) -> None:
    restart = {"restart": {"initial_delay": "10ms", "max_delay": "50ms", "give_up_after": 0}}
    source = "import os\nasync def answer(path):\n    return os._exit(1) if path == '/end' else None"
    service = start(launcher, app(source), {"pools": {"web": restart}}, workers=1)
    limit = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    with service.client() as client:
        assert ask(client, "/").status == 200
        exhaust(service.pid)
        client.request("GET", "/end")
        service.wait_log("worker_spawn_failed", count=3)
        mark = service.mark()
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, limit)
        service.wait_log("worker_ready", after=mark)
    assert service.health("/livez").status == 200
    assert not service.logged("internal_error")


def test_a_worker_that_prints_without_end_does_not_hold_up_the_primary(launcher: Launcher) -> None:
    source = """
import os, threading
def flood():
    while True:
        os.write(1, b"\\n" * 65536)
async def answer(path):
    threading.Thread(target=flood, daemon=True).start()
    return os.getpid()
"""
    service = start(launcher, app(source), {"shutdown": {"drain_timeout": "300ms"}}, workers=1)
    (worker,) = pids_of(service).values()
    assert service.get().status == 200
    monitoring = service.monitoring()
    slowest = 0.0
    for _ in range(20):
        began = monotonic()
        assert fetch(monitoring, "/livez", timeout=5).status == 200
        slowest = max(slowest, monotonic() - began)
    kill(worker)
    print(f"slowest answer while a worker floods: {slowest * 1000:.0f} ms")
    assert slowest < 1.0
