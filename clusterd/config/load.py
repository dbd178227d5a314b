"""From a file, flags and the environment to a configuration, or to all that is wrong with it."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from clusterd.config.derive import derive
from clusterd.config.document import Document, Origin, parse, read_file
from clusterd.config.flags import (
    DEFAULT_LISTENER,
    Flags,
    app_pools,
    lay_environment,
    lay_flags,
    lay_sets,
)
from clusterd.config.notation import dotted
from clusterd.config.read import read
from clusterd.config.rules import check, grace_fault, seconds, shortened, shut_out
from clusterd.config.schema import Config
from clusterd.errors import ConfigError, HostError, Problem, UsageError

LOCAL_FILE = "clusterd.toml"
SYSTEM_FILE = "/etc/clusterd/clusterd.toml"

MAX_PROBLEMS = 100
"""More problems than this are counted, not told."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and how it came about.

    Attributes:
        config: every value in effect.
        file: the file as the user named it; ``None`` without a file.
        warnings: what is odd but no error, a sentence each.
        provenance: where each key's value came from, by the key's path as text, ``pools.web.workers``.
        sha256: of the file's text, in hexadecimal; of nothing without a file.
    """

    config: Config
    file: str | None
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Origin] = field(default_factory=dict)
    sha256: str = ""

    @property
    def from_file(self) -> bool:
        """Only without a file, a taken monitoring port is replaced by a free one."""
        return self.file is not None


def load(
    text: str | None,
    *,
    file: str | None = None,
    environ: Mapping[str, str],
    overrides: Flags | None = None,
    cwd: str | None = None,
    strict_grace: bool = True,
) -> Loaded:
    """Reads a configuration.

    Args:
        text: the file's text; ``None`` without a file.
        file: the file as the user named it; its directory is what its relative paths are relative to.
        environ: the variables that may be referred to, and that stand in where file and flags are silent.
        overrides: what the command line says.
        cwd: the working directory; default: the process's.
        strict_grace: a shutdown that cannot fit ``grace_period`` is an error; else it is shortened, with a warning.

    Raises:
        ConfigError: with all the problems.
        UsageError: the flags are ambiguous, or no flags.
    """
    flags = overrides or Flags()
    cwd = cwd or _working_directory()
    if text is None:
        document = Document({}, cwd, cwd)
    else:
        name = file or LOCAL_FILE
        document = parse(text, file=name, base=os.path.dirname(os.path.join(cwd, name)), cwd=cwd)
    lay_sets(document, flags.sets)
    document.substitute(environ)
    lay_flags(document, flags)
    warnings = lay_environment(document, environ)
    if text is None and app_pools(document) and not document.get(("listeners",)):
        document.put(("listeners", DEFAULT_LISTENER), {}, Origin("default"))
    reading = read(document)
    derive(document, reading, environ)
    check(document, reading)
    config = reading.config
    fault = grace_fault(config.shutdown)
    if fault is not None and strict_grace:
        path = (
            "shutdown",
            "drain_timeout" if document.get(("shutdown", "drain_timeout")) is not None else "grace_period",
        )
        document.fault(path, fault)
    elif fault is not None:
        config = msgspec.structs.replace(config, shutdown=shortened(config.shutdown))
        for key in ("lame_duck", "linger", "drain_timeout"):
            if getattr(config.shutdown, key) != getattr(reading.config.shutdown, key):
                origin = reading.origins[("shutdown", key)]
                name = f"{origin}, shortened to fit grace_period"
                reading.origins[("shutdown", key)] = dataclasses.replace(origin, kind="default", name=name, line=None)
        warnings.append(
            f"shutdown: {fault}; drain_timeout is shortened to {seconds(config.shutdown.drain_timeout)}"
            f" (linger {seconds(config.shutdown.linger)}, lame_duck {seconds(config.shutdown.lame_duck)})"
        )
    if document.problems:
        raise ConfigError(_bounded(document.problems))
    kept_out = shut_out(config.control)
    if kept_out is not None:
        warnings.append(kept_out)
    return Loaded(
        config=config,
        file=document.file,
        warnings=tuple(warnings),
        provenance={dotted(path): origin for path, origin in reading.origins.items()},
        sha256=hashlib.sha256((text or "").encode(errors="surrogateescape")).hexdigest(),
    )


def from_flags(
    *,
    app: str = "",
    workers: str | int | None = None,
    binds: Sequence[str] = (),
    sets: Sequence[str] = (),
    environ: Mapping[str, str],
    cwd: str | None = None,
    strict_grace: bool = False,
) -> Loaded:
    """A configuration without a file: a pool ``web``, a listener ``http`` (for each further ``-b`` http2, http3 …).

    Raises:
        ConfigError, UsageError: as :func:`load`.
    """
    flags = Flags(app=app, workers=workers, binds=binds, sets=sets)
    return load(None, environ=environ, overrides=flags, cwd=cwd, strict_grace=strict_grace)


def find_file(config_path: str | None, environ: Mapping[str, str], *, search: bool = True) -> str | None:
    """The file to read: ``--config``, else ``$CLUSTERD_CONFIG``, else the first that exists of the usual two.

    Args:
        config_path: what ``--config`` says.
        environ: where ``CLUSTERD_CONFIG`` is looked up.
        search: whether the usual two are looked for: ``./clusterd.toml`` and ``/etc/clusterd/clusterd.toml``.
    """
    if config_path is not None:
        return config_path
    if environ.get("CLUSTERD_CONFIG"):
        return environ["CLUSTERD_CONFIG"]
    if search:
        return next((path for path in (LOCAL_FILE, SYSTEM_FILE) if os.path.lexists(path)), None)
    return None


def open_config(
    config_path: str | None = None,
    app: str = "",
    workers: str | int | None = None,
    binds: Sequence[str] = (),
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    strict_grace: bool = False,
) -> Loaded:
    """What ``clusterd run`` runs: a file with flags over it, or flags alone.

    With ``APP`` only a file that was named is read (``--config``, ``$CLUSTERD_CONFIG``), none that lies around.

    Args:
        config_path: ``--config``.
        app: ``APP``.
        workers: ``-w``.
        binds: each ``-b``.
        sets: each ``--set``.
        environ: the environment; default: the process's.
        strict_grace: as of :func:`load`.

    Raises:
        ConfigError: with all the problems.
        UsageError: there is neither a file nor an app, or the flags are ambiguous.
    """
    environ = os.environ if environ is None else environ
    flags = Flags(app=app, workers=workers, binds=binds, sets=sets)
    file = find_file(config_path, environ, search=not app)
    if file is not None:
        return load(read_file(file), file=file, environ=environ, overrides=flags, strict_grace=strict_grace)
    if not app and not any(text.lstrip().startswith("pools") for text in sets):
        raise UsageError(
            "there is nothing to run: give an app, such as `clusterd run shop.asgi:app`, or a file by --config or"
            f" $CLUSTERD_CONFIG; ./{LOCAL_FILE} and {SYSTEM_FILE} do not exist"
        )
    loaded = load(None, environ=environ, overrides=flags, strict_grace=strict_grace)
    if not os.path.lexists(LOCAL_FILE):
        return loaded
    ignored = f"./{LOCAL_FILE} is not read, because an app was given; --config {LOCAL_FILE} reads it too"
    return dataclasses.replace(loaded, warnings=(*loaded.warnings, ignored))


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise HostError(f"the working directory cannot be found: {error.strerror}; change to another") from None


def _bounded(problems: list[Problem]) -> list[Problem]:
    ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
    if len(ordered) <= MAX_PROBLEMS:
        return ordered
    more = Problem(f"and {len(ordered) - MAX_PROBLEMS} further problems", "", ordered[0].file)
    return [*ordered[:MAX_PROBLEMS], more]
