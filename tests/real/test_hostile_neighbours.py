"""What a worker can do to its neighbours by what it says, takes or prints: hold up itself, and nobody else."""

import http.client
import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from tests.procfs import wait_for
from tests.real.clients import fetch
from tests.real.harness import DEADLINE, IN_TURN, Launcher, Service, kill, merged
from tests.real.looking import AT_ONCE, app, ask, descriptors, fields, pids_of, start
from tests.real.playground import complete, read_until

GET = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"

TOOLS = """
import array, os, select, socket, threading

def channel():
    from clusterd.worker import link
    return link.current._talk._stream._socket

def mailboxes():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                one = socket.socket(fileno=os.dup(int(name)))
                if one.type == socket.SOCK_SEQPACKET:
                    found.append(int(name))
                one.close()
        except OSError:
            continue
    return found

def say(data, own=None):
    own = own or socket.socket(fileno=os.dup(channel().fileno()))
    view = memoryview(data)
    while view:
        select.select([], [own], [])
        try:
            view = view[own.send(view[:65536]):]
        except BlockingIOError:
            continue

def in_thread(call):
    def run():
        try:
            call()
        except OSError:
            pass
    threading.Thread(target=run, daemon=True).start()
"""

SOON = {"shutdown": {"drain_timeout": "300ms", "linger": "100ms"}}
"""Settings for workers that do not drain any more."""

FORGED = [
    '{"cmd":"NODE_CLUSTER","act":"go","settings":{}}',
    '{"cmd":"NODE_CLUSTER","act":"disconnect"}',
    '{"cmd":"NODE_CLUSTER","act":"newconn","key":"1"}',
    '{"cmd":"NODE_CLUSTER","act":"close","key":"http"}',
    '{"cmd":"NODE_CLUSTER","act":"online"}',
    '{"cmd":"NODE_CLUSTER","act":"listening","addressType":4,"port":22,"address":"0.0.0.0"}',
    '{"cmd":"NODE_CLUSTER","act":"ready"}',
    '{"cmd":"NODE_CLUSTER","ack":0,"accepted":true}',
    '{"cmd":"NODE_CLUSTER","ack":-1,"sockname":{"address":"x","port":1}}',
    '{"cmd":"NODE_HANDLE_ACK"}',
    '{"cmd":"NODE_HANDLE_NACK"}',
    '{"cmd":"NODE_CLUSTER","act":"queryServer","seq":1,"index":0,"address":null,"port":1,"addressType":4}',
    '{"cmd":"NODE_CLUSTER","act":"listening"}',
    '{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect"}',
    '{"cmd":"NODE_CLUSTER","act":"failed","stage":"import","report":"a lie"}',
    '{"cmd":"NODE_HANDLE","type":"net.Server","msg":{"cmd":"NODE_CLUSTER","act":"go"}}',
    '{"cmd":"NODE_CLUSTER","act":7}',
    '{"cmd":"NODE_CLUSTER"}',
    '{"cmd":"NODE_' + "x" * 10_000 + '"}',
]
"""Messages of the primary's own, of Node's and of workers in other states."""


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


def resident(pid: int) -> int:
    """``VmRSS`` in KiB."""
    return int(fields(pid)["VmRSS"].split()[0])


def tell(service: Service, path: str) -> None:
    """One request that may end the worker that answers it."""
    try:
        ask(service, path, timeout=5)
    except (OSError, ValueError):
        pass


def test_a_hundred_megabytes_without_a_newline_end_their_worker_and_are_not_kept(launcher: Launcher) -> None:
    source = (
        TOOLS
        + """
async def answer(path):
    if path == "/shout":
        in_thread(lambda: [say(b"x" * 1_000_000) for _ in range(100)])
    return os.getpid()
"""
    )
    service = start(launcher, app(source), merged(AT_ONCE, IN_TURN))
    before = pids_of(service)
    memory, most = resident(service.pid), 0
    shouter = ask(service, "/shout")

    def over() -> bool:
        nonlocal most
        most = max(most, resident(service.pid))
        return bool(service.logged("worker_exited"))

    wait_for(over, DEADLINE, "the end of the worker")
    assert most - memory < 16 * 1024
    service.wait_log("worker_ready", count=3)
    assert "line" in str(service.wait_log("worker_broken"))
    other = next(pid for pid in before.values() if pid != shouter)
    assert other in {ask(service) for _ in range(4)}


