"""The Debian package: built, installed, run under the real systemd, upgraded, removed."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.harness import HELLO
from tests.real.systemd.machine import CHECKOUT, UNITS, Machine, Unit, in_group

CONFIGURATION = """
[listeners.http]
address = "127.0.0.1:8000"
[pools.web]
app = "app:app"
cwd = "/srv/shop"
workers = 2
"""

INSTALLED = (
    "usr/bin/clusterd",
    "usr/lib/systemd/system/clusterd@.service",
    "usr/lib/systemd/system/clusterd@.socket",
    "usr/share/man/man1/clusterd.1",
    "usr/share/bash-completion/completions/clusterd",
    "usr/share/zsh/vendor-completions/_clusterd",
)

pytestmark = [pytest.mark.needs("dpkg-deb"), pytest.mark.timeout(300)]


def build(folder: Path, *arguments: str) -> Path:
    command = [sys.executable, os.fspath(CHECKOUT / "packaging/debian/build.py"), os.fspath(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def installed(machine: Machine, package: Path) -> Iterator[Machine]:
    install(machine, package)
    # The tests' own variables, by which the other services find the checkout, are not this one's.
    machine.write(f"{UNITS}/clusterd@.service.d/test.conf", "[Service]\nUnsetEnvironment=PYTHONPATH LD_LIBRARY_PATH\n")
    machine.systemctl("daemon-reload")
    yield machine
    machine.run("dpkg", "--purge", "clusterd", check=False)


def install(machine: Machine, package: Path) -> None:
    place = machine.root / "srv/clusterd.deb"
    place.write_bytes(package.read_bytes())
    machine.run("dpkg", "-i", "/srv/clusterd.deb", env={"PYTHONPATH": ""}, timeout=120)


class Packaged(Unit):
    """An instance of the packaged template."""

    @property
    def service(self) -> str:
        return f"clusterd@{self.name}.service"

    def processes(self) -> set[int]:
        return in_group(self.machine.root / "sys/fs/cgroup/system.slice/system-clusterd.slice" / self.service)


@pytest.fixture
def shop(installed: Machine) -> Iterator[Packaged]:
    installed.write("/etc/clusterd/shop.toml", CONFIGURATION)
    installed.write("/srv/shop/app.py", HELLO)
    unit = Packaged(installed, "shop")
    unit.start()
    yield unit
    print("\n".join(unit.transcript()))
    unit.stop()
    unit.wait_empty()


def test_an_installed_service_starts_and_serves(shop: Packaged) -> None:
    assert shop.get().isdigit()
    assert shop.wait_status("2/2 ready") == "2/2 ready, generation 1"
    said = shop.machine.run("clusterd", "status", "--name", "shop", env={"PYTHONPATH": ""}).stdout
    assert "running" in said
    assert "/usr/lib/clusterd/" in shop.machine.run("cat", f"/proc/{shop.main}/maps").stdout


def test_the_packaged_socket_starts_its_service_and_its_connection_is_answered(installed: Machine) -> None:
    installed.write("/etc/clusterd/door.toml", CONFIGURATION)
    installed.write("/srv/shop/app.py", HELLO)
    unit = Packaged(installed, "door")
    installed.systemctl("start", "clusterd@door.socket")
    assert unit.show("ActiveState") == ["inactive"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(installed.root / "run/clusterd-door.sock"))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert unit.show("ActiveState") == ["active"]
    installed.systemctl("stop", "clusterd@door.socket", unit.service)
    unit.wait_empty()


def test_users_and_directories_are_there(installed: Machine) -> None:
    assert "clusterd" in installed.run("getent", "passwd", "clusterd").stdout
    assert installed.run("stat", "-c", "%a", "/etc/clusterd/credentials").stdout.strip() == "700"


def test_man_pages_and_completions_are_understood(installed: Machine) -> None:
    for page in ("man1/clusterd.1", "man5/clusterd.toml.5"):
        done = installed.run("groff", "-man", "-Tutf8", "-ww", f"/usr/share/man/{page}")
        assert done.stderr == ""
        shown = re.sub(".\b", "", done.stdout)  # bold is overstruck
        assert "SIGHUP" in shown or "drain_timeout" in shown
    for shell, file in (("bash", INSTALLED[4]), ("zsh", INSTALLED[5])):
        assert f"_CLUSTERD_COMPLETE={shell}_complete" in (installed.root / file).read_text()
    completed = installed.run(
        "clusterd",
        env={"PYTHONPATH": "", "_CLUSTERD_COMPLETE": "bash_complete", "COMP_WORDS": "clusterd gen", "COMP_CWORD": "1"},
    )
    assert "generate" in completed.stdout


def test_a_newer_package_upgrades_the_running_service_in_place(
    installed: Machine, shop: Packaged, tmp_path: Path
) -> None:
    before, workers = shop.main, shop.workers()
    stop, failures, served = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                served.append(shop.get())
            except OSError as error:
                failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    install(installed, build(tmp_path, "--version", "99.0.0"))
    shop.wait(lambda shop: shop.records("upgraded"), "a primary that has been upgraded")
    shop.wait(lambda shop: shop.workers() == workers, "the same workers")
    stop.set()
    thread.join()
    assert failures == []
    assert served
    assert (shop.main, shop.show("NRestarts")) == (before, ["0"])


def test_it_is_removed_cleanly(machine: Machine, installed: Machine, package: Path, shop: Packaged) -> None:
    for path in INSTALLED:
        assert (machine.root / path).exists() or (machine.root / path).is_symlink(), path
    machine.run("dpkg", "-r", "clusterd", timeout=120)
    assert not shop.processes()
    for path in INSTALLED:
        assert not (machine.root / path).exists(), path
    assert not (machine.root / "usr/lib/clusterd").exists()
    assert (machine.root / "etc/clusterd/shop.toml").exists()  # what somebody has written is his
    install(machine, package)
    shop.start()  # as before
    assert shop.get().isdigit()
