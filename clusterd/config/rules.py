"""What cannot be together in one configuration, though each key by itself is right."""

from itertools import combinations

from clusterd.config.address import UNIX_PATH_MAX
from clusterd.config.document import Document
from clusterd.config.lines import Path
from clusterd.config.notation import toml_text
from clusterd.config.read import Reading
from clusterd.config.schema import Config, Control, Listener, Pool, Shutdown
from clusterd.config.vocabulary import DURATION

RUNS = ("app", "script", "command", "tasks")

# The kill and the exit of the primary themselves take this long at most.
KILL_MARGIN = 1.0

SHARED_MOST = 16
"""Listeners whose connections a pool of scheduling "none" can count (``clusterd.wire.rows.ACCEPTED_LISTENERS``)."""

# A drain that grace does not leave room for is still given this long: 0 would be without bound.
_SHORTEST_DRAIN = 0.1


def check(document: Document, reading: Reading) -> None:
    """Adds a problem to the document for each impossible combination."""
    rules = _Rules(document, reading)
    rules.pools()
    rules.listeners()
    rules.addresses()
    rules.sockets()


def longest_drain(shutdown: Shutdown) -> float | None:
    """Seconds that a worker may take from the order to drain until it is killed; ``None`` if that is unbounded."""
    return shutdown.linger + shutdown.drain_timeout if shutdown.drain_timeout else None


def needed_grace(shutdown: Shutdown) -> float | None:
    """Seconds from SIGTERM until the service has ended for sure; ``None`` if the drain is unbounded."""
    drain = longest_drain(shutdown)
    return None if drain is None else shutdown.lame_duck + drain + KILL_MARGIN


def grace_fault(shutdown: Shutdown) -> str | None:
    """Why the service cannot end within ``grace_period``; ``None`` if it can, or if the period is unknown."""
    needed = needed_grace(shutdown)
    if not shutdown.grace_period or (needed is not None and needed <= shutdown.grace_period + 1e-9):
        return None
    grace = seconds(shutdown.grace_period)
    if needed is None:
        return f"drain_timeout is unbounded, which does not fit grace_period ({grace})"
    return (
        f"lame_duck ({seconds(shutdown.lame_duck)}), linger ({seconds(shutdown.linger)}), drain_timeout"
        f" ({seconds(shutdown.drain_timeout)}) and {seconds(KILL_MARGIN)} are {seconds(needed)},"
        f" which does not fit grace_period ({grace})"
    )


def shut_out(control: Control) -> str | None:
    """Who is named as operator or admin and cannot connect, whoever they are; ``None`` if nobody is known to be."""
    if not control.socket or control.mode & 0o022:
        return None
    named = {"operators": control.operators, "admins": control.admins}
    there = [
        f"control.{key} ({', '.join(names)})"
        for key, accounts in named.items()
        if (names := [one for one in (*accounts.users, *accounts.groups) if one not in ("root", "0")])
    ]
    if not there:
        return None
    return (
        f'control: mode = "{control.mode:04o}" lets only root and the user the service runs as connect, so'
        f' {" and ".join(there)} cannot; mode = "0666" is safe: who may do what does not depend on it'
    )


def shortened(shutdown: Shutdown) -> Shutdown:
    """The same with a drain that fits ``grace_period``, and only if that is not enough, less linger and lame duck."""
    room = max(shutdown.grace_period - KILL_MARGIN, _SHORTEST_DRAIN)
    before = shutdown.lame_duck + shutdown.linger
    drain = max(room - before, _SHORTEST_DRAIN)
    share = min(1.0, max(room - drain, 0.0) / before) if before else 1.0
    return Shutdown(
        lame_duck=shutdown.lame_duck * share,
        linger=shutdown.linger * share,
        drain_timeout=drain,
        grace_period=shutdown.grace_period,
    )


def seconds(value: float) -> str:
    """A duration as a user writes it."""
    return str(DURATION.dump(value))


def taken_listeners(pool: Pool) -> bool:
    """Whether a pool that does not name its listeners takes all of them; a script listens by itself."""
    return bool(pool.app or pool.command)


