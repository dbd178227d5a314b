"""What the command line and the environment say, laid over what the file says.

A flag wins over the file, the file over a variable, a variable over the default. With a file, ``-w`` and ``APP``
concern the only app pool and ``-b`` its listeners; where there are several, the user has to say which, by ``--set``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli

from clusterd.config.document import Document, Origin
from clusterd.config.lines import MAX_DEPTH, index_lines
from clusterd.config.notation import Loose
from clusterd.errors import UsageError

DEFAULT_POOL = "web"
DEFAULT_LISTENER = "http"


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says of the configuration.

    Attributes:
        app: ``APP``; empty if it was not given.
        workers: ``-w``: a number or ``auto``; ``None`` if it was not given.
        binds: ``-b``, as often as it was given.
        sets: ``--set``, each ``KEY=VALUE``.
    """

    app: str = ""
    workers: str | int | None = None
    binds: Sequence[str] = ()
    sets: Sequence[str] = ()


def lay_sets(document: Document, sets: Sequence[str]) -> None:
    """Lays each ``--set KEY=VALUE`` over the document.

    Raises:
        UsageError: one is no ``KEY=VALUE``.
    """
    for text in sets:
        path, value = parse_set(text)
        document.put(path, value, Origin("flag", f"--set {'.'.join(path)}"))


def parse_set(text: str) -> tuple[tuple[str, ...], Any]:
    """Reads ``KEY=VALUE``: a key as TOML has it, and a value as TOML has it, or else taken as a string.

    Raises:
        UsageError: there is no ``=``, or no key before it.
    """
    key, equals, written = text.partition("=")
    # A quoted part of a key may hold the sign itself.
    while equals and key.count('"') % 2 and "=" in written:
        more, equals, written = written.partition("=")
        key = f"{key}={more}"
    path = _key_path(key.strip())
    if not equals or path is None:
        raise UsageError(f"--set: expected KEY=VALUE, such as pools.web.workers=3, found {text!r:.80}")
    return path, _set_value(written.strip())


def _key_path(key: str) -> tuple[str, ...] | None:
    line = f"{key} = 0"
    if "\n" in key or index_lines(line).too_deep is not None:
        return None
    try:
        table: Any = tomli.loads(line)
    except (ValueError, RecursionError):
        return None
    path: list[str] = []
    while isinstance(table, dict):
        if len(table) != 1:  # the key is a comment
            return None
        ((part, table),) = table.items()
        path.append(part)
    return tuple(path)


def _set_value(written: str) -> Any:
    line = f"value = {written}"
    index = index_lines(line)
    if index.too_deep is not None:
        raise UsageError(f"--set: the value is nested deeper than {MAX_DEPTH} levels")
    try:
        parsed = tomli.loads(line)
    except (ValueError, RecursionError):
        return Loose(written)
    # A newline in the value could have begun a second key.
    if len(parsed) != 1:
        return Loose(written)
    value = parsed["value"]
    # Numbers and booleans stay text that they may be read from: clusterd.name=2024 is a name.
    return value if isinstance(value, str | list | dict) else Loose(written)


def app_pools(document: Document) -> list[str]:
    """The names of the pools that run an app."""
    return [name for name, pool in document.table(("pools",)).items() if isinstance(pool, dict) and "app" in pool]


def lay_flags(document: Document, flags: Flags) -> None:
    """Lays ``APP``, ``-w`` and ``-b`` over the document.

    Raises:
        UsageError: it is not clear which pool or listener is meant.
    """
    if flags.app:
        pool = _one_pool(document, "APP") if app_pools(document) else DEFAULT_POOL
        document.put(("pools", pool, "app"), flags.app, Origin("flag", "APP"))
    if flags.workers is not None:
        value = flags.workers if isinstance(flags.workers, int) else Loose(flags.workers)
        document.put(("pools", _one_pool(document, "-w"), "workers"), value, Origin("flag", "-w"))
    if flags.binds:
        _lay_binds(document, flags.binds)


