"""``clusterd generate systemd``: the units of one configuration, as tight as it allows."""

import ipaddress
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from clusterd import config as configuration
from clusterd.cli.configure import config_option
from clusterd.cli.generate import directory_option, emit, force_option
from clusterd.cli.units import Fit, service_unit, socket_unit
from clusterd.config.address import Address
from clusterd.config.derive import CONTROL_SOCKET
from clusterd.config.rules import longest_drain
from clusterd.config.schema import Config, Listener
from clusterd.errors import HostError, UsageError

OLDEST = 247
"""The oldest systemd whose directives these are (``ProcSubset=``)."""

FIRST_FREE_PORT = 1024
_HOMES = ("/home/", "/root/", "/run/user/")
_RUN = "/run/"


@click.command()
@config_option
@click.option("--socket/--no-socket", default=None, help="Have systemd listen; else only where clusterd could not.")
@click.option("--user", metavar="USER", default="", help="Run as this user; else as one that lives with the service.")
@click.option("--systemd", "version", type=click.IntRange(min=OLDEST), help="The version to fit; else this host's.")
@directory_option
@force_option
def systemd(
    config_path: str | None, socket: bool | None, user: str, version: int | None, directory: str | None, force: bool
) -> None:
    """Print the units of a configuration for systemd, as tight as it allows."""
    # What systemd will set, for the file may refer to it.
    environ = {"CREDENTIALS_DIRECTORY": "/run/credentials/clusterd", **os.environ}
    environ.pop("RUNTIME_DIRECTORY", None)
    path = configuration.find_file(config_path, environ)
    if path is None:
        raise UsageError("units are made from a file: name one with --config")
    loaded = configuration.open_config(path, environ=environ)
    path = os.path.abspath(path)
    config = loaded.config
    name = config.clusterd.name
    passed = {
        key: f"{name}{'' if len(config.listeners) == 1 else '-' + key}.socket"
        for key, listener in config.listeners.items()
        if _is_passed(listener.address, socket)
    }
    fit = _fit(config, path, user, version or installed_version(), passed, _own_run_dir(loaded))
    files = {f"{name}.service": service_unit(fit)}
    for key, unit in passed.items():
        files[unit] = _socket(f"{name}.service", name, key, config.listeners[key])
    emit(files, directory, force)


def _fit(config: Config, path: str, user: str, version: int, passed: Mapping[str, str], run_dir: str) -> Fit:
    name, shutdown = config.clusterd.name, config.shutdown
    users = _pool_users(config)
    if users and user:
        raise UsageError(f"--user {user}: pools have users of their own ({', '.join(users)}), so the primary is root")
    roles = config.control.operators.users + config.control.operators.groups
    roles += config.control.admins.users + config.control.admins.groups
    drain = longest_drain(shutdown)
    places = {path, sys.prefix, sys.base_prefix, *(pool.cwd for pool in config.pools.values() if pool.cwd)}
    bound = {name: one for name, one in config.listeners.items() if name not in passed}
    runtime = _runtime(name, run_dir)
    return Fit(
        title=name,
        command=[_program(), "run", "--config", path],
        control=_control(config, path, runtime),
        runtime=runtime,
        directory=os.path.dirname(path),
        shutdown=None if drain is None else shutdown.lame_duck + drain,
        descriptors=len(config.listeners),
        user=user,
        pool_users=users,
        roles=bool(roles),
        affinity=[name for name, pool in config.pools.items() if pool.cpu_affinity],
        compilers=[name for name, pool in config.pools.items() if pool.command or _is_node(pool.script)],
        hidden=sorted(_outermost(place for place in places if place.startswith(_HOMES))),
        nofile=max(
            math.inf if pool.limits.nofile == "unlimited" else pool.limits.nofile for pool in config.pools.values()
        ),
        credentials=_credentials(path),
        environment=f"/etc/clusterd/{name}.env",
        ports=[one.address.port for one in bound.values() if _is_privileged(one.address)],
        owners=[name for name, one in bound.items() if one.address.is_file and (one.user or one.group)],
        sockets=tuple(passed.values()),
        version=version,
    )


