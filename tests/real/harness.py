"""A real ``clusterd run`` under test: started as a process, watched through what it tells the world, always ended.

Nothing is polled that announces itself: log records, notifications and the end of the process wake the waiting test.
"""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from tests.procfs import processes_marked, wait_for
from tests.real.clients import Metrics, Response, UnixConnection, ask, connect, dial, fetch

T = TypeVar("T")
Record = dict[str, Any]
Settings = Mapping[str, Any]

DEADLINE = 20.0
"""Seconds that any single wait may take: ten times what a busy machine needs for a start."""

IN_TURN: Settings = {"pools": {"web": {"steal_after": "0s"}}}
"""Settings for tests that say whose turn it is, which must not depend on how busy the machine is: a connection that a
worker has not taken after a while, because it waited for a processor, would go to another."""

HELLO = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"]
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
"""The smallest app with a lifespan; it answers with the pid of its worker."""

NOT_INHERITED = ("CLUSTERD_", "LISTEN_", "NODE_", "PORT", "WEB_CONCURRENCY", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY")
"""Beginnings of variables that a service under test must not inherit from whoever runs the tests."""


def merged(base: Settings, over: Settings) -> dict[str, Any]:
    """``base`` with ``over`` laid over it, table by table; ``None`` takes a key out."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(result.get(key, {}), value)
        else:
            result[key] = value
    return result


def toml(settings: Settings, path: tuple[str, ...] = ()) -> str:
    """The file that reads as ``settings``. JSON's strings, numbers and arrays are TOML's too."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    tables = [toml(value, (*path, key)) for key, value in settings.items() if isinstance(value, Mapping)]
    return "\n".join([*lines, *tables]) + "\n"


class Service:
    """A primary with all that descends from it, from ``Popen`` to the proof that nothing is left.

    Attributes:
        records: every line that it wrote, in order of arrival: JSON records as they are, other lines as ``{"raw": …}``.
        notified: every line that it sent to its notify socket.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        run_dir: Path,
        env: Mapping[str, str],
        through: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        python: str | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.records: list[Record] = []
        self.notified: list[str] = []
        self._changed = threading.Condition()
        self._readers_left = 2
        notify_path = run_dir / "test-notify"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(os.fspath(notify_path))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
        environment = inherited | {"NOTIFY_SOCKET": os.fspath(notify_path), "PYTHONUNBUFFERED": "1"} | dict(env)
        environment["CLUSTERD_RUN_DIR"] = os.fspath(run_dir)  # the mark that tests.procfs knows descendants by
        self.process = subprocess.Popen(
            [*through, python or sys.executable, "-m", "clusterd", *arguments],
            cwd=cwd,
            env=environment,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._pidfd = os.pidfd_open(self.process.pid)
        assert self.process.stdout
        assert self.process.stderr
        self._threads = [
            threading.Thread(target=self._read_lines, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._read_lines, args=(self.process.stderr,), daemon=True),
            threading.Thread(target=self._read_notifications, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # what it says

    def _read_lines(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            text = line.decode(errors="replace").rstrip("\n")
            try:
                record = json.loads(text)
            except ValueError:
                record = None
            with self._changed:
                self.records.append(record if isinstance(record, dict) else {"raw": text})
                self._changed.notify_all()
        with self._changed:
            self._readers_left -= 1
            self._changed.notify_all()

    def _read_notifications(self) -> None:
        while datagram := self._notify.recv(65536):
            with self._changed:
                self.notified += datagram.decode().splitlines()
                self._changed.notify_all()

    def mark(self) -> int:
        """A place in the log; ``wait_log(…, after=mark)`` sees only what comes after it."""
        with self._changed:
            return len(self.records)

    def logged(self, event: str | Callable[[Record], object], after: int = 0, **fields: object) -> list[Record]:
        """The records so far that have this event and these fields, or for which the predicate is true."""

        def matches(record: Record) -> bool:
            said = event(record) if callable(event) else record.get("event") == event
            return bool(said) and fields.items() <= record.items()

        with self._changed:
            return [record for record in self.records[after:] if matches(record)]

    def wait_log(
        self,
        event: str | Callable[[Record], object],
        deadline: float = DEADLINE,
        *,
        after: int = 0,
        count: int = 1,
        **fields: object,
    ) -> Record:
        """Waits for the ``count``-th record with this event and these fields, or for which the predicate is true."""
        name = event if isinstance(event, str) else "a record that fits"

        def find() -> Record | None:
            found = self.logged(event, after, **fields)
            return found[count - 1] if len(found) >= count else None

        return self._wait(find, deadline, f"log record {name} {fields or ''}")

    def wait_notify(self, line: str, deadline: float = DEADLINE, *, after: int = 0) -> str:
        """Waits for a notification that begins with ``line``, such as ``READY=1`` or ``STATUS=``."""

        def find() -> str | None:
            return next((said for said in self.notified[after:] if said.startswith(line)), None)

        return self._wait(find, deadline, f"notification {line}")

    def wait_ready(self, deadline: float = DEADLINE) -> "Service":
        """Waits until it says so, also in its log: that is written by a thread, which a notification may outrun, and a
        :meth:`mark` would then lie before what the service said of its start."""
        self.wait_notify("READY=1", deadline)
        self.wait_log("service_ready", deadline)
        return self

    # where it is

    def address(self, listener: str = "http") -> str:
        """The address that the listener really has, once it is open."""
        return str(self.wait_log("listening", listener=listener)["address"])

    def monitoring(self) -> str:
        return str(self.wait_log("monitoring")["address"])

    # what it answers

    def get(self, path: str = "/", *, listener: str = "http", timeout: float = DEADLINE) -> Response:
        """A request to the app on a connection of its own."""
        return fetch(self.address(listener), path, timeout=timeout)

    @contextmanager
    def client(self, *, listener: str = "http", timeout: float = DEADLINE) -> Iterator[http.client.HTTPConnection]:
        """A kept-alive connection to the app, for :func:`ask`."""
        connection = dial(self.address(listener), timeout)
        try:
            yield connection
        finally:
            connection.close()

    def connect(self, *, listener: str = "http", timeout: float = DEADLINE) -> socket.socket:
        """A raw connection to the app; the caller closes it."""
        return connect(self.address(listener), timeout)

    def health(self, path: str) -> Response:
        """``/livez``, ``/readyz``, ``/startupz``."""
        return fetch(self.monitoring(), path)

    def metrics(self) -> Metrics:
        return Metrics(fetch(self.monitoring(), "/metrics").text)

    def control(self, path: str, method: str = "GET") -> Response:
        """A request on the control socket."""
        connection = UnixConnection(self.run_dir / "control.sock", DEADLINE)
        try:
            return ask(connection, path, method)
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        answer = self.control("/v1/status")
        assert answer.status == 200, answer
        status = answer.json()
        assert isinstance(status, dict)
        return status

    def workers(self, pool: str = "web") -> list[dict[str, Any]]:
        """The workers of a pool as the status has them: ``id``, ``slot``, ``pid``, ``state`` …; leaving ones last."""
        (entry,) = (entry for entry in self.status()["pools"] if entry["name"] == pool)
        return [*(slot["worker"] for slot in entry["slots"] if slot["worker"]), *entry["leaving"]]

    def cli(self, *arguments: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """A command of the command line, sent to this primary by its run directory."""
        command = [sys.executable, "-m", "clusterd", *arguments, "--run-dir", os.fspath(self.run_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    # how it ends

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def alive(self) -> bool:
        return self.process.returncode is None and not select.select([self._pidfd], [], [], 0)[0]

    def wait_exit(self, deadline: float = DEADLINE) -> int:
        """Waits for the primary's end; its exit code, or minus the signal's number. The log is complete then."""
        if not select.select([self._pidfd], [], [], deadline)[0]:
            pytest.fail(f"the primary had not ended after {deadline:g} s\n{self.transcript()}")
        code = self.process.wait()
        if not processes_marked(self.run_dir):
            self._join()
        return code

    def stop(self, deadline: float = DEADLINE) -> int:
        """SIGTERM, and the exit code that follows."""
        self.signal(signal.SIGTERM)
        return self.wait_exit(deadline)

    def finish(self) -> None:
        """Ends it as an orchestrator would, if it still runs; fails if that is not clean, or if a process is left."""
        try:
            if self.alive():
                assert self.stop() == 0, "the primary did not end cleanly"
            wait_for(lambda: not processes_marked(self.run_dir), DEADLINE, "the end of every process of the service")
        finally:
            self.destroy()
            print(f"{self.transcript()}\n--- exit code {self.process.returncode}")

    def destroy(self) -> None:
        """Kills whatever is left, by force, and closes what the test holds of it."""
        while left := processes_marked(self.run_dir):
            for pid in left:
                kill(pid)
        self.process.wait()
        self._notify.shutdown(socket.SHUT_RDWR)
        self._join()
        self._threads[-1].join()
        self._notify.close()
        os.close(self._pidfd)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def _join(self) -> None:
        for thread in self._threads[:2]:
            thread.join(DEADLINE)

    def transcript(self, last: int = 200) -> str:
        """The last of what it said, for people."""
        with self._changed:
            lines = [record.get("raw") or json.dumps(record) for record in self.records[-last:]]
            return "\n".join(["--- notified", *self.notified, "--- log", *lines])

    def _wait(self, find: Callable[[], T | None], deadline: float, what: str) -> T:
        end = time.monotonic() + deadline
        ended = False
        with self._changed:
            while (found := find()) is None:
                if self._readers_left == 0 and not ended:
                    ended = True
                    end = min(end, time.monotonic() + 0.5)  # what it sent before its end may still be on its way
                left = end - time.monotonic()
                if left <= 0:
                    why = f"the service ended before {what}" if ended else f"no {what} within {deadline:g} s"
                    pytest.fail(f"{why}\n{self.transcript()}")
                self._changed.wait(left)
            return found


def kill(pid: int) -> None:
    """SIGKILL, unless it is gone already."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], DEADLINE)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


class Launcher:
    """Starts services for one test, each in a run directory of its own or in the one given.

    Attributes:
        folder: where the app's source and the configuration are written; also the services' working directory.
    """

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.folder = folder
        self.run_dir = run_dir
        self.services: list[Service] = []

    def configuration(self, settings: Settings | None = None, *, workers: int = 2) -> Path:
        """Writes ``clusterd.toml``: one pool ``web`` of ``app:app`` on a free port, with ``settings`` laid over it.

        A pool that does not say its ``min_ready`` needs all of its workers: a service that is ready with the first of
        two leaves to luck what a test sees of the other, which may have no pid yet.
        """
        base = {
            "config_version": 1,
            "clusterd": {"name": "test", "run_dir": os.fspath(self.run_dir)},
            "listeners": {"http": {"address": "127.0.0.1:0"}},
            "pools": {"web": {"app": "app:app", "workers": workers}},
            "shutdown": {"linger": "200ms", "drain_timeout": "5s"},
            "monitoring": {"address": "127.0.0.1:0"},
            "log": {"format": "json"},
        }
        whole = merged(base, settings or {})
        for pool in whole["pools"].values():
            if isinstance(count := pool.get("workers"), int):
                pool.setdefault("min_ready", count)
        path = self.folder / "clusterd.toml"
        path.write_text(toml(whole))
        return path

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, **how: Any) -> Service:
        """``clusterd run ARGUMENTS`` in :attr:`folder`, not awaited; ``how`` is ``through``, a command that execs it,
        ``pass_fds``, the descriptors that it inherits, and ``python``, what runs it."""
        service = Service(["run", *arguments], cwd=self.folder, run_dir=self.run_dir, env=env or {}, **how)
        self.services.append(service)
        return service

    def start(
        self,
        app: str = HELLO,
        settings: Settings | None = None,
        *,
        workers: int = 2,
        env: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> Service:
        """Writes ``app.py`` and the configuration, runs it, and waits until it is ready unless told otherwise."""
        (self.folder / "app.py").write_text(app)
        service = self.run("--config", os.fspath(self.configuration(settings, workers=workers)), env=env)
        return service.wait_ready() if ready else service

    def finish(self) -> None:
        """Ends all services and fails if one of them did not end cleanly; their logs go to the captured output."""
        with ExitStack() as ending:  # every one of them is ended, also where an earlier one fails
            for service in self.services:
                ending.callback(service.finish)