class _Rules:
    def __init__(self, document: Document, reading: Reading) -> None:
        self._document = document
        self._config: Config = reading.config
        self._void = reading.void

    def pools(self) -> None:
        if not self._config.pools and ("pools",) not in self._void:
            self._document.fault(
                ("pools",), 'there is no pool; add one, such as [pools.web] with app = "shop.asgi:app"'
            )
        for name, pool in self._config.pools.items():
            self._pool(("pools", name), pool)

    def _pool(self, path: Path, pool: Pool) -> None:
        if path in self._void:
            return
        said = [key for key in RUNS if self._document.get((*path, key)) is not None]
        if len(said) != 1:
            number = "none" if not said else " and ".join(said)
            self._document.fault(path, f"expected exactly one of {', '.join(RUNS)}, found {number}")
        if "command" in said and not pool.command and not self._is_void(path, "command"):
            self._document.fault((*path, "command"), "expected a program and its arguments, found an empty array")
        if pool.workers != "auto" and pool.min_ready > pool.workers and not self._is_void(path, "workers", "min_ready"):
            origin = self._document.origin((*path, "min_ready" if self._said(path, "min_ready") else "workers"))
            self._document.fault(
                (*path, "min_ready"), f"{pool.min_ready} can never be ready of {pool.workers} workers", origin
            )
        if said == ["app"] and pool.ready_when != "auto" and not self._is_void(path, "ready_when"):
            self._document.fault(
                (*path, "ready_when"), "an app is ready when its start-up has ended, and says so itself; leave it out"
            )
        if said == ["app"] and not self._is_void(path, "listeners"):
            self._app_listeners(path, pool)
        restart = (*path, "restart")
        if pool.restart.max_delay < pool.restart.initial_delay and not self._is_void(
            restart, "max_delay", "initial_delay"
        ):
            self._document.fault(
                (*restart, "max_delay"),
                f"{seconds(pool.restart.max_delay)} is less than initial_delay ({seconds(pool.restart.initial_delay)})",
            )

    def _app_listeners(self, path: Path, pool: Pool) -> None:
        if ("listeners",) in self._void:
            return
        if self._said(path, "listeners") and not pool.listeners:
            self._document.fault((*path, "listeners"), "a pool that runs an app needs a listener; name one")
        elif not self._said(path, "listeners") and not self._config.listeners:
            self._document.fault(
                path, 'its app has no listener; add one, such as [listeners.http] with address = "127.0.0.1:8000"'
            )

    def listeners(self) -> None:
        if ("listeners",) in self._void:
            return
        used: set[str] = set()
        # Where a pool is wrong itself, that nobody uses its listener is only what follows.
        sure = ("pools",) not in self._void and bool(self._config.pools)
        for name, pool in self._config.pools.items():
            path = ("pools", name)
            runs = [key for key in RUNS if self._said(path, key)]
            if path in self._void or self._is_void(path, "listeners", *RUNS) or len(runs) != 1:
                sure = False
            elif self._said(path, "listeners"):
                used.update(pool.listeners)
                sure = sure and bool(pool.listeners or not pool.app)
                for number, listener in enumerate(pool.listeners):
                    if listener not in self._config.listeners:
                        known = ", ".join(self._config.listeners) or "none"
                        message = f"there is no listener {toml_text(listener)}; known: {known}"
                        self._document.fault((*path, "listeners", number), message)
            elif taken_listeners(pool):
                used.update(self._config.listeners)
        for name, declared in self._config.listeners.items():
            if sure and name not in used:
                self._document.fault(("listeners", name), "no pool takes its connections; remove it, or name it in one")
            self._file_keys(name, declared)
            self._tls(name, declared)
            self._takers(name, declared)

    def _tls(self, name: str, listener: Listener) -> None:
        """A certificate and its key are had together, and authorities are of use with them only."""
        path = ("listeners", name, "tls")
        if path in self._void or self._is_void(path, "cert", "key", "client_ca"):
            return
        for key, needs in (("cert", "key"), ("key", "cert"), ("client_ca", "cert")):
            if getattr(listener.tls, key) and not getattr(listener.tls, needs):
                self._document.fault((*path, key), f"{key} needs {needs} beside it")

    def _takers(self, name: str, listener: Listener) -> None:
        """What the pools of one listener must agree on, and what of it they must be able to do."""
        takers = {
            pool: declared
            for pool, declared in self._config.pools.items()
            if name in declared.listeners and not self._is_void(("pools", pool), "listeners", "scheduling")
        }
        alone = [pool for pool, declared in takers.items() if declared.scheduling == "none"]
        others = [pool for pool in takers if pool not in alone]
        if alone and others:
            self._document.fault(
                ("pools", alone[0], "scheduling"),
                f'"none" lets workers accept from listener {name} by themselves, and pool {others[0]} is handed its'
                f' connections by the primary ("{takers[others[0]].scheduling}"): they would take them from each other;'
                " give both pools the same scheduling, or a listener each",
                self._document.origin(("pools", alone[0], "scheduling")),
            )
        for pool in alone:
            if len(takers[pool].listeners) > SHARED_MOST and takers[pool].listeners[SHARED_MOST] == name:
                self._document.fault(
                    ("pools", pool, "scheduling"), f'"none" is for at most {SHARED_MOST} listeners a pool'
                )
        for key, used in (("tls", bool(listener.tls.cert)), ("proxy_protocol", listener.proxy_protocol)):
            for pool, declared in takers.items():
                if used and not declared.app and not self._is_void(("pools", pool), *RUNS):
                    self._document.fault(
                        ("listeners", name, key),
                        f"{key} is done by the workers of app pools, and pool {pool} runs something else; give that"
                        " pool a listener without it",
                        self._document.origin(("listeners", name, key)),
                    )

    def _file_keys(self, name: str, listener: Listener) -> None:
        """Mode and owner are those of a file, which only a unix socket with a path has."""
        path = ("listeners", name)
        if listener.address.is_file or path in self._void or self._is_void(path, "address"):
            return
        if listener.address.kind == "fd":
            why = "is set by whoever makes the socket"
        else:
            why = f"is for unix sockets with a path, and {listener.address} has none"
        for key in ("mode", "user", "group"):
            if self._said(path, key):
                self._document.fault((*path, key), f"{key} {why}; leave it out")

    def addresses(self) -> None:
        places = [
            (("listeners", name, "address"), listener.address)
            for name, listener in self._config.listeners.items()
            if not self._is_void(("listeners", name), "address") and ("listeners", name) not in self._void
        ]
        for (first, one), (second, other) in combinations(places, 2):
            if one.overlaps(other):
                self._document.fault(second, f"{other} is taken by listener {first[1]} ({one})")
        path = ("monitoring", "address")
        monitoring = self._config.monitoring.address
        # Without a file a free port takes the place of a taken one, so the default is in nobody's way.
        if monitoring is None or path in self._void or (self._document.file is None and not self._said(path)):
            return
        for listener, address in places:
            if address.overlaps(monitoring):
                origin = self._document.origin(path if self._said(path) else listener)
                self._document.fault(path, f"{monitoring} is taken by listener {listener[1]} ({address})", origin)

    def sockets(self) -> None:
        """After the defaults that depend on other things are in place: a unix socket's path has a bound."""
        control = self._config.control
        for key, path, default in (
            ("socket", control.socket, ("clusterd",)),
            ("observer_socket", control.observer_socket, ("control", "observer_socket")),
        ):
            origin = self._document.origin(("control", key) if self._said(("control", key)) else default)
            if len(path.encode(errors="surrogateescape")) > UNIX_PATH_MAX and path != "auto":
                self._document.fault(
                    ("control", key),
                    f"{path!r:.200} is longer than the {UNIX_PATH_MAX} bytes that a unix socket's path may have;"
                    " choose a shorter one, or a shorter clusterd.run_dir",
                    origin,
                )
            for name, listener in self._config.listeners.items():
                if path and listener.address.is_file and listener.address.path == path:
                    which = "the control socket" if key == "socket" else "the observer socket"
                    self._document.fault(("listeners", name, "address"), f"{path} is {which}; choose another path")
        if control.observer_socket and control.observer_socket == control.socket:
            self._document.fault(
                ("control", "observer_socket"), f"{control.socket} is the control socket; choose another path"
            )

    def _said(self, path: Path, *key: str) -> bool:
        return self._document.get((*path, *key)) is not None

    def _is_void(self, path: Path, *names: str) -> bool:
        return any((*path, name) in self._void for name in names)
