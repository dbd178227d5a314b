"""More of everything than there is room for: connections, descriptors in flight, descriptors of a worker, output."""

import errno
import os
import resource
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import pytest

from tests.procfs import wait_for
from tests.real.clients import split
from tests.real.harness import DEADLINE, Launcher
from tests.real.looking import app, ask, descriptors, fields, pids_of, start
from tests.real.playground import complete, read_until
from tests.real.refusing import inode_of, refusing

ESTABLISHED = 1  # of enum tcp_state in <netinet/tcp.h>
REQUEST = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"
PIDS = """
import os
hoard = []
async def answer(path):
    if path == "/hoard":
        try:
            while True:
                hoard.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
    elif path == "/release":
        while hoard:
            os.close(hoard.pop())
    return os.getpid()
"""
PRINTS = """
import os, threading
def flood():
    line = b"x" * 65535 + b"\\n"
    for _ in range(800):
        view = memoryview(line)
        while view:
            view = view[os.write(1, view):]
    open("over", "w").close()
async def answer(path):
    if path == "/flood":
        threading.Thread(target=flood, daemon=True).start()
    return os.getpid()
"""


def ticks(pid: int) -> float:
    """User and system time of a process, seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """``VmRSS`` in KiB."""
    return int(fields(pid)["VmRSS"].split()[0])


def idle_for(seconds: float, pid: int) -> float:
    """CPU seconds that the process takes in a time in which nothing is asked of it."""
    before, since = ticks(pid), monotonic()
    wait_for(lambda: monotonic() - since > seconds, DEADLINE, "the end of the watch")
    return ticks(pid) - before


@contextmanager
def clients(address: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections begun, none waited for."""
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            found.append(sock)
            sock.connect_ex(split(address))
        yield found
    finally:
        for sock in found:
            sock.close()


def answers(waiting: Sequence[socket.socket], *, hang_up: bool = False) -> list[bytes]:
    """Sends a request on each as soon as it is connected; returns when all have an answer.

    Each is closed once it has its answer if told to ``hang_up``, all of them at the end otherwise.
    """
    poll = select.poll()
    by_fd = {sock.fileno(): sock for sock in waiting}
    for fd in by_fd:
        poll.register(fd, select.POLLOUT)
    got: list[bytes] = []
    end = monotonic() + DEADLINE
    while by_fd:
        left = end - monotonic()
        assert left > 0, f"{len(got)} of {len(waiting)} were answered within {DEADLINE:g} s"
        for fd, event in poll.poll(left * 1000):
            if event & select.POLLOUT:
                by_fd[fd].sendall(REQUEST)
                poll.modify(fd, select.POLLIN)
                continue
            poll.unregister(fd)
            sock = by_fd.pop(fd)
            sock.setblocking(True)
            got.append(read_until(sock, complete))
            if hang_up:
                sock.close()
    return got


def ok(found: Sequence[bytes]) -> int:
    return sum(answer.startswith(b"HTTP/1.1 200") for answer in found)


@pytest.mark.slow
def test_what_backlog_and_boxes_cannot_hold_waits_outside_and_is_served(launcher: Launcher) -> None:
    listeners = {"http": {"backlog": 16}}
    service = start(launcher, app(PIDS), {"listeners": listeners}, workers=2)
    pids = list(pids_of(service).values())
    assert ask(service) in pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(fields(pid)["State"].startswith("T") for pid in pids), DEADLINE, "stopped workers")
    before, memory = descriptors(service.pid), resident(service.pid)
    with clients(service.address(), 60) as flood:
        held = 2 * 6 + 17  # six a box; listen(2) holds one more than it is told
        used = idle_for(0.5, service.pid)
        inside = [sock for sock in flood if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) == ESTABLISHED]
        assert used < 0.15, f"the primary used {used} s of CPU in 0.5 s"
        assert len(inside) <= held
        assert len(descriptors(service.pid)) == len(before)
        assert resident(service.pid) - memory < 1024
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert ok(answers(flood)) == 60
    assert ask(service) in pids
    assert not service.logged("internal_error")


