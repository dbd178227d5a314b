"""A real systemd in namespaces of its own, and services under it: booted once for all tests, in about a second.

Its network is private: no port of the machine's can clash. Clients are made by threads that have entered it.
"""

import ctypes
import errno
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.procfs import wait_for
from tests.real.harness import merged, toml

T = TypeVar("T")

DEADLINE = 60.0
"""Seconds that any single wait may take."""

BOOT = Path(__file__).with_name("boot.sh")
CHECKOUT = Path(__file__).parents[3]
CLUSTERD = "/opt/clusterd/venv/bin/clusterd"
UNITS = "etc/systemd/system"
_CLONE_NEWNET = 0x40000000


class Machine:
    """The booted manager.

    Args:
        base: an empty directory, for what it writes.
        lower: the root that it is booted from, and that it leaves as it is.

    Attributes:
        pid: of systemd, as this process sees it.
        root: its root directory, as this process sees it.
    """

    def __init__(self, base: Path, lower: Path = Path("/")) -> None:
        namespaces = ["--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--net"]
        enter = ["setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child=KILL", *namespaces]
        self._outer = subprocess.Popen(
            [*enter, "sh", *map(os.fspath, (BOOT, base, CHECKOUT, sys.prefix, sys.base_prefix, lower))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self.pid = self._init()
            self.root = Path(f"/proc/{self.pid}/root")
            wait_for(self._running, DEADLINE, lambda: f"a systemd that runs ({self._said()})")
            self._inside = ThreadPoolExecutor(1, initializer=self.enter_network)
        except BaseException:
            self.close()
            raise

    def _init(self) -> int:
        """The child of `unshare`, which becomes systemd."""
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")

        def find() -> int:
            if self._outer.poll() is not None:
                pytest.fail(f"no systemd booted: {self._said()}")
            return next((int(pid) for pid in children.read_text().split() if _name(int(pid)) == "systemd"), 0)

        return wait_for(find, DEADLINE, "a process that is systemd")

    def _running(self) -> bool:
        # "degraded": some unit of the machine's own has failed, which is nothing to us.
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def _said(self) -> str:
        if self._outer.poll() is None:
            return "it still runs"
        assert self._outer.stdout
        return self._outer.stdout.read()

    def close(self) -> None:
        """Ends it with all that runs in it."""
        if hasattr(self, "_inside"):
            self._inside.shutdown()
        self._outer.kill()
        self._outer.communicate()

    # what runs in it

    def run(
        self, *command: str, check: bool = True, env: Mapping[str, str] | None = None, timeout: float = DEADLINE
    ) -> subprocess.CompletedProcess[str]:
        """A command in it, as root."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", "-n", "-r", "-w"]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        environment |= {"PYTHONPATH": "/opt/clusterd/src", "LD_LIBRARY_PATH": "/opt/clusterd/python/lib"} | dict(
            env or {}
        )
        done = subprocess.run(
            [*enter, *command], env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = DEADLINE) -> str:
        return self.run("systemctl", *arguments, check=check, timeout=timeout).stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file in it, for all to read."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    # its network

    def enter_network(self) -> None:
        """The calling thread makes its sockets in the machine's network from now on, and never again outside."""
        with open(f"/proc/{self.pid}/ns/net") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def inside(self, call: Callable[[], T]) -> T:
        """What ``call`` returns in a thread in its network; calls wait for one another."""
        return self._inside.submit(call).result()

    def connect(self, port: int, timeout: float = DEADLINE) -> socket.socket:
        return self.inside(lambda: socket.create_connection(("127.0.0.1", port), timeout))

    def thread(self, target: Callable[[], None]) -> threading.Thread:
        """A thread in its network, not started."""

        def run() -> None:
            self.enter_network()
            target()

        return threading.Thread(target=run, daemon=True)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def in_group(group: Path) -> set[int]:
    """The pids in a control group; none where it is not there, or goes while it is read."""
    try:
        return set(map(int, (group / "cgroup.procs").read_text().split()))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return set()


class Client(http.client.HTTPConnection):
    """A kept-alive connection to a port of the machine's."""

    def __init__(self, machine: Machine, port: int, timeout: float = DEADLINE) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self._machine = machine

    def connect(self) -> None:
        self.sock = self._machine.connect(self.port, self.timeout or DEADLINE)

    def get(self, path: str = "/") -> tuple[int, str]:
        self.request("GET", path)
        response = self.getresponse()
        return response.status, response.read().decode()


class Unit:
    """A service under the machine's systemd, deployed from a configuration.

    Attributes:
        name: without ``.service``.
        folder: where its configuration and its app are.
    """

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.folder = f"/srv/{name}"
        self.port = 8000
        self.settings: Mapping[str, Any] = {}

    @property
    def service(self) -> str:
        return f"{self.name}.service"

    # what is asked of it

    def start(self, *, check: bool = True, block: bool = True) -> None:
        self.machine.systemctl("start", *([] if block else ["--no-block"]), self.service, check=check)

    def stop(self, *, block: bool = True) -> None:
        self.machine.systemctl("stop", *([] if block else ["--no-block"]), self.service)

    def kill(self, number: str = "KILL", whom: str = "main") -> None:
        """A signal to its main process, or to ``all``."""
        self.machine.systemctl("kill", f"--kill-whom={whom}", "-s", number, self.service)

    def dropin(self, text: str) -> None:
        """Further lines of its unit."""
        self.machine.write(f"{UNITS}/{self.service}.d/test.conf", text)
        self.machine.systemctl("daemon-reload")

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Other settings, laid over those that it was made with; its units stay as they are."""
        self.machine.write(f"{self.folder}/clusterd.toml", toml(merged(self.settings, settings)))

    def clusterd(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the command line, sent to this service."""
        run_dir = f"/run/clusterd/{self.name}"
        return self.machine.run(CLUSTERD, *arguments, "--run-dir", run_dir, check=check)

    # what it answers

    def client(self, timeout: float = DEADLINE) -> Client:
        return Client(self.machine, self.port, timeout)

    def get(self, path: str = "/") -> str:
        """The body of an answer with 200, on a connection of its own."""
        client = self.client()
        try:
            status, body = client.get(path)
        finally:
            client.close()
        assert status == 200, (status, body)
        return body

    # what systemd says of it

    def show(self, *properties: str) -> list[str]:
        """The values of properties, in the order asked for."""
        said = self.machine.systemctl("show", self.service, *(f"--property={name}" for name in properties))
        found = dict(line.partition("=")[::2] for line in said.splitlines())
        return [found.get(name, "") for name in properties]

    @property
    def main(self) -> int:
        """The main process's pid, as the machine counts."""
        return int(self.show("MainPID")[0])

    def in_flight(self) -> int:
        """Requests that its workers work on."""
        status = json.loads(self.clusterd("status", "--json").stdout)
        workers = [slot["worker"] for pool in status["pools"] for slot in pool["slots"] if slot["worker"]]
        return sum(worker["in_flight"] or 0 for worker in workers)

    def workers(self) -> set[int]:
        """Its workers' pids, as the machine counts."""
        status = json.loads(self.clusterd("status", "--json").stdout)
        return {slot["worker"]["pid"] for pool in status["pools"] for slot in pool["slots"] if slot["worker"]}

    def zygote(self) -> int:
        """The pid of its first zygote, as the machine counts."""
        return int(self.machine.run("pgrep", "-f", f"clusterd: {self.name} zygote").stdout.split()[0])

    @property
    def status(self) -> str:
        return self.show("StatusText")[0]

    def wait(self, condition: Callable[["Unit"], T], what: str, deadline: float = DEADLINE) -> T:
        """Waits until the condition is true of it."""
        return wait_for(lambda: condition(self), deadline, lambda: "\n".join([*self.transcript(), what]))

    def wait_state(self, active: str, deadline: float = DEADLINE) -> None:
        self.wait(lambda unit: unit.show("ActiveState")[0] == active, f"{self.name} that is {active}", deadline)

    def wait_status(self, text: str, deadline: float = DEADLINE) -> str:
        """Waits for a status line that contains the text."""
        return self.wait(lambda unit: text in (said := unit.status) and said, f"status {text!r}", deadline) or ""

    def processes(self) -> set[int]:
        """The pids in its control group, as this process sees them."""
        return in_group(self.machine.root / "sys/fs/cgroup/system.slice" / self.service)

    def wait_empty(self, deadline: float = DEADLINE) -> None:
        self.wait(lambda unit: not unit.processes(), f"an empty control group of {self.name}", deadline)

    # what it wrote

    def journal(self) -> list[str]:
        return self.machine.run("journalctl", "-u", self.service, "-o", "cat", "--no-pager").stdout.splitlines()

    def records(self, event: str = "") -> list[dict[str, Any]]:
        """Its own log records, of one event if given."""
        found = []
        for line in self.journal():
            if line.startswith("{"):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if not event or record.get("event") == event:
                    found.append(record)
        return found

    def transcript(self) -> list[str]:
        """The last of what it said and what systemd says of it, for people."""
        return [*self.journal()[-60:], self.machine.systemctl("status", self.service, "-n0", check=False)]

    # its end

    def remove(self) -> None:
        """Ends it, and takes its units away; fails if a process is left."""
        machine = self.machine
        units = [path.name for path in (machine.root / UNITS).glob(f"{self.name}*.s[eo][rc][vk]*") if path.is_file()]
        try:
            sockets = [unit for unit in units if unit.endswith(".socket")]
            if sockets:
                machine.systemctl("stop", *sockets, check=False)
            machine.systemctl("stop", self.service, check=False, timeout=60)
            self.wait_empty()
        finally:
            if self.processes():
                self.kill("KILL", "all")
            machine.systemctl("reset-failed", *units, check=False)
            for unit in units:
                (machine.root / UNITS / unit).unlink()
            machine.systemctl("daemon-reload")


class Deployer:
    """Makes services for one test."""

    def __init__(self, machine: Machine, prefix: str) -> None:
        self.machine = machine
        self._prefix = prefix
        self.units: list[Unit] = []

    def __call__(
        self,
        app: str,
        settings: Mapping[str, Any] | None = None,
        *arguments: str,
        workers: int = 2,
        dropin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Unit:
        """A service of ``app``, with the units that `clusterd generate systemd ARGUMENTS` makes for it; not started."""
        unit = Unit(self.machine, f"{self._prefix}{len(self.units)}")
        self.units.append(unit)
        base = {
            "config_version": 1,
            "clusterd": {"name": unit.name},
            "listeners": {"http": {"address": f"127.0.0.1:{unit.port}"}},
            "pools": {"web": {"app": "app:app", "workers": workers}},
            "shutdown": {"linger": "200ms", "drain_timeout": "5s"},
            "monitoring": {"address": "127.0.0.1:9190"},
        }
        unit.settings = merged(base, settings or {})
        unit.configure({})
        self.machine.write(f"{unit.folder}/app.py", app)
        config = f"{unit.folder}/clusterd.toml"
        generate = [CLUSTERD, "generate", "systemd", "--config", config, "--directory", f"/{UNITS}", "--force"]
        self.machine.run(*generate, *arguments, env=env)
        if dropin:
            self.machine.write(f"{UNITS}/{unit.service}.d/test.conf", dropin)
        self.machine.systemctl("daemon-reload")
        return unit

    def finish(self) -> None:
        for unit in self.units:
            print("\n".join(unit.transcript()))
            unit.remove()
