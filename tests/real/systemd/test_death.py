"""The primary dies, or stops turning: systemd starts it again, and nothing that could be saved is lost."""

import socket
import time
from pathlib import Path

import pytest

from tests.real.harness import HELLO
from tests.real.looking import app
from tests.real.systemd.machine import Client, Deployer, Unit
from tests.real.systemd.test_service import SLOW, in_background


def restarted(unit: Unit, before: int) -> int:
    """The new main process, once it is ready."""

    def find(unit: Unit) -> int:
        main, sub = unit.show("MainPID", "SubState")
        return int(main) if sub == "running" and int(main) not in (0, before) else 0

    return unit.wait(find, "a new main process")


def test_after_kill_9_of_the_primary_nothing_is_lost(deploy: Deployer) -> None:
    """Requests in flight are answered by the old workers; connections that come meanwhile wait, and are answered."""
    unit = deploy(SLOW, dropin="[Service]\nRestartSec=500ms\n")
    unit.start()
    before = unit.main
    old = unit.processes()
    sent = [in_background(unit, "/slow2") for _ in range(4)]
    unit.wait(lambda unit: unit.in_flight() == 4, "four requests in flight")
    unit.kill("KILL")
    unit.wait(lambda unit: unit.show("MainPID") == ["0"], "the death of the primary")
    waiting = [in_background(unit, "/") for _ in range(10)]  # connected, with nobody there to accept
    restarted(unit, before)
    for thread, answers in sent + waiting:
        thread.join()
        assert answers[0][0] == 200, answers
    assert unit.records("listening")[-1]["kept"] is True
    unit.wait(lambda unit: not old & unit.processes(), "the end of the old workers")
    assert unit.show("NRestarts", "NFileDescriptorStore") == ["1", "1"]
    assert unit.get().isdigit()


STUCK = app("""
import asyncio, ctypes, os
async def answer(path):
    if path == "/stuck":
        print("stuck from here on", flush=True)
        while True:
            ctypes.PyDLL(None).pause()  # it holds the interpreter's lock: no signal handler of Python's ever runs
    if path == "/child" and os.fork() == 0:
        os.setsid()
        os.execlp("sleep", "sleep", "3600")
    await asyncio.sleep(3600)
""")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "path"),
    [
        ("primary", "/stuck"),
        ("primary and zygote", "/slow"),
        ("primary, zygote and a worker", "/slow"),
    ],
)
def test_whoever_dies_nothing_is_left_behind(deploy: Deployer, who: str, path: str) -> None:
    """Within ``drain_timeout`` and a margin, also where nobody starts the service again."""
    unit = deploy(STUCK, {"shutdown": {"drain_timeout": "2s"}}, dropin="[Service]\nRestart=no\n")
    client = asked(unit, path)
    victims = [unit.main]
    victims += [unit.zygote()] * ("zygote" in who) + sorted(unit.workers())[:1] * ("worker" in who)
    unit.machine.run("kill", "-KILL", *map(str, victims))
    unit.wait_state("failed")
    began = time.monotonic()
    unit.wait_empty()
    assert time.monotonic() - began < 22.0  # ten times the margin of two seconds
    client.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/stuck", "/child"])
def test_what_is_deaf_or_gone_its_own_way_is_ended_by_the_next_primary(deploy: Deployer, path: str) -> None:
    """A worker that hangs in C, and a process in a session of its own, which nothing but the control group tells."""
    unit = deploy(STUCK, {"shutdown": {"drain_timeout": "2s"}})
    client = asked(unit, path)
    before, old = unit.main, unit.processes()
    unit.machine.run("kill", "-KILL", str(before), str(unit.zygote()))
    restarted(unit, before)
    unit.wait(lambda unit: not old & unit.processes(), "the end of what was left")
    client.close()


def asked(unit: Unit, path: str) -> Client:
    """Starts it; whose request keeps a worker from ending."""
    unit.start()
    unit.wait_status("2/2 ready")
    client = unit.client()
    client.request("GET", path)
    if path == "/slow":
        unit.wait(lambda unit: unit.in_flight() == 1, "a request in flight")
    elif path == "/child":
        unit.wait(lambda unit: any(name_of(pid) == "sleep" for pid in unit.processes()), "a process of the app's own")
    else:
        unit.wait(lambda unit: any("stuck from here on" in line for line in unit.journal()), "a worker that is stuck")
    return client


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_a_stop_leaves_no_socket_that_listens_for_nobody(deploy: Deployer) -> None:
    unit = deploy(SLOW)
    unit.start()
    assert unit.wait(lambda unit: unit.show("NFileDescriptorStore") == ["1"], "a stored listener")
    thread, answers = in_background(unit, "/slow1")
    unit.stop(block=False)
    unit.wait(lambda unit: unit.show("NFileDescriptorStore") == ["0"], "an empty store")

    def refused(unit: Unit) -> bool:
        try:
            unit.machine.connect(unit.port).close()
        except ConnectionRefusedError:
            return True
        return False

    unit.wait(refused, "a port that refuses")
    thread.join()
    assert answers[0][0] == 200
    unit.wait_state("inactive")


