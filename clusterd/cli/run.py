"""``clusterd run``: opens everything that can fail, puts the primary and its observers together, and serves."""

import asyncio
import gc
import os
import platform
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click

from .. import config as configuration
from ..config.load import Loaded
from ..core.facts import Fact, ReloadEnded, Stopped
from ..core.reasons import Verdict
from ..errors import EXIT_FAILED, ClusterdError, HostError
from ..ops import admin, http, termination
from ..ops import roles as who
from ..ops.control import Control
from ..ops.journal import Journal
from ..ops.logs import Log
from ..ops.metrics import Metrics
from ..ops.probe import Probe
from ..ops.rates import Rates
from ..ops.status import About
from ..primary import kept, listeners, passed
from ..primary.loop import Loop
from ..primary.plans import plan
from ..primary.service import Eyes, Primary
from ..unix import activation, cgroup, local, process, sockets
from ..wire.reports import Collected, SlowRequest
from . import certificates
from .configure import bind_option, config_option, set_option, workers_option
from .lean import installed_version
from .manager import Manager
from .reload import Reloader
from .sight import HISTOGRAM_WORDS, Sight, Visits
from .steering import Steering

CONTROL_BACKLOG = 64


@click.command()
@click.argument("app", required=False, default="")
@config_option
@workers_option
@bind_option
@set_option
def run(
    app: str, config_path: str | None, workers: str | int | None, binds: Sequence[str], sets: Sequence[str]
) -> None:
    """Run the service in the foreground: APP, or what a configuration file says."""

    def read() -> Loaded:
        return configuration.open_config(config_path, app, workers, binds, sets)

    termination_log = termination.AUTO
    try:
        loaded = read()
        termination_log = loaded.config.log.termination_log
        code = Composition(loaded, read).run()
    except ClusterdError as error:
        termination.leave(termination_log, termination.page(str(error)))
        raise
    sys.exit(code)