def test_forged_messages_change_nothing_for_anybody_else(launcher: Launcher) -> None:
    source = (
        TOOLS
        + f"""
FORGED = {FORGED!r}
async def answer(path):
    if path.startswith("/forge/"):
        say(FORGED[int(path[7:])].encode() + b"\\n")
    return os.getpid()
"""
    )
    service = start(launcher, app(source), merged(AT_ONCE, SOON))
    forgers: set[int] = set()
    for number in range(len(FORGED)):
        with ExitStack() as stack:
            pid = 0

            def reached(stack: ExitStack = stack) -> http.client.HTTPConnection | None:
                nonlocal pid
                client = stack.enter_context(service.client())
                try:
                    client.request("GET", "/")
                    pid = int(client.getresponse().read())
                except (OSError, http.client.HTTPException):
                    return None  # it was the last forger's, who ends now
                return client

            client = wait_for(reached, DEADLINE, "one that answers")
            assert client is not None
            forgers |= {worker["id"] for worker in service.workers() if worker["pid"] == pid}
            try:
                client.request("GET", f"/forge/{number}")
                client.getresponse().read()
            except (OSError, http.client.HTTPException):
                pass  # it has been ended for it
        assert service.health("/livez").status == 200

    def settled() -> bool:
        return [worker["state"] for worker in service.workers()] == ["ready", "ready"]

    wait_for(settled, DEADLINE, "two workers that are ready")
    assert {record["worker"] for record in service.logged("worker_exited")} <= forgers
    wait_for(lambda: {ask(service) for _ in range(8)} == set(pids_of(service).values()), DEADLINE, "both that serve")
    assert service.status()["service"]["state"] == "running"
    assert not service.logged("internal_error")


def test_descriptors_that_nobody_asked_for_are_closed(launcher: Launcher) -> None:
    source = (
        TOOLS
        + """
async def answer(path):
    if path == "/throw":
        own = channel()
        for number in range(100):
            line = b'{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"number":%d}}\\n' % number
            for data, count in ((b"{}\\n", 3), (line, 1), (b"7\\n", 60)):
                sent = False
                while not sent:
                    select.select([], [own], [])
                    try:
                        socket.send_fds(own, [data], [2] * count)
                        sent = True
                    except BlockingIOError:
                        pass
    return os.getpid()
"""
    )
    service = start(launcher, app(source), merged(AT_ONCE, SOON))
    ask(service)
    before = len(descriptors(service.pid))
    tell(service, "/throw")
    wait_for(lambda: len(descriptors(service.pid)) <= before, DEADLINE, "as many descriptors as before")
    service.wait_log(lambda record: record.get("event") == "worker_ready", count=2)
    wait_for(lambda: {ask(service) for _ in range(4)} == set(pids_of(service).values()), DEADLINE, "two that serve")
    assert not service.logged("internal_error")


def test_one_that_says_nothing_for_ever_is_killed_after_start_timeout_and_the_others_serve(launcher: Launcher) -> None:
    """It is born, imports, serves its event loop, and never says a word."""
    source = """
import os
from pathlib import Path
if not Path("spoken").exists():
    Path("spoken").touch()
    from clusterd.worker import link
    link.Link._tell = lambda self, message: None
async def answer(path):
    return os.getpid()
"""
    settings = {"pools": {"web": {"preload": False, "start_timeout": "5s", "min_ready": 1}}}
    service = launcher.start(app(source), merged(merged(AT_ONCE, IN_TURN), settings), workers=2)
    first = ask(service)
    assert service.wait_log("worker_exited")["signal"] == "SIGKILL"
    service.wait_log("worker_ready", count=2)
    assert first in {ask(service) for _ in range(4)}
    assert len(service.logged("worker_exited")) == 1


def test_the_mail_of_one_that_closes_its_mailbox_goes_to_others(launcher: Launcher, held: ExitStack) -> None:
    source = (
        TOOLS
        + """
async def answer(path):
    if path == "/close":
        [os.close(fd) for fd in mailboxes()]
    return os.getpid()
"""
    )
    service = start(launcher, app(source), SOON)
    closer = ask(service, "/close")
    (other,) = set(pids_of(service).values()) - {closer}
    clients = [held.enter_context(service.connect()) for _ in range(40)]
    for client in clients:
        client.sendall(GET)
    answers = [read_until(client, complete) for client in clients]
    assert {int(answer.rpartition(b"\n")[2]) for answer in answers} == {other}
    assert service.metrics().value("clusterd_connections_reclaimed_total", reason="blocked") > 0


