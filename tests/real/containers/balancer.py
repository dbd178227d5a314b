"""A real load balancer before containers: haproxy, which learns who may be asked by asking ``/readyz``."""

import csv
import os
import select
import socket
import subprocess
from pathlib import Path

from tests.procfs import wait_for
from tests.real.clients import split
from tests.real.containers.engine import DEADLINE, Container

CONFIG = """
global
  stats socket {folder}/stats mode 600 level admin
  maxconn 500
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
  # Who is slow to say that it is well is well: on a busy machine an answer may take its time, and a 503 is one too.
  timeout check 10s
  # One try a request: what a server loses is to be seen, and not hidden by asking another one.
  retries 0
frontend service
  bind fd@{fd}
  default_backend pods
backend pods
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 100ms fall 1 rise 1
{servers}
"""


class Balancer:
    """HAProxy with a server a container; ends with the block.

    Args:
        folder: for its configuration and its socket; a short path.
        containers: who is behind it at first.

    Attributes:
        address: where clients find it.
    """

    def __init__(self, folder: Path, containers: list[Container]) -> None:
        self._stats = folder / "stats"
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            self.address = "{}:{}".format(*listener.getsockname())
            servers = [
                f"  server {number} {one.address()} port {split(one.monitoring())[1]}"
                for number, one in enumerate(containers)
            ]
            config = folder / "haproxy.cfg"
            config.write_text(CONFIG.format(folder=folder, fd=listener.fileno(), servers="\n".join(servers)))
            self._process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(config)],
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        wait_for(self._stats.exists, DEADLINE, f"{self._stats}")
        for number in range(len(containers)):
            self.wait(number, "UP")

    def replace(self, number: int, container: Container) -> None:
        """Server ``number`` is this container from now on; returns when it is asked again."""
        self._say(f"set server pods/{number} state maint")
        host, port = split(container.address())
        self._say(f"set server pods/{number} addr {host} port {port}")
        self._say(f"set server pods/{number} check-port {split(container.monitoring())[1]}")
        self._say(f"set server pods/{number} state ready")
        self.wait(number, "UP")

    def wait(self, number: int, state: str) -> None:
        """Returns when haproxy's own view of a server is ``UP`` or ``DOWN``."""
        wait_for(lambda: self._states()[str(number)].startswith(state), DEADLINE, f"server {number} {state}")

    def _states(self) -> dict[str, str]:
        table = csv.DictReader(self._say("show stat").removeprefix("# ").splitlines())
        # Before its first check a server counts as up; the check's own status tells whether there was one.
        return {
            row["svname"]: row["status"] if row["check_status"] not in ("", "INI") else "UNKNOWN"
            for row in table
            if row["pxname"] == "pods"
        }

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(DEADLINE)
            client.connect(os.fspath(self._stats))
            client.sendall(command.encode() + b"\n")
            parts = []
            while part := client.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()

    def close(self) -> None:
        """Ends it."""
        pidfd = os.pidfd_open(self._process.pid)
        self._process.kill()
        select.select([pidfd], [], [], DEADLINE)
        os.close(pidfd)
        self._process.wait()