def _one_pool(document: Document, flag: str) -> str:
    pools = app_pools(document)
    if len(pools) == 1:
        return pools[0]
    if not pools:
        raise UsageError(
            f"{flag} concerns the pool that runs an app, and there is none; give APP, or --set pools.web.app"
        )
    raise UsageError(
        f"{flag} is ambiguous: there are {len(pools)} pools that run an app ({', '.join(pools)});"
        " use --set pools.NAME.KEY=VALUE"
    )


def _lay_binds(document: Document, binds: Sequence[str]) -> None:
    origin = Origin("flag", "-b")
    pools = app_pools(document)
    every = list(document.table(("listeners",)))
    # With several pools, their listeners are those of the file: one can be meant, more cannot.
    own = document.get(("pools", pools[0], "listeners")) if len(pools) == 1 else None
    names = [str(name) for name in own] if isinstance(own, list) else every
    if len(names) > 1 and len(names) != len(binds):
        raise UsageError(
            f"-b is ambiguous: it was given {len(binds)} times, and there are {len(names)} listeners"
            f" ({', '.join(names)}); use --set listeners.NAME.address=ADDRESS"
        )
    stem = names[0] if names else DEFAULT_LISTENER
    fresh = (name for number in range(1, len(binds) + len(every) + 2) if (name := _numbered(stem, number)) not in every)
    while len(names) < len(binds):
        names.append(next(name for name in fresh if name not in names))
    for name, address in zip(names, binds, strict=True):
        document.put(("listeners", name, "address"), address, origin)
    if isinstance(own, list):
        document.put(("pools", pools[0], "listeners"), names, origin)


def _numbered(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}{number}"


def lay_environment(document: Document, environ: Mapping[str, str]) -> list[str]:
    """Lays ``WEB_CONCURRENCY``, ``PORT`` and ``CLUSTERD_GRACE_PERIOD`` over what is silent; an empty one is unset.

    Returns:
        A warning for each that was set and has no effect because it is not clear what it is meant for.
    """
    warnings: list[str] = []
    pools = app_pools(document)
    workers = environ.get("WEB_CONCURRENCY", "")
    silent = [name for name in pools if document.get(("pools", name, "workers")) is None]
    if workers and len(silent) == 1 and len(pools) == 1:
        document.put(("pools", silent[0], "workers"), Loose(workers), Origin("environment", "$WEB_CONCURRENCY"))
    elif workers and silent and len(pools) > 1:
        warnings.append(f"WEB_CONCURRENCY is not used: there are several pools that run an app ({', '.join(pools)})")
    _lay_port(document, environ.get("PORT", ""), pools, warnings)
    grace = environ.get("CLUSTERD_GRACE_PERIOD", "")
    if grace and document.get(("shutdown", "grace_period")) is None:
        # Kubernetes and systemd have plain seconds.
        seconds = f"{grace}s" if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", grace) else grace
        document.put(("shutdown", "grace_period"), seconds, Origin("environment", "$CLUSTERD_GRACE_PERIOD"))
    return warnings


def _lay_port(document: Document, port: str, pools: list[str], warnings: list[str]) -> None:
    if not port or not pools:
        return
    listeners = document.get(("listeners",))
    origin = Origin("environment", "$PORT")
    if listeners is None or listeners == {}:
        if all(document.get(("pools", name, "listeners")) is None for name in pools):
            document.put(("listeners", DEFAULT_LISTENER, "address"), f"0.0.0.0:{port}", origin)
        return
    if not isinstance(listeners, dict):
        return
    silent = [name for name, listener in listeners.items() if isinstance(listener, dict) and "address" not in listener]
    if len(silent) == 1:
        document.put(("listeners", silent[0], "address"), f"0.0.0.0:{port}", origin)
    elif silent:
        warnings.append(f"PORT is not used: there are several listeners without an address ({', '.join(silent)})")
