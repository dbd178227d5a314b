"""One configuration in a container: what it must be told there, and the numbers that whoever runs it goes by."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterd import config as configuration
from clusterd.config.address import Address
from clusterd.config.load import Loaded
from clusterd.config.rules import needed_grace
from clusterd.config.schema import Config
from clusterd.errors import UsageError

APP = "/app"
"""Where the image has the application; the configuration lies there as it lies beside it outside."""

LAME_DUCK = "5s"
DRAIN_TIMEOUT = "20s"
"""Where the file is silent: what endpoints need to be told everywhere, and what fits the usual 30 s beside that."""

LEAST_GRACE = 30
"""Seconds; what Kubernetes gives where nobody asks for more."""

MONITORING = "[::]:9190"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_FILE = re.compile(r"[-._A-Za-z0-9]{1,253}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One ``--set KEY=VALUE`` over the file, and why it is needed in a container."""

    key: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class Contained:
    """What containers of one configuration depend on.

    Attributes:
        name: the service's name, as host names are written: RFC 1123, at most 40 characters.
        file: the configuration's name in :data:`APP`.
        text: the configuration's text.
        settings: what is laid over it.
        ports: name and number of each port that it serves on, in order.
        monitoring: the port of the health checks and metrics.
        grace: seconds from SIGTERM to SIGKILL.
        lame_duck: seconds.
        startup: seconds after which it is started or will never be, if nothing is wrong with the machine.
        pool: the first pool that takes connections, else the first; what scaling goes by.
        workers: how many the configuration fixes; ``None`` if the CPU quota does.
        canary: seconds that a new version must stay healthy before it counts.
    """

    name: str
    file: str
    text: str
    settings: Sequence[Setting]
    ports: Sequence[tuple[str, int]]
    monitoring: int
    grace: int
    lame_duck: float
    startup: int
    pool: str
    workers: int | None
    canary: float

    @property
    def arguments(self) -> list[str]:
        """Of ``clusterd``, in a container."""
        return [
            "run",
            "--config",
            f"{APP}/{self.file}",
            *(part for one in self.settings for part in ("--set", str(one))),
        ]

    @property
    def grace_period(self) -> str:
        """The value of ``CLUSTERD_GRACE_PERIOD``."""
        return f"{self.grace}s"


def read(config_path: str | None, sets: Sequence[str] = (), *, balanced: bool = False) -> Contained:
    """Reads a configuration for a life in a container.

    Args:
        config_path: as of ``--config``.
        sets: further ``--set``, which count as if they stood in the file.
        balanced: something sends work here until it has heard of the end, so that a lame duck is needed.

    Raises:
        ConfigError: it cannot be used.
        UsageError: there is no file, or it cannot be in a container.
    """
    # What is set where the files are made is not what is set where they are used.
    environ = {
        key: value
        for key, value in os.environ.items()
        if key not in ("CLUSTERD_GRACE_PERIOD", "PORT", "WEB_CONCURRENCY", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")
    }
    path = configuration.find_file(config_path, environ)
    if path is None:
        raise UsageError("containers are made from a file: name one with --config")
    loaded = configuration.open_config(path, sets=sets, environ=environ)
    settings = [*_reachable(loaded), *_ending(loaded, balanced)]
    config = configuration.open_config(path, sets=[*sets, *map(str, settings)], environ=environ).config
    _refuse(config)
    file = os.path.basename(path)
    if not _FILE.fullmatch(file):
        raise UsageError(f"{file!r:.80} cannot be a key of a ConfigMap; call the file by letters, digits, '.' and '-'")
    needed = needed_grace(config.shutdown)
    assert needed is not None
    assert config.monitoring.address is not None
    serving = next((name for name, pool in config.pools.items() if pool.listeners), next(iter(config.pools)))
    own = [Setting(key, value, "asked for") for key, _, value in (one.partition("=") for one in sets)]
    return Contained(
        name=host_name(config.clusterd.name),
        file=file,
        text=Path(path).read_text(),
        settings=[*own, *settings],
        ports=_ports(config),
        monitoring=config.monitoring.address.port,
        grace=max(LEAST_GRACE, math.ceil(needed)),
        lame_duck=config.shutdown.lame_duck,
        startup=_startup(config),
        pool=serving,
        workers=_workers(config),
        canary=config.pools[serving].reload.canary,
    )


def host_name(name: str, longest: int = 40) -> str:
    """``name`` as a label of RFC 1123: lower case, digits and ``-``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:longest].strip("-") or "clusterd"


def _is_tcp(address: Address) -> bool:
    return address.kind == "tcp"


def _ports(config: Config) -> list[tuple[str, int]]:
    """Named after their listeners, as far as names of ports go: RFC 6335, 15 characters and one letter among them."""
    found: dict[str, int] = {}
    for listener, one in config.listeners.items():
        if _is_tcp(one.address):
            name = host_name(listener, 15)
            if name in found or name == "monitoring" or name.isdecimal():
                name = f"port-{one.address.port}"
            found[name] = one.address.port
    return list(found.items())


def _reachable(loaded: Loaded) -> Iterator[Setting]:
    """In a container the loopback interface is the container's alone."""
    config = loaded.config
    for name, listener in config.listeners.items():
        address = listener.address
        if _is_tcp(address) and address.host in _LOOPBACK:
            key = f"listeners.{_quoted(name)}.address"
            yield Setting(key, f"[::]:{address.port}", f"{address} is reached from inside the container alone")
    monitoring = config.monitoring.address
    if monitoring is None:
        raise UsageError("monitoring.address is off: without it there is nothing to probe")
    if not _is_tcp(monitoring):
        raise UsageError(f"monitoring.address is {monitoring}: probes need a TCP port")
    if monitoring.host in _LOOPBACK:
        why = "probes and scrapes come from outside of the container"
        yield Setting("monitoring.address", f"[::]:{monitoring.port}", why)


def _ending(loaded: Loaded, balanced: bool) -> Iterator[Setting]:
    said = loaded.provenance
    if balanced and said["shutdown.lame_duck"].kind == "default":
        yield Setting("shutdown.lame_duck", LAME_DUCK, "work is still sent here until every proxy has heard of the end")
    if said["shutdown.drain_timeout"].kind == "default":
        yield Setting("shutdown.drain_timeout", DRAIN_TIMEOUT, "fits the grace period beside the lame duck")


def _refuse(config: Config) -> None:
    if not config.shutdown.drain_timeout:
        raise UsageError("shutdown.drain_timeout is 0, without bound, and a container's end has one; give it a bound")
    for name, pool in config.pools.items():
        if pool.user or pool.group:
            raise UsageError(f"pools.{name} has a user of its own, which needs root, and a container here has none")
    for name, listener in config.listeners.items():
        if _is_tcp(listener.address) and listener.address.port == 0:
            raise UsageError(f"listeners.{name}.address has port 0, which nobody outside can know; give it a number")
    address = config.monitoring.address
    if address is not None and address.port == 0:
        raise UsageError("monitoring.address has port 0, which no probe can know; give it a number")


def _startup(config: Config) -> int:
    """The zygote's import, then the workers' own start; 10 minutes where the file sets no bound."""
    return max(math.ceil(2 * pool.start_timeout) or 600 for pool in config.pools.values())


def _workers(config: Config) -> int | None:
    counts = [pool.workers for pool in config.pools.values()]
    numbers = [count for count in counts if count != "auto"]
    return sum(numbers) if len(numbers) == len(counts) else None


def _quoted(key: str) -> str:
    return key if _KEY.fullmatch(key) else f'"{key}"'
