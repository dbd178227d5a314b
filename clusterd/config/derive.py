"""Defaults that depend on other things: the service's name, its directory, a pool's listeners."""

import os
import re
from collections.abc import Mapping
from pathlib import PurePath

import msgspec

from clusterd.config.document import Document, Origin
from clusterd.config.read import Reading
from clusterd.config.rules import taken_listeners
from clusterd.config.schema import Config, Pool
from clusterd.config.vocabulary import SERVICE_PATTERN

_FALLBACK_NAME = "clusterd"
CONTROL_SOCKET = "control.sock"
"""The control socket's name in the run directory."""


def derive(document: Document, reading: Reading, environ: Mapping[str, str]) -> None:
    """Puts these defaults into what was read, with their origins."""
    config = reading.config
    name = config.clusterd.name
    if not name:
        name, source = _service_name(config)
        reading.origins[("clusterd", "name")] = Origin("default", source)
    run_dir = config.clusterd.run_dir
    if not run_dir:
        run_dir, origin = _run_dir(name, environ)
        reading.origins[("clusterd", "run_dir")] = origin
    socket = config.control.socket
    if socket == "auto":
        socket = os.path.join(run_dir, CONTROL_SOCKET)
    reading.config = msgspec.structs.replace(
        config,
        clusterd=msgspec.structs.replace(config.clusterd, name=name, run_dir=run_dir),
        control=msgspec.structs.replace(config.control, socket=socket),
        pools={name: _pool(document, ("pools", name), pool, config) for name, pool in config.pools.items()},
    )


def _pool(document: Document, path: tuple[str, str], pool: Pool, config: Config) -> Pool:
    listeners = pool.listeners
    if document.get((*path, "listeners")) is None and taken_listeners(pool):
        listeners = tuple(config.listeners)
    return msgspec.structs.replace(pool, listeners=listeners, cwd=pool.cwd or document.cwd)


def _service_name(config: Config) -> tuple[str, str]:
    """The first pool's app, script, command or module tells the name, and the key that did."""
    for pool_name, pool in config.pools.items():
        said = {
            "app": re.split(r"[.:]", pool.app)[0],
            "script": PurePath(pool.script).stem,
            "command": PurePath(pool.command[0]).stem if pool.command else "",
            "tasks": pool.tasks.partition(".")[0],
        }
        for key, name in said.items():
            if re.fullmatch(SERVICE_PATTERN, name):
                return name, f"from pools.{pool_name}.{key}"
    return _FALLBACK_NAME, ""


def _run_dir(name: str, environ: Mapping[str, str]) -> tuple[str, Origin]:
    # systemd gives the directories of several RuntimeDirectory= in one variable (systemd.exec(5)).
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(directory):
        return os.path.normpath(directory), Origin("environment", "$RUNTIME_DIRECTORY")
    # A relative one is to be ignored, says the XDG Base Directory Specification.
    directory = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(directory):
        return os.path.join(os.path.normpath(directory), "clusterd", name), Origin("environment", "$XDG_RUNTIME_DIR")
    return f"/tmp/clusterd-{os.getuid()}/{name}", Origin("default")
