"""Clusterd as the first process of a container, and beside one: orphans, exit statuses, signals, exit codes, output."""

import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real.clients import fetch
from tests.real.containers.conftest import Runner
from tests.real.containers.engine import DEADLINE, RESTRICTED, Container, podman

pytestmark = [pytest.mark.needs("podman", "runc", "conmon", "catatonit"), pytest.mark.slow, pytest.mark.timeout(300)]

APP = """
import os, sys, time

def orphan(seconds):
    # A grandchild in a session of its own, whose parent ends at once: it is whoever adopts orphans that reaps it.
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(seconds)
            os._exit(5)
        os._exit(0)
    os.waitpid(child, 0)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"]
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    what, _, number = scope["path"].strip("/").partition("/")
    if what == "orphans":
        for _ in range(int(number)):
            orphan(0)
    elif what == "orphan":
        orphan(float(number))
    elif what == "say":
        print("said without a flush", number)
    elif what == "exit":
        os._exit(int(number))
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

QUICK = {"pools": {"web": {"restart": {"initial_delay": "10ms", "max_delay": "10ms", "give_up_after": 0}}}}


def states(container: Container) -> dict[int, str]:
    """Inside the container, pid to the letter of its state."""
    told = container.exec(
        "python3",
        "-c",
        "import pathlib, re\n"
        "for path in pathlib.Path('/proc').glob('[0-9]*/stat'):\n"
        "    try: text = path.read_text()\n"
        "    except OSError: continue\n"
        "    print(path.parent.name, re.sub(r'.*\\) ', '', text)[0])",
    )
    assert told.returncode == 0, told.stderr
    return {int(pid): state for pid, state in (line.split() for line in told.stdout.splitlines())}


def no_zombies(container: Container) -> None:
    wait_for(lambda: "Z" not in states(container).values(), DEADLINE, "the last zombie to be reaped")


@pytest.fixture(params=["pid 1", "init", "shared"])
def service(request: pytest.FixtureRequest, runner: Runner) -> Container:
    """A service as pid 1, under ``--init``, and in a pid namespace that it shares with another container's."""
    flags: list[str] = []
    if request.param == "init":
        flags = ["--init"]
    elif request.param == "shared":
        other = runner.run("-c", "import signal; signal.pause()", flags=["--entrypoint", "python3"])
        wait_for(lambda: podman("inspect", "-f", "{{.State.Pid}}", other.name, check=False) not in ("", "0"), DEADLINE)
        flags = ["--pid", f"container:{other.name}"]
    service = runner.start(APP, QUICK, flags=flags)
    assert (service.logged("starting")[0]["pid"] == 1) == (request.param == "pid 1")
    return service


def test_orphans_are_reaped_and_no_status_is_stolen(service: Container) -> None:
    """Workers end with a code of their own while orphans end by the dozen: each code is told as it was."""
    for code in (17, 18, 19, 20):
        mark = service.mark()
        for _ in range(4):
            service.get("/orphans/10")
        with pytest.raises(OSError, match=r"."):
            service.get(f"/exit/{code}")
        assert service.wait_log("worker_exited", after=mark)["code"] == code
        service.wait_log("worker_ready", after=mark)
    no_zombies(service)
    assert service.stop() == 0


def test_a_living_orphan_delays_no_end(service: Container) -> None:
    service.get("/orphan/600")
    begun = time.monotonic()
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    assert time.monotonic() - begun < 30


def test_a_print_is_seen_while_the_worker_lives(runner: Runner) -> None:
    service = runner.start(APP)
    for number in range(3):
        service.get(f"/say/{number}")
        service.wait_log("output", text=f"said without a flush {number}")


def holds(pid: int, mask: str, number: signal.Signals) -> bool:
    """Whether the signal is in that mask of the process (``SigBlk``, ``SigCgt``)."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{mask}:\s*(\w+)", text, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def test_a_signal_before_there_are_handlers_is_not_lost(runner: Runner, tmp_path: Path) -> None:
    """Pid 1 without a handler loses SIGTERM for good; from the first statement on it is held back instead."""
    runner.write(APP)
    for number in range(20):
        pidfile = tmp_path / f"pid{number}"
        service = runner.run(flags=["--pidfile", str(pidfile)])
        pid = int(wait_for(lambda file=pidfile: file.exists() and file.read_text(), DEADLINE, "a first process"))
        seen = wait_for(lambda p=pid: safe(p), DEADLINE, "a mask or a handler")
        service.signal(signal.SIGTERM)
        assert service.wait_exit() == 0, service.transcript()
        if seen == "held back":
            return
    pytest.fail("SIGTERM is never held back before its handler is there")


def safe(pid: int) -> str:
    """Why SIGTERM would not be lost now; empty if it would."""
    if holds(pid, "SigCgt", signal.SIGTERM) and "clusterd" in Path(f"/proc/{pid}/cmdline").read_text():
        return "caught"
    return "held back" if holds(pid, "SigBlk", signal.SIGTERM) else ""


def test_a_signal_while_it_starts_ends_it(runner: Runner) -> None:
    runner.write("import time\ntime.sleep(300)\n")
    service = runner.run()
    service.wait_log("listening")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0


def test_exit_codes_say_who_is_to_blame(runner: Runner) -> None:
    runner.write("import no_such_module_anywhere\n", QUICK | {"pools": {"web": {"restart": {"give_up_after": 1}}}})
    service = runner.run()
    assert service.wait_exit() == 1
    assert "no_such_module_anywhere" in service.transcript()
    runner.write(APP, {"pools": {"web": {"wokers": 3}}})
    service = runner.run()
    assert service.wait_exit() == 78
    assert "wokers" in service.transcript()
    assert runner.run("rnu").wait_exit() == 2


def test_a_second_term_ends_it_now_with_a_request_in_flight(runner: Runner) -> None:
    slow = APP.replace(
        '    elif what == "exit":', '    elif what == "hang":\n        time.sleep(600)\n    elif what == "exit":'
    )
    service = runner.start(slow)

    def ask() -> None:
        try:
            fetch(service.address(), "/hang/1")
        except OSError:
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_for(lambda: service.metrics().value("clusterd_connections_open") > 0, DEADLINE, "a request in flight")
    service.signal(signal.SIGTERM)
    service.wait_log("stop_began")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 0
    asking.join(DEADLINE)


def test_the_termination_log_tells_why_it_ended(runner: Runner, tmp_path: Path) -> None:
    """As Kubernetes gives it: a file that anybody may write, where nothing else is writable."""
    log = tmp_path / "termination-log"

    def ends(code: int, flags: tuple[str, ...] = ()) -> str:
        log.write_text("")
        log.chmod(0o666)
        mount = ["--volume", f"{log}:/dev/termination-log"]
        assert runner.run(flags=[*RESTRICTED, *mount, *flags]).wait_exit() == code
        return log.read_text()

    runner.write("import no_such_module_anywhere\n", QUICK | {"pools": {"web": {"restart": {"give_up_after": 1}}}})
    told = ends(1).splitlines()
    assert "no worker" in told[0] or "pool web" in told[0], told
    assert "  ModuleNotFoundError: No module named 'no_such_module_anywhere'" in told
    runner.write(APP, {"pools": {"web": {"wokers": 3}}})
    assert "wokers" in ends(78)
    runner.write(APP, {"listeners": {"http": {"address": "192.0.2.1:80"}}})
    assert "192.0.2.1:80" in ends(1)
