"""``clusterd run``: opens everything that can fail, puts the primary and its observers together, and serves."""

import asyncio
import gc
import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import click

from .. import config as configuration
from ..config.load import Loaded
from ..config.schema import Pool
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
from ..primary import doors, kept, listeners, passed, resuming, state
from ..primary.handed import SocketState
from ..primary.handover import Handover
from ..primary.loop import Loop
from ..primary.plans import plan, verify_cpus
from ..primary.service import Eyes, Primary
from ..spawner.client import Plan
from ..unix import activation, batch, cgroup, local, process, signals, sockets
from . import certificates, hearing, succession
from .configure import bind_option, config_option, set_option, workers_option
from .lean import installed_version
from .manager import Manager
from .reload import Reloader
from .rundir import make_run_dir
from .sight import HISTOGRAM_WORDS, Sight, Visits
from .steering import Steering
from .upgrade import Upgrader

CONTROL_BACKLOG = 64


@click.command()
@click.argument("app", required=False, default="")
@config_option
@workers_option
@bind_option
@set_option
@click.option("--upgrade-check", "trial", type=int, hidden=True, help="Prove that the state in a descriptor fits.")
def run(
    app: str,
    config_path: str | None,
    workers: str | int | None,
    binds: Sequence[str],
    sets: Sequence[str],
    trial: int | None,
) -> None:
    """Run the service in the foreground: APP, or what a configuration file says."""

    def read() -> Loaded:
        return configuration.open_config(config_path, app, workers, binds, sets)

    termination_log = termination.AUTO
    try:
        left = succession.inherited()
        with succession.going_back(left):
            if trial is not None:
                succession.check(trial, read)
                return
            loaded = succession.in_force(left, read)
            termination_log = loaded.config.log.termination_log
            composition = Composition(loaded, read, left)
        code = composition.run()
    except ClusterdError as error:
        termination.leave(termination_log, termination.page(str(error)))
        raise
    sys.exit(code)


