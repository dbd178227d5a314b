"""Real containers: podman with an image store of its own, the image under test, and containers that are watched.

Images are kept between runs, outside of the checkout, in ``~/.cache/clusterd-tests``; each carries what it was made of
in its tag, so one is made anew when that changes and never otherwise. What is a day old is thrown away.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.components import superuser
from tests.real.clients import Metrics, Response, fetch
from tests.real.containers import base

ROOT = Path(__file__).parents[3]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "clusterd-tests")
NETAVARK = [Path(place, "netavark") for place in ("/usr/lib/podman", "/usr/libexec/podman", "/usr/local/lib/podman")]
"""Where the engine looks for the newer of its network programs, which no container here needs."""

DEADLINE = 60.0
"""Seconds that any single wait may take: twenty times what a start takes on a quiet machine."""

#: Without these the runtime would raise limits, which not every machine lets it.
LIMITS = ("--ulimit", "nproc=30000:30000", "--ulimit", "nofile=20000:20000")

#: What Kubernetes' restricted profile asks for, as far as an engine has it, with a user that no file knows.
RESTRICTED = ("--read-only", "--user", "23456:0", "--cap-drop", "all", "--security-opt", "no-new-privileges")

Record = dict[str, Any]


def podman(*arguments: str, check: bool = True, timeout: float = 300.0, cwd: Path = ROOT) -> str:
    """Runs podman on the tests' own store; returns what it printed."""
    done = subprocess.run(
        [*command(), *arguments], capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False
    )
    if check and done.returncode:
        pytest.fail(f"podman {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def command() -> list[str]:
    """Podman with a store, a runtime and groups that need nothing configured on this machine."""
    prefix = superuser()
    if prefix is None:
        pytest.skip("containers need root, or sudo without a password")
    # A store remembers which of the two network programs made it, and refuses to work once that is gone.
    network = "netavark" if any(place.exists() for place in NETAVARK) else "cni"
    store = ["--root", str(CACHE / f"images-{network}"), "--runroot", f"/run/clusterd-tests/{network}"]
    store += ["--storage-driver", "overlay"]
    return [*prefix, "podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none", *store]


@contextmanager
def _alone() -> Iterator[None]:
    """Of several test runs one makes images at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def debian_image() -> str:
    """The name of a base image of Debian 12 with its own Python, made with debootstrap: a minute, once a machine."""
    name = "localhost/clusterd-tests-base:debian12"
    with _alone():
        if not _exists(name):
            root, archive = CACHE / "debian", CACHE / "debian.tar"
            packages = "--include=python3-minimal,python3-venv,libpython3-stdlib"
            prefix = command()[: command().index("podman")]
            make = ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)]
            for step in (make, ["tar", "-C", str(root), "-cf", str(archive), "."], ["rm", "-rf", str(root)]):
                subprocess.run([*prefix, *step], check=True, capture_output=True)
            podman("import", "--quiet", str(archive), name)
            archive.unlink()
    return name


def base_image() -> str:
    """The name of the base image, which is made if it is not there."""
    name = f"localhost/clusterd-tests-base:{base.recipe()}"
    if not _exists(name):
        path = CACHE / "base.tar"
        base.write(path)
        podman("import", "--quiet", str(path), name)
        path.unlink()
    return name


def image(
    dockerfile: Path = ROOT / "Dockerfile", context: Path = ROOT, *, on: str | None = None, own: Path | None = None
) -> str:
    """The name of an image built from ``dockerfile``, with packages that were fetched before.

    Args:
        on: its base; default: :func:`base_image`.
        own: a folder of further packages.
    """
    with _alone():
        start = on or base_image()
        sources = [dockerfile, *(path for path in sorted(context.rglob("*.*")) if _is_source(path, context))]
        told = hashlib.sha256(start.encode())
        for path in [*sources, *(sorted(own.iterdir()) if own else [])]:
            told.update(b"\0".join((path.name.encode(), path.read_bytes())))
        name = f"localhost/clusterd-tests:{told.hexdigest()[:12]}"
        if not _exists(name):
            podman("image", "prune", "--all", "--force", "--filter", "until=24h")
            wheels, pip = _wheels()
            given = ["--volume", f"{wheels}:/wheels:ro", "--volume", f"{pip}:/etc/pip.conf:ro"]
            # What is in a volume is no part of what a cached step is known by.
            given += ["--volume", f"{own}:/own:ro", "--no-cache"] if own else []
            how = ["--format", "docker", "--isolation", "chroot", "--network", "host", "--quiet"]
            podman(
                "build", *how, *given, "--build-arg", f"BASE={start}", "-t", name, "-f", str(dockerfile), str(context)
            )
        return name


def _is_source(path: Path, context: Path) -> bool:
    first = path.relative_to(context).parts[0]
    return path.is_file() and "__pycache__" not in path.parts and (context != ROOT or first in SOURCES)


SOURCES = ("clusterd", "pyproject.toml", "README.md")


def _exists(name: str) -> bool:
    return subprocess.run([*command(), "image", "exists", name], capture_output=True, check=False).returncode == 0


def _wheels() -> tuple[Path, Path]:
    """A folder of what clusterd depends on, and a pip configuration that looks nowhere else."""
    project = (ROOT / "pyproject.toml").read_bytes()
    wheels = (
        CACHE / f"wheels-{sys.version_info.major}{sys.version_info.minor}-{hashlib.sha256(project).hexdigest()[:12]}"
    )
    if not wheels.exists():
        for old in CACHE.glob("wheels-*"):
            shutil.rmtree(old)
        unfinished = CACHE / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        wanted = [f"{ROOT}[fast]", "hatchling>=1.26"]
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(unfinished), *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        next(unfinished.glob("clusterd-*.whl")).unlink()
        unfinished.rename(wheels)
    pip_conf = CACHE / "pip.conf"
    pip_conf.write_text("[global]\nno-index = true\nfind-links = /wheels /own\ndisable-pip-version-check = true\n")
    return wheels, pip_conf


class Container:
    """One container in the foreground, from ``podman run`` to its exit code.

    Args:
        image: its image.
        arguments: the command of the image, ``run --config …``.
        flags: further flags of ``podman run``.
        app: a folder that is seen as ``/app``.
        env: environment variables.
        network: ``host``, or ``none`` for a loopback interface of its own.

    Attributes:
        records: every line that it wrote, in order of arrival: JSON records as they are, other lines as ``{"raw": …}``.
        arrived: when each did, on the monotonic clock.
    """

    def __init__(
        self,
        image: str,
        arguments: Sequence[str] = (),
        *,
        flags: Sequence[str] = (),
        app: Path | None = None,
        env: Mapping[str, str] | None = None,
        network: str = "host",
    ) -> None:
        self.name = f"clusterd-{uuid.uuid4().hex[:12]}"
        self.records: list[Record] = []
        self.arrived: list[float] = []
        self._changed = threading.Condition()
        self._readers_left = 2
        given = ["--volume", f"{app}:/app:ro"] if app else []
        for key, value in (env or {}).items():
            given += ["--env", f"{key}={value}"]
        quiet = ["--log-driver", "none", "--health-interval", "disable", "--network", network]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*command(), "run", "--name", self.name, *quiet, *LIMITS, *given, *flags, image, *arguments],
            cwd=CACHE,  # the engine's monitor leaves a file where it was started, when memory runs out in a container
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout
        assert self.process.stderr
        self._threads = [
            threading.Thread(target=self._read, args=(pipe,), daemon=True)
            for pipe in (self.process.stdout, self.process.stderr)
        ]
        for thread in self._threads:
            thread.start()

    # what it says

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            text = line.decode(errors="replace").rstrip("\n")
            if text.startswith('time="'):
                continue  # the engine's own: that there is no systemd here to run health checks by its timers
            try:
                record = json.loads(text)
            except ValueError:
                record = None
            with self._changed:
                self.records.append(record if isinstance(record, dict) else {"raw": text})
                self.arrived.append(time.monotonic())
                self._changed.notify_all()
        with self._changed:
            self._readers_left -= 1
            self._changed.notify_all()

    def mark(self) -> int:
        """A place in the log, for ``after``."""
        with self._changed:
            return len(self.records)

    def logged(self, event: str | Callable[[Record], object], after: int = 0, **fields: object) -> list[Record]:
        """The records so far with this event and these fields, or for which the predicate is true."""
        with self._changed:
            return self._find(event, after, fields)

    def _find(self, event: str | Callable[[Record], object], after: int, fields: Mapping[str, object]) -> list[Record]:
        return [
            record
            for record in self.records[after:]
            if (event(record) if callable(event) else record.get("event") == event) and fields.items() <= record.items()
        ]

    def wait_log(
        self,
        event: str | Callable[[Record], object],
        deadline: float = DEADLINE,
        *,
        after: int = 0,
        count: int = 1,
        **fields: object,
    ) -> Record:
        """Waits for the ``count``-th such record."""
        end = time.monotonic() + deadline
        with self._changed:
            while len(found := self._find(event, after, fields)) < count:
                if self._readers_left == 0 or not self._changed.wait(end - time.monotonic()):
                    why = "it ended" if self._readers_left == 0 else f"{deadline:g} s passed"
                    pytest.fail(f"{why} before log record {event} {fields or ''}\n{self.transcript()}")
            return found[count - 1]

    def transcript(self) -> str:
        """The last of what it said, for people."""
        return "\n".join(record.get("raw") or json.dumps(record) for record in self.records[-200:])

    def wait_ready(self, workers: int = 1) -> "Container":
        """Waits until the service is ready, and so many of its workers."""
        self.wait_log("service_ready")
        self.wait_log("worker_ready", count=workers)
        return self

    # what it is and answers

    def address(self, listener: str = "http") -> str:
        return str(self.wait_log("listening", listener=listener)["address"])

    def monitoring(self) -> str:
        return str(self.wait_log("monitoring")["address"])

    def get(self, path: str = "/") -> Response:
        """A request to the app on a connection of its own."""
        return fetch(self.address(), path, timeout=DEADLINE)

    def health(self, path: str) -> Response:
        return fetch(self.monitoring(), path)

    def metrics(self) -> Metrics:
        return Metrics(fetch(self.monitoring(), "/metrics").text)

    def pid(self) -> int:
        """The pid of the container's first process, outside of it."""
        return int(podman("inspect", "--format", "{{.State.Pid}}", self.name))

    def exec(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in it."""
        told = [*command(), "exec", self.name, *arguments]
        return subprocess.run(told, capture_output=True, text=True, timeout=DEADLINE, check=False)

    # how it ends

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """A signal to its first process."""
        podman("kill", "--signal", number.name, self.name)

    def stop(self, grace: int = 60) -> int:
        """``podman stop``: the image's stop signal, and SIGKILL after ``grace`` seconds; returns the exit code."""
        podman("stop", "--time", str(grace), self.name)
        return self.wait_exit()

    def wait_exit(self, deadline: float = DEADLINE) -> int:
        """Waits for its end by itself; its exit code. The log is complete then."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the container had not ended after {deadline:g} s\n{self.transcript()}")
        for thread in self._threads:
            thread.join(deadline)
        return code

    def oom_killed(self) -> bool:
        """Whether the engine says that memory ran out in it."""
        return podman("inspect", "--format", "{{.State.OOMKilled}}", self.name) == "true"

    def destroy(self) -> None:
        """Removes it, running or not."""
        podman("rm", "--force", "--time", "0", "--ignore", self.name)
        self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()
        print(f"--- {self.name}\n{self.transcript()}\n--- exit code {self.process.returncode}")
