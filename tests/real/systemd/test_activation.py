"""Sockets that systemd listens on: what started a service is answered, and a restart refuses nobody."""

import socket
import threading

from tests.real.harness import HELLO
from tests.real.looking import app
from tests.real.systemd.machine import UNITS, Deployer, Unit

SCOPE = app("""
async def answer(path):
    return path
""")


def start_socket(unit: Unit, *names: str) -> None:
    unit.machine.systemctl("start", *(names or (f"{unit.name}.socket",)))


def test_the_connection_that_starts_a_service_is_answered(deploy: Deployer) -> None:
    unit = deploy(HELLO, None, "--socket")
    start_socket(unit)
    assert unit.show("ActiveState") == ["inactive"]
    assert unit.get().isdigit()
    assert unit.show("ActiveState") == ["active"]
    assert unit.records("listening")[-1]["inherited"] is True
    assert unit.show("NFileDescriptorStore") == ["0"]  # the socket unit keeps it


def test_several_sockets_find_their_listeners_by_name(deploy: Deployer) -> None:
    """A port below 1024 and a file: systemd listens for them without being asked."""
    unit = deploy(
        SCOPE,
        {
            "listeners": {
                "http": {"address": ":80"},
                "local": {"address": "unix:/run/local.sock", "mode": "0666"},
                "own": {"address": "127.0.0.1:8001"},
            }
        },
    )
    unit.machine.systemctl("start", f"{unit.name}-http.socket", f"{unit.name}-local.socket")
    unit.start()
    listening = {record["listener"]: record for record in unit.records("listening")}
    assert [listening[name].get("inherited", False) for name in ("http", "local", "own")] == [True, True, False]
    for port in (80, 8001):
        unit.port = port
        assert unit.get("/x") == '"/x"'
    path = unit.machine.root / "run/local.sock"
    assert path.stat().st_mode & 0o777 == 0o666
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_what_is_passed_and_not_wanted_is_an_error_that_says_so(deploy: Deployer) -> None:
    unit = deploy(HELLO, None, "--socket")
    more = f"[Socket]\nListenStream=127.0.0.1:9999\nService={unit.service}\n[Install]\nWantedBy=sockets.target\n"
    unit.machine.write(f"{UNITS}/{unit.name}-more.socket", more)
    unit.dropin(f"[Service]\nSockets={unit.name}-more.socket\nRestart=no\n")
    start_socket(unit, f"{unit.name}.socket", f"{unit.name}-more.socket")
    unit.start(check=False)
    unit.wait_state("failed")
    (said,) = (line for line in unit.journal() if "9999" in line and "no listener fits" in line)
    assert f"{unit.name}-more.socket" in said


def test_a_restart_through_the_socket_unit_refuses_nobody(deploy: Deployer) -> None:
    unit = deploy(HELLO, None, "--socket")
    start_socket(unit)
    unit.start()
    stop, failures, served = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", unit.port), 30) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    answer = client.makefile("rb").read()
                (served if answer.startswith(b"HTTP/1.1 200") else failures).append(answer)
            except OSError as error:
                failures.append(error)

    threads = [unit.machine.thread(load) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = unit.main
    for _ in range(2):
        unit.machine.systemctl("restart", unit.service)
    count = len(served)
    unit.wait(lambda unit: len(served) > count + 20, "requests served after the restarts")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert unit.main != before