class Composition:
    """One run of the primary, from a configuration to an exit code.

    Args:
        loaded: the configuration.
        read: reads it once more, for a reload.
        left: what a predecessor in this process has left.

    Raises:
        HostError: something that the configuration asks for cannot be had; nothing is left behind.
    """

    def __init__(self, loaded: Loaded, read: Callable[[], Loaded], left: Handover | None = None) -> None:
        self._loaded = loaded
        self._read = read
        self._left = left
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
        if left is not None:
            self._take_over(left)
            return
        certificates.verify(loaded)
        verify_cpus(self._config)
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

    def _take_over(self, left: Handover) -> None:
        """Everything is open already. What fails here closes nothing: there is a way back."""
        self._nofile = left.nofile
        self._kept = kept.Kept()
        self._opened = succession.opened(left, self._config)
        self._control, self._observed = self._own(left.control), self._own(left.observer)
        self._monitoring = None if left.monitoring is None else resuming.own(left.monitoring)[0]

    def _own(self, state: SocketState | None) -> socket.socket | None:
        if state is None:
            return None
        sock, bound = resuming.own(state)
        if bound is not None:
            self._bounds.append(bound)
        return sock

    def run(self) -> int:
        """Serve until the end; returns the exit code."""
        config = self._config
        process.title(f"clusterd: {config.clusterd.name} primary")
        log = Log(1, config.log.format, config.log.level, config.clusterd.name)
        loop = Loop()
        asyncio.set_event_loop(loop)
        # A signal that another thread takes is lost when this process becomes other code.
        deaf = partial(signals.block, doors.SIGNALS)
        loop.set_default_executor(ThreadPoolExecutor(2, "clusterd", initializer=deaf))
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
            started_at=loop.time() if self._left is None else self._left.started_at,
            upgrades=0 if self._left is None else self._left.upgrades + (not self._left.tried),
            monitoring=None if self._monitoring is None else passed.show(self._monitoring.getsockname()),
        )
        metrics = Metrics(
            sight,
            about.version,
            self._loaded.sha256 if self._left is None else self._left.config_sha256,
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
            message=lambda worker, message, fd: hearing.message(log, worker, message, fd),
            report=lambda worker, told: hearing.report(sight, metrics, log, worker, told),
            warn=lambda event, sentence, **fields: log.emit("warning", event, reason=sentence, **fields),
            status=lambda: log.dump(sight.view()),
            reload=lambda: reloader.ask(),  # noqa: PLW0108  # there is none yet
            upgrade=lambda: upgrader.ask(),  # noqa: PLW0108  # likewise
        )
        with succession.going_back(self._left):
            if self._left is not None:
                metrics.go_on(state.thaw(self._left.books))
            primary = self._primary_of(loop, eyes)
        sight.primary = self._primary = primary
        reloader = Reloader(self._loaded, self._read, primary, log, self._nofile, self._left)

        def describe() -> Handover:
            left = primary.handover()
            left.clusterd, left.pid = about.version, about.pid
            left.config_sha256, left.books = metrics.config_sha256, state.freeze(metrics.books())
            reloader.describe(left)
            left.control, left.observer, left.monitoring = map(
                self._described, (self._control, self._observed, self._monitoring)
            )
            left.nofile, left.started_at, left.upgrades = self._nofile, about.started_at, about.upgrades
            left.environment, left.command = manager.environment, succession.old_words()
            return left

        upgrader = Upgrader(primary, log, describe, manager.expect_silence)
        control = Control(sight, about, Steering(primary, reloader), journal, rates, partial(_audit, log), upgrader)
        probe = Probe(sight, Visits(primary), primary.order)
        servers = []
        if self._control is not None:
            servers.append(await http.start(self._control, control.answers(self._roles)))
        if self._observed is not None:
            servers.append(await http.start(self._observed, control.answers(who.OBSERVERS)))
        if self._monitoring is not None:
            servers.append(await http.start(self._monitoring, admin.monitoring_routes(sight, metrics)))
        self._greet(log, primary, about)
        if self._left is not None:
            self._settle_in(log, self._left)
        rates.start()
        probe.start()
        manager.watch()
        batch.enter()  # a connection is not served sooner by interrupting a worker that serves
        try:
            return await primary.run()
        finally:
            batch.leave()
            rates.close()
            probe.close()
            manager.close()
            self._remove_files()
            for server in servers:
                server.close()

    def _primary_of(self, loop: asyncio.AbstractEventLoop, eyes: Eyes) -> Primary:
        config, name = self._config, self._config.clusterd.name
        return Primary(
            loop,
            config,
            configuration.policy(config, cpus=cgroup.cpu_count()),
            {pool: self._plan(pool, declared) for pool, declared in config.pools.items()},
            self._opened,
            f"{platform.node()}/{name}",
            eyes,
            self._left,
        )

    def _plan(self, name: str, pool: Pool) -> Plan:
        tls = None if self._left is None else self._left.tls.get(name)
        return plan(name, pool, self._config, os.environ, self._nofile, tls=tls)

    def _described(self, sock: socket.socket | None) -> SocketState | None:
        """One of the primary's own sockets, for a successor."""
        if sock is None:
            return None
        found = SocketState(fd=sock.fileno())
        for bound in self._bounds:
            if bound.sock is sock and bound.file is not None:
                found.path, (found.device, found.inode) = bound.path, bound.file
        return found

    def _settle_in(self, log: Log, left: Handover) -> None:
        """The upgrade is done: nobody need hand on connections in our place."""
        if left.caretaker >= 0:
            os.close(left.caretaker)
        level, event = ("error", "upgrade_failed") if left.tried else ("info", "upgraded")
        log.emit(level, event, was=left.clusterd, workers=len(left.children))

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
                reason="workers of an earlier primary, or what they started, are still there",
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


def _audit(log: Log, action: str, **fields: Any) -> None:
    log.always("audit", action=action, **fields)


def _internal_error(log: Log, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    log.emit("error", "internal_error", reason=str(context.get("message")), error=repr(error))