def test_one_that_takes_its_mail_and_never_serves_it_costs_its_turns_and_no_more(
    launcher: Launcher, held: ExitStack
) -> None:
    """Nobody can see from outside what becomes of a connection that was taken. What it holds ends with it."""
    source = (
        TOOLS
        + """
held = []
def swallow():
    box = socket.socket(fileno=os.dup(mailboxes()[0]))
    while True:
        select.select([box], [], [])
        try:
            held.append(socket.recv_fds(box, 500, 1))
        except BlockingIOError:
            continue
async def answer(path):
    if path == "/swallow":
        for fd in mailboxes():
            import asyncio
            asyncio.get_running_loop().remove_reader(fd)
        in_thread(swallow)
    return os.getpid()
"""
    )
    service = start(launcher, app(source), merged(merged(AT_ONCE, SOON), IN_TURN), workers=3)
    swallower = ask(service, "/swallow")
    slot = next(str(worker["slot"]) for worker in service.workers() if worker["pid"] == swallower)
    others = set(pids_of(service).values()) - {swallower}
    waiting, served = [], []
    for _ in range(60):
        client = held.enter_context(service.connect())
        client.sendall(GET)
        waiting.append(client)
        if select.select([client], [], [], 0.05)[0]:  # else it was swallowed, or the machine is slow
            served.append(int(read_until(waiting.pop(), complete).rpartition(b"\n")[2]))
    swallowed = service.metrics().value("clusterd_connections_total", slot=slot) - 1
    while len(waiting) > swallowed:
        late = select.select(waiting, [], [], DEADLINE)[0]
        assert late, "one that nobody holds is not answered"
        waiting.remove(late[0])
        served.append(int(read_until(late[0], complete).rpartition(b"\n")[2]))
    assert set(served) == others
    assert swallowed <= 30, "its turns are every third"
    kill(swallower)
    for client in waiting:
        try:
            assert client.recv(1) == b""
        except ConnectionError:
            pass  # as good an end
    assert ask(service) in set(pids_of(service).values()) - {swallower}


def silent(launcher: Launcher, source: str, shell: str, *arguments: str) -> Service:
    """A service whose standard output is what ``shell`` makes of it, behind a unix socket: no log says where it is."""
    (launcher.folder / "app.py").write_text(app(source))
    path = launcher.configuration({"listeners": {"http": {"address": "unix:shop.sock"}}})
    through = ["sh", "-ec", shell, "sh", *arguments]
    service = launcher.run("--config", os.fspath(path), through=through)
    service.wait_notify("READY=1")
    return service


def asked(launcher: Launcher, path: str = "/") -> int:
    response = fetch(f"unix:{launcher.folder}/shop.sock", path)
    assert response.status == 200
    return int(response.body)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_gigabyte_of_output_neither_grows_nor_holds_up_the_primary(launcher: Launcher) -> None:
    source = """
import os, threading
def flood():
    line = b"x" * 65535 + b"\\n"
    for _ in range(16384):
        view = memoryview(line)
        while view:
            view = view[os.write(1, view):]
    open("over", "w").close()
async def answer(path):
    if path == "/flood":
        threading.Thread(target=flood, daemon=True).start()
    return os.getpid()
"""
    service = silent(launcher, source, 'exec "$@" > /dev/null')
    printer = asked(launcher, "/flood")
    memory = resident(service.pid)
    most, slowest, count = memory, 0.0, 0

    def over() -> bool:
        nonlocal most, slowest, count
        begun = monotonic()
        assert asked(launcher) in pids_of(service).values()
        slowest = max(slowest, monotonic() - begun)
        most = max(most, resident(service.pid))
        count += 1
        return (launcher.folder / "over").exists()

    wait_for(over, 150, "the end of the output")
    print(f"{count} answers beside the output, slowest {slowest * 1000:.0f} ms; +{most - memory} KiB")
    assert most - memory < 24 * 1024
    assert slowest < 1.0
    assert printer in pids_of(service).values()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk to fill")
def test_a_full_disk_under_the_log_stops_nobody_and_is_told_when_there_is_room(launcher: Launcher) -> None:
    source = """
import os
async def answer(path):
    if path == "/print":
        for number in range(200):
            print("line", number, "x" * 1000, flush=True)
    return os.getpid()
"""
    disk = launcher.folder / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=128k none "$0"; head -c 65536 /dev/zero > "$0/filler"; exec "$@" > "$0/log"'
    (launcher.folder / "app.py").write_text(app(source))
    path = launcher.configuration({"listeners": {"http": {"address": "unix:shop.sock"}}})
    through = ["unshare", "--mount", "sh", "-ec", script, os.fspath(disk)]
    service = launcher.run("--config", os.fspath(path), through=through)
    service.wait_notify("READY=1")
    seen = Path(f"/proc/{service.pid}/root{disk}")

    def full() -> bool:
        asked(launcher, "/print")
        room = os.statvfs(seen)
        return room.f_bavail == 0

    wait_for(full, DEADLINE, "a full disk")
    workers = set(pids_of(service).values())
    kill(min(workers))  # its end and its successor's beginning cannot be told now
    wait_for(lambda: len(set(pids_of(service).values()) - {min(workers)}) == 2, DEADLINE, "its successor")
    for _ in range(20):
        assert asked(launcher) in pids_of(service).values()
    assert service.status()["service"]["state"] == "running"
    (seen / "filler").unlink()

    def told() -> bool:
        asked(launcher)
        service.signal(signal.SIGUSR1)  # something to say
        return "log_records_dropped" in (seen / "log").read_text(errors="replace")

    wait_for(told, DEADLINE, "the count of what was lost")