def _pool_users(config: Config) -> list[str]:
    return [name for name, pool in config.pools.items() if pool.user or pool.group]


def _is_node(script: str) -> bool:
    return script.endswith((".js", ".mjs", ".cjs"))


def _is_privileged(address: Address) -> bool:
    return address.kind == "tcp" and 0 < address.port < FIRST_FREE_PORT


def _is_passed(address: Address, asked: bool | None) -> bool:
    """Whether systemd listens for it: if asked, and where a primary in its sandbox could not."""
    if address.kind == "fd" or (address.kind == "tcp" and address.port == 0):
        return False  # it has a source of its own, or an address that systemd cannot be told
    if asked is not None:
        return asked
    return _is_privileged(address) or address.is_file


def _socket(service: str, title: str, key: str, listener: Listener) -> str:
    address = listener.address
    stream = f"{_host(address.host)}{address.port}" if address.kind == "tcp" else address.path
    file = address.is_file
    return socket_unit(
        title,
        service,
        key,
        stream,
        backlog=listener.backlog,
        mode=listener.mode if file else None,
        user=listener.user,
        group=listener.group,
    )


def _host(host: str) -> str:
    """``ListenStream=`` takes no names."""
    if host == "":
        return ""
    if host == "localhost":
        host = "127.0.0.1"
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        raise UsageError(
            f"systemd listens on addresses, not on names such as {host}; write the address, or use --no-socket"
        ) from None
    return f"[{host}]:" if found.version == 6 else f"{host}:"


def _own_run_dir(loaded: configuration.Loaded) -> str:
    """The run directory that the file itself names; empty where it leaves that to the environment."""
    return loaded.config.clusterd.run_dir if loaded.provenance["clusterd.run_dir"].kind == "file" else ""


def _runtime(name: str, run_dir: str) -> str:
    if not run_dir:
        return f"clusterd/{name}"
    if not run_dir.startswith(_RUN):
        raise UsageError(
            f"clusterd.run_dir is {run_dir}: systemd makes run directories below {_RUN}; leave the key out, and it is"
            f" {_RUN}clusterd/{name}"
        )
    return run_dir.removeprefix(_RUN)


def _control(config: Config, path: str, runtime: str) -> list[str]:
    """What tells commands which service is meant: where it can be, without the file, which may be wrong by then."""
    if not config.control.socket:
        return []
    is_usual = config.control.socket == os.path.join(config.clusterd.run_dir, CONTROL_SOCKET)
    return ["--run-dir", _RUN + runtime] if is_usual else ["--config", path]


def _credentials(path: str) -> list[str]:
    """The names in ``${CREDENTIALS_DIRECTORY}/NAME`` in the file."""
    text = Path(path).read_text(errors="surrogateescape")
    return sorted(set(re.findall(r"\$\{CREDENTIALS_DIRECTORY(?::-[^}]*)?\}/([\w.-]+)", text)))


def _outermost(places: Iterable[str]) -> list[str]:
    """Without those that lie in another one."""
    found: list[str] = []
    for place in sorted(set(places)):
        if not any(place == one or place.startswith(one + "/") for one in found):
            found.append(place)
    return found


def _program() -> str:
    """This installation's ``clusterd``."""
    beside = os.path.join(os.path.dirname(sys.executable), "clusterd")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("clusterd")
    if found is None:
        raise HostError(f"there is no program clusterd beside {sys.executable} or on PATH; install the package")
    return os.path.abspath(found)


def installed_version() -> int:
    """This host's systemd; the oldest that is fitted where there is none."""
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return OLDEST
    found = re.match(r"systemd (\d+)", said.stdout)
    return max(OLDEST, int(found[1])) if found else OLDEST