class Composition:
    """One run of the primary, from a configuration to an exit code.

    Args:
        loaded: the configuration.
        read: reads it once more, for a reload.

    Raises:
        HostError: something that the configuration asks for cannot be had; nothing is left behind.
    """

    def __init__(self, loaded: Loaded, read: Callable[[], Loaded]) -> None:
        self._loaded = loaded
        self._read = read
        self._primary: Primary | None = None
        self._config = loaded.config
        self._nofile = process.raise_nofile_limit()
        self._bounds: list[local.Bound] = []
        self._opened: dict[str, listeners.Opened] = {}
        self._moved = ""
        self._reason = ""
        control = self._config.control
        self._roles = who.roles(
            (control.operators.users, control.operators.groups), (control.admins.users, control.admins.groups)
        )
        certificates.verify(loaded)
        make_run_dir(self._config.clusterd.run_dir)
        # First: a living primary in the same run directory is a better answer than "the port is taken".
        self._control = self._open_unix(control.socket, control.mode)
        try:
            self._observed = self._open_unix(control.observer_socket, control.observer_mode)
            self._kept = kept.recover(self._config.listeners, activation.take())
            self._opened = listeners.open_all(self._config.listeners, self._kept.given, self._kept.opened)
            self._monitoring = self._open_monitoring()
        except BaseException:
            self._remove_files()
            raise

    def run(self) -> int:
        """Serve until the end; returns the exit code."""
        config = self._config
        process.title(f"clusterd: {config.clusterd.name} primary")
        log = Log(1, config.log.format, config.log.level, config.clusterd.name)
        loop = Loop()
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda _, context: _internal_error(log, context))
        code = EXIT_FAILED
        try:
            gc.collect()
            gc.freeze()  # what is imported stays: the collector need not walk it again and again
            code = loop.run_until_complete(self._serve(loop, log))
        finally:
            self._remove_files()
            loop.close()
            log.close()
        if code:
            report = "" if log.last_report is None else f"\n{log.last_report.text()}\n"
            sys.stderr.write(f"{report}clusterd: {self._reason}\n")
            page = termination.page(self._reason, log.last_report)
            if trouble := termination.leave(config.log.termination_log, page):
                sys.stderr.write(f"clusterd: {trouble}\n")
        return code

    async def _serve(self, loop: asyncio.AbstractEventLoop, log: Log) -> int:
        config = self._config
        name = config.clusterd.name
        sight = Sight()
        about = About(
            name=name,
            pid=os.getpid(),
            version=installed_version(),
            run_dir=config.clusterd.run_dir,
            started_at=loop.time(),
            monitoring=None if self._monitoring is None else passed.show(self._monitoring.getsockname()),
        )
        metrics = Metrics(
            sight,
            about.version,
            self._loaded.sha256,
            warn=lambda metric, why: log.emit("warning", "app_metric_refused", metric=metric, reason=why),
            histograms=HISTOGRAM_WORDS,
        )
        manager = Manager(config, sight, kept.names(self._opened), self._kept.forgotten)
        journal = Journal()
        rates = Rates(loop, sight)
        log.source = sight
        log.on_crash = journal.crash

        def line(pool: str, slot: int | None, worker: int | None, stream: str, text: str) -> None:
            journal.line(pool, slot, worker, stream, text)
            log.line(pool, slot, worker, stream, text)

        def promoted(fact: Fact) -> None:
            if isinstance(fact, ReloadEnded) and fact.verdict is Verdict.PROMOTED and fact.generation is not None:
                metrics.config_sha256 = reloader.hashes.get(fact.generation, metrics.config_sha256)

        eyes = Eyes(
            facts=(promoted, metrics.fact, log.fact, manager.fact, self._remember, journal.fact),
            line=line,
            message=lambda worker, message, fd: _message(log, worker, message, fd),
            report=lambda worker, told: _report(sight, metrics, log, worker, told),
            warn=lambda event, sentence, **fields: log.emit("warning", event, reason=sentence, **fields),
            status=lambda: log.dump(sight.view()),
            reload=lambda: reloader.ask(),  # noqa: PLW0108  # there is none yet
        )
        primary = Primary(
            loop,
            config,
            configuration.policy(config, cpus=cgroup.cpu_count()),
            {pool: plan(pool, declared, config, os.environ, self._nofile) for pool, declared in config.pools.items()},
            self._opened,
            f"{platform.node()}/{name}",
            eyes,
        )
        sight.primary = self._primary = primary
        reloader = Reloader(self._loaded, self._read, primary, log, self._nofile)
        control = Control(sight, about, Steering(primary, reloader), journal, rates, partial(_audit, log))
        probe = Probe(sight, Visits(primary), primary.order)
        servers = []
        if self._control is not None:
            servers.append(await http.start(self._control, control.answers(self._roles)))
        if self._observed is not None:
            servers.append(await http.start(self._observed, control.answers(who.OBSERVERS)))
        if self._monitoring is not None:
            servers.append(await http.start(self._monitoring, admin.monitoring_routes(sight, metrics)))
        self._greet(log, primary, about)
        rates.start()
        probe.start()
        manager.watch()
        try:
            return await primary.run()
        finally:
            rates.close()
            probe.close()
            manager.close()
            self._remove_files()
            for server in servers:
                server.close()

    def _remember(self, fact: Fact) -> None:
        """Why the service ended: the last word on stderr if it had to."""
        if isinstance(fact, Stopped):
            self._reason = fact.reason

    def _greet(self, log: Log, primary: Primary, about: About) -> None:
        log.emit(
            "info", "starting", version=about.version, pid=about.pid, config=self._loaded.file, run_dir=about.run_dir
        )
        for warning in self._loaded.warnings:
            log.emit("warning", "config", reason=warning)
        if self._kept.given.ignored:
            log.emit("warning", "activation_ignored", reason=self._kept.given.ignored)
        for name, address in primary.listeners.addresses.items():
            inherited = self._opened[name].inherited
            how = {"inherited": True} if inherited else {"kept": True} if name in self._kept.opened else {}
            log.emit("info", "listening", listener=name, address=address, **how)
            backlog, most = self._config.listeners[name].backlog, sockets.somaxconn()
            if backlog > most and not inherited:
                log.emit(
                    "warning",
                    "backlog_cut",
                    listener=name,
                    reason=f"backlog {backlog} is cut to {most}, net.core.somaxconn",
                )
        if about.monitoring is not None:
            log.emit("info", "monitoring", address=about.monitoring)
            if self._moved:
                log.emit("warning", "monitoring_moved", address=about.monitoring, reason=self._moved)
        if primary.leftovers.pids:
            log.emit(
                "warning",
                "leftovers",
                reason="workers of an earlier primary are still there",
                pids=[*primary.leftovers.pids],
            )

    # -- what is opened first ------------------------------------------------------------------------------------

    def _open_unix(self, path: str, mode: int) -> socket.socket | None:
        if not path:
            return None
        bound = local.bind_unix(path, mode, CONTROL_BACKLOG)
        self._bounds.append(bound)
        return bound.sock

    def _remove_files(self) -> None:
        """While the sockets are open: only then is it sure that the files there are ours."""
        for one in self._opened.values():
            one.remove()
        if self._primary is not None:
            self._primary.listeners.remove_files()
        for bound in self._bounds:
            bound.remove()
        self._bounds.clear()

    def _open_monitoring(self) -> socket.socket | None:
        address = self._config.monitoring.address
        if address is None:
            return None
        try:
            return sockets.bind_tcp(address.host, address.port, CONTROL_BACKLOG)
        except HostError as error:
            if self._loaded.from_file or address.port == 0:
                raise
            # Nobody chose this port: a second service tried out beside a first must not fail for it.
            sock = sockets.bind_tcp(address.host, 0, CONTROL_BACKLOG)
            self._moved = str(error)
            return sock


def make_run_dir(path: str) -> None:
    """Make the run directory, 0700, or take one that is our own.

    Raises:
        HostError: it is another user's, open to others, or cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(path)
    except OSError as error:
        raise HostError(
            f"cannot make the run directory {path}: {error.filename}: {error.strerror};"
            " set clusterd.run_dir to a directory of your own"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise HostError(f"the run directory {path} is no directory; remove it or set clusterd.run_dir")
    if found.st_uid != os.geteuid():
        raise HostError(
            f"the run directory {path} belongs to uid {found.st_uid}; set clusterd.run_dir to one of your own"
        )
    if found.st_mode & 0o022:
        raise HostError(f"the run directory {path} can be written by others; chmod 700 it, or set clusterd.run_dir")


def _audit(log: Log, action: str, **fields: Any) -> None:
    log.always("audit", action=action, **fields)


def _message(log: Log, worker: int, message: Any, fd: int | None) -> None:
    """A message of the app's to the primary: nobody listens in this version, and nothing is kept of it."""
    if fd is not None:
        os.close(fd)
    log.emit("debug", "message", worker=worker, kind=type(message).__name__)


def _report(sight: Sight, metrics: Metrics, log: Log, worker: int, told: Collected | SlowRequest) -> None:
    """What a worker tells of itself."""
    if isinstance(told, Collected):
        metrics.asking.answered(worker, told.round, told.families)
        return
    child = sight.primary.children.by_id[worker]
    log.slow_request(
        told.stack,
        pool=child.pool,
        slot=child.slot,
        worker=worker,
        method=told.method,
        path=told.path,
        seconds=told.seconds,
        where=told.where,
    )


def _internal_error(log: Log, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    log.emit("error", "internal_error", reason=str(context.get("message")), error=repr(error))