def test_a_listener_that_is_configured_away_is_forgotten(deploy: Deployer) -> None:
    unit = deploy(HELLO)
    unit.start()
    before = unit.main
    unit.configure({"listeners": {"http": {"address": "127.0.0.1:8001"}}})
    unit.kill("KILL")
    restarted(unit, before)
    unit.port = 8001
    assert unit.get().isdigit()
    with pytest.raises(ConnectionRefusedError):
        Client(unit.machine, 8000).get()
    assert unit.show("NFileDescriptorStore") == ["1"]


def test_a_unix_socket_outlives_the_primary_with_its_file(deploy: Deployer) -> None:
    """In a directory that lives longer than the service; the one of the run directory goes with it."""
    unit = deploy(
        HELLO,
        {"listeners": {"http": {"address": "unix:/srv/sockets/local.sock"}}},
        "--no-socket",
        dropin="[Service]\nReadWritePaths=/srv/sockets\n",
    )
    unit.machine.run("install", "-d", "-m", "777", "/srv/sockets")
    path = unit.machine.root / "srv/sockets/local.sock"
    unit.start()
    before, inode = unit.main, path.stat().st_ino
    unit.kill("KILL")
    unit.wait(lambda unit: unit.show("MainPID") == ["0"], "the death of the primary")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        restarted(unit, before)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert path.stat().st_ino == inode
    unit.stop()
    assert not path.exists()


@pytest.mark.slow
def test_a_frozen_primary_is_ended_by_the_watchdog_and_replaced(deploy: Deployer) -> None:
    unit = deploy(SLOW, dropin="[Service]\nWatchdogSec=1s\nTimeoutAbortSec=1s\n")
    unit.start()
    before = unit.main
    thread, answers = in_background(unit, "/slow3")
    unit.wait(lambda unit: unit.in_flight() == 1, "a request in flight")
    unit.kill("STOP")
    restarted(unit, before)
    assert unit.get().isdigit()
    thread.join()
    assert answers[0][0] == 200  # its worker did not mind
    assert any("Watchdog timeout" in line for line in unit.journal())


BREAKS = """
import sys
if sys.orig_argv[-1].endswith("clusterd.toml") and "run" in sys.orig_argv:
    import os
    from clusterd.core.supervisor import Supervisor
    def handle(self, event, now, sound=Supervisor.handle):
        if os.path.exists("/srv/broken"):
            os.unlink("/srv/broken")
            raise RuntimeError("a fault that was planted")
        return sound(self, event, now)
    Supervisor.handle = handle
"""


@pytest.mark.slow
def test_a_primary_that_knows_itself_broken_has_itself_replaced(deploy: Deployer) -> None:
    """`WATCHDOG=trigger`: its loop turns and would beat for ever, and what its rules know is not what is."""
    unit = deploy(
        SLOW,
        dropin="[Service]\nWatchdogSec=600s\nTimeoutAbortSec=1s\nReadWritePaths=/srv\nDynamicUser=no\nUser=\n"
        "Environment=PYTHONPATH=/opt/broken:/opt/clusterd/src\n",
    )
    unit.machine.write("/opt/broken/sitecustomize.py", BREAKS)
    unit.start()
    before = unit.main
    thread, answers = in_background(unit, "/slow3")
    unit.wait(lambda unit: unit.in_flight() == 1, "a request in flight")
    unit.machine.write("/srv/broken", "")
    unit.wait(lambda unit: any("the rules failed on" in line for line in unit.journal()), "a fault of the rules")
    restarted(unit, before)
    assert any("Watchdog request" in line for line in unit.journal()), "nobody had waited for the ten minutes"
    assert unit.get().isdigit()
    thread.join()
    assert answers[0][0] == 200  # its worker did not mind


@pytest.mark.slow
def test_a_pool_in_trouble_never_withholds_the_watchdog(deploy: Deployer) -> None:
    """One pool crashes and crashes; the primary is sound, and so the good pool is not restarted for the bad one."""
    unit = deploy(
        HELLO,
        {
            "pools": {
                "web": {"listeners": ["http"]},
                "bad": {"app": "bad:app", "workers": 1, "listeners": ["other"], "restart": {"max_delay": "300ms"}},
            },
            "listeners": {"other": {"address": "127.0.0.1:8001"}},
        },
        dropin="[Service]\nWatchdogSec=1s\n",
    )
    once = "import os\nif os.path.exists('/srv/bad'): os._exit(3)\n"
    unit.machine.write(f"{unit.folder}/bad.py", once + HELLO)
    unit.start()
    before = unit.main
    unit.machine.write("/srv/bad", "")
    unit.machine.run("pkill", "-f", f"clusterd: {unit.name} (worker|zygote) bad")
    gave_up = unit.wait(lambda unit: unit.records("pool_gave_up"), "a pool that has given up")
    assert gave_up[0]["pool"] == "bad"
    unit.wait(lambda unit: unit.status.count("given up"), "a status that says so")
    assert unit.get().isdigit()
    assert (unit.main, unit.show("NRestarts")) == (before, ["0"])
