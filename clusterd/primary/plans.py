"""How each pool's zygote is started: user, environment, directory, limits, and what it imports."""

import os
import resource
import sys
from collections.abc import Mapping
from typing import Final

from ..config.rules import longest_drain
from ..config.schema import Config, Pool
from ..errors import HostError
from ..spawner.client import Plan
from ..unix import cpus
from ..wire import zygote as wire
from ..wire.tls import Material
from . import certificates, scripts

#: What speaks to the primary alone. An app that inherited it would tell the service manager about the wrong process.
PRIVATE: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "FDSTORE",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
)

#: Marks the processes of one service: a new primary finds the workers of a dead one by it.
RUN_DIR_VARIABLE: Final = "CLUSTERD_RUN_DIR"


def shared(config: Config) -> set[str]:
    """The listeners from which workers accept by themselves."""
    return {name for pool in config.pools.values() if pool.scheduling == "none" for name in pool.listeners}


def plan(
    name: str,
    pool: Pool,
    config: Config,
    environ: Mapping[str, str],
    nofile: int,
    generation: int = 1,
    tls: Mapping[str, Material] | None = None,
) -> Plan:
    """The plan of one pool's zygotes.

    Args:
        name: the pool's name.
        pool: its configuration.
        config: the whole.
        environ: the primary's own environment.
        nofile: the soft limit of descriptors before the primary raised its own, which the pool gets back.
        generation: of its workers.
        tls: what the files of certificates and keys held when this generation began; ``None``: they are read now.

    Raises:
        HostError: a certificate or key cannot be read. That is done once, for all workers of this plan.
    """
    if tls is None:
        tls = certificates.read_all({listener: config.listeners[listener] for listener in pool.listeners})
    env = {key: value for key, value in environ.items() if key not in PRIVATE}
    env |= pool.env
    env |= {RUN_DIR_VARIABLE: config.clusterd.run_dir, "CLUSTERD_NAME": config.clusterd.name, "CLUSTERD_POOL": name}
    shutdown = config.shutdown
    return Plan(
        load=wire.Load(
            service=config.clusterd.name,
            pool=name,
            generation=generation,
            target=pool.app,
            program=scripts.argv(pool, sys.executable),
            interface=pool.interface,
            preload=str(pool.preload).lower(),
            primary_pid=os.getpid(),
            undertaking=longest_drain(shutdown),
            rlimits=_limits(pool, nofile),
            engine={
                "keep_alive": pool.http.keep_alive,
                "forwarded_allow_ips": list(pool.http.forwarded_allow_ips),
                "root_path": pool.http.root_path,
                "max_concurrency": pool.http.max_concurrency,
                "access_log": pool.http.access_log,
                "slow_request": pool.http.slow_request,
                "linger": shutdown.linger,
            },
            doors={
                listener: {
                    "shared": pool.scheduling == "none",
                    "proxy": config.listeners[listener].proxy_protocol,
                    "tls": bool(config.listeners[listener].tls.cert),
                }
                for listener in pool.listeners
            },
            cpus=[] if pool.cpu_affinity == "auto" else [*pool.cpu_affinity],
            spread=pool.cpu_affinity == "auto",
        ),
        env=env,
        cwd=pool.cwd or None,
        user=pool.user or None,
        group=pool.group or None,
        umask=-1 if pool.umask is None else pool.umask,
        tls=tls,
    )


def verify_cpus(config: Config) -> None:
    """Whether the pools' workers can run where they are to.

    Raises:
        HostError: they cannot, and why.
    """
    for name, pool in config.pools.items():
        if pool.cpu_affinity:
            try:
                cpus.verify(cpus.allowed() if pool.cpu_affinity == "auto" else pool.cpu_affinity)
            except HostError as error:
                raise HostError(f"pools.{name}.cpu_affinity: {error}") from None


def _limits(pool: Pool, nofile: int) -> dict[str, list[int]]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = {"nofile": [nofile, hard]}
    for name, value in (("nofile", pool.limits.nofile), ("memory", pool.limits.memory), ("core", pool.limits.core)):
        if value is None or (value == 0 and name != "core"):
            continue
        number = resource.RLIM_INFINITY if value == "unlimited" else value
        limits[name] = [number, number]
    return limits