def in_flight(count: int) -> ExitStack:
    """So many descriptors of this user lie in messages that nobody takes, until closed: unix(7), ETOOMANYREFS."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for begin in range(0, count, 250):
        socket.send_fds(near, [b"x"], [0] * min(250, count - begin))
    stack = ExitStack()
    stack.enter_context(near)
    stack.enter_context(far)
    return stack


def test_a_primary_with_too_many_descriptors_in_flight_says_so_once_and_recovers(launcher: Launcher) -> None:
    """The limit counts all of a user's; root's capabilities lift it, so those are taken from the primary."""
    through = ["setpriv", "--bounding-set", "-sys_resource,-sys_admin"] if os.geteuid() == 0 else []
    (launcher.folder / "app.py").write_text(app(PIDS))
    path = launcher.configuration()
    service = launcher.run("--config", os.fspath(path), through=through).wait_ready()
    pids = set(pids_of(service).values())
    limit = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (200, limit[1]))
    before = descriptors(service.pid)
    for turn in (1, 2):
        flying = in_flight(1000)
        with flying, clients(service.address(), 20) as waiting:
            with flying:
                for sock in waiting:
                    assert select.select([], [sock], [], DEADLINE)[1]
                    sock.sendall(REQUEST)
                service.wait_log("short_of_resources", count=turn)
                assert idle_for(0.5, service.pid) < 0.15
                assert not select.select(waiting, [], [], 0)[0]
                assert service.health("/livez").status == 200
                assert len(service.logged("short_of_resources")) == turn
            for sock in waiting:
                sock.setblocking(True)
            assert ok([read_until(sock, complete) for sock in waiting]) == 20
    said = service.logged("short_of_resources")[0]
    assert "in flight" in str(said), said
    wait_for(lambda: len(descriptors(service.pid)) <= len(before), DEADLINE, "as many descriptors as before")
    assert set(pids_of(service).values()) == pids
    assert not service.logged("internal_error")


def test_a_worker_without_descriptors_loses_nothing_and_its_mail_goes_to_others(launcher: Launcher) -> None:
    settings = {"pools": {"web": {"limits": {"nofile": 64}}}}
    service = start(launcher, app(PIDS), settings)
    with service.client() as client:
        client.request("GET", "/hoard")
        short = int(client.getresponse().read())
        others = set(pids_of(service).values()) - {short}
        for _ in range(4):
            with clients(service.address(), 10) as some:
                got = answers(some)
                assert ok(got) == 10
                by = [int(answer.rpartition(b"\n")[2]) for answer in got]
                assert by.count(short) <= 1  # what its reserve lets in, until that is closed again
                assert set(by) <= others | {short}
        assert service.metrics().value("clusterd_connections_reclaimed_total", reason="blocked") > 0
        client.request("GET", "/release")
        assert int(client.getresponse().read()) == short
    wait_for(lambda: ask(service) == short, DEADLINE, "mail that is taken again")
    assert not service.logged(lambda record: "was lost" in str(record))
    said = service.wait_log(lambda record: "no connections are taken" in str(record))
    assert service.logged(lambda record: "no connections are taken" in str(record)) == [said]


def test_when_all_workers_are_at_their_limit_connections_wait_for_those_that_end(launcher: Launcher) -> None:
    service = start(launcher, app(PIDS), {"pools": {"web": {"limits": {"nofile": 48}}}})
    memory, before = resident(service.pid), descriptors(service.pid)
    with clients(service.address(), 100) as some:
        assert ok(answers(some, hang_up=True)) == 100
    wait_for(lambda: len(descriptors(service.pid)) <= len(before), DEADLINE, "as many descriptors as before")
    assert resident(service.pid) - memory < 1024
    assert not service.logged(lambda record: "was lost" in str(record))
    assert ask(service) in pids_of(service).values()


def test_fifty_megabytes_of_output_neither_grow_nor_hold_up_the_primary(launcher: Launcher) -> None:
    service = start(launcher, app(PRINTS))
    printer = ask(service, "/flood")
    memory = resident(service.pid)
    most, slowest, count = memory, 0.0, 0

    def over() -> bool:
        nonlocal most, slowest, count
        begun = monotonic()
        assert ask(service) in pids_of(service).values()
        slowest = max(slowest, monotonic() - begun)
        most = max(most, resident(service.pid))
        count += 1
        return (launcher.folder / "over").exists()

    wait_for(over, DEADLINE, "the end of the output")
    print(f"{count} answers beside the output, slowest {slowest * 1000:.0f} ms; +{most - memory} KiB")
    assert most - memory < 16 * 1024
    assert slowest < 1.0
    assert printer in pids_of(service).values()


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_machine_that_is_short_of_something_is_waited_for(launcher: Launcher, number: int) -> None:
    """The primary neither spins nor dies, says it once, and goes on by itself; what waits is served then."""
    (launcher.folder / "app.py").write_text(app(PIDS))
    path = launcher.configuration()
    with refusing(launcher.run_dir / "seccomp") as kernel:
        through = kernel.arguments(launcher.run_dir / "seccomp")
        service = launcher.run("--config", os.fspath(path), through=through).wait_ready()
        kernel.inodes = {inode_of(service.pid, split(service.address())[1])}
        for turn in (1, 2):
            assert ask(service) in pids_of(service).values()
            kernel.error = number
            with clients(service.address(), 20) as waiting:
                service.wait_log("short_of_resources", count=turn)
                refused, since = kernel.refused, monotonic()
                assert idle_for(0.5, service.pid) < 0.15
                assert kernel.refused - refused <= (monotonic() - since) / 0.1 + 2, "it tries every 100 ms"
                assert service.health("/livez").status == 200
                assert len(service.logged("short_of_resources")) == turn
                kernel.error = 0
                assert ok(answers(waiting)) == 20
        assert os.strerror(number) in str(service.logged("short_of_resources")[0])
        assert not service.logged("internal_error")
        assert service.stop() == 0


def test_a_worker_that_accepts_by_itself_waits_for_the_machine_too(launcher: Launcher) -> None:
    (launcher.folder / "app.py").write_text(app(PIDS))
    path = launcher.configuration({"pools": {"web": {"scheduling": "none"}}})
    with refusing(launcher.run_dir / "seccomp") as kernel:
        through = kernel.arguments(launcher.run_dir / "seccomp")
        service = launcher.run("--config", os.fspath(path), through=through).wait_ready()
        kernel.inodes = {inode_of(service.pid, split(service.address())[1])}
        kernel.error = errno.ENFILE
        with clients(service.address(), 20) as waiting:
            service.wait_log(lambda record: "no connections are taken" in str(record))
            pids = list(pids_of(service).values())
            assert sum(idle_for(0.3, pid) for pid in pids) < 0.2
            kernel.error = 0
            assert ok(answers(waiting)) == 20
        assert len(service.logged(lambda record: "no connections are taken" in str(record))) <= 2, "once a worker"
        assert list(pids_of(service).values()) == pids
        assert service.stop() == 0
