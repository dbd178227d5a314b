"""The commands about the configuration, ``check``, ``explain`` and ``schema``, and the options that name one."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from clusterd import config as configuration
from clusterd.cli import certificates
from clusterd.cli.trial import try_import
from clusterd.config.notation import printable
from clusterd.errors import EXIT_CONFIG, EXIT_USAGE, ClusterdError, ConfigError, UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

# Of a pool without start_timeout: somebody waits for the answer.
_LONGEST_IMPORT = 60.0


def _workers(ctx: click.Context, param: click.Parameter, value: str | None) -> str | int | None:
    if value is None or value == "auto":
        return value
    if value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= 1:
        return int(value)
    raise click.BadParameter(f"expected a number, at least 1, or auto; found {value!r:.60}", ctx, param)


def _addresses(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    for value in values:
        try:
            configuration.parse_address(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None
    return values


def _sets(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> Sequence[str]:
    for value in values:
        try:
            configuration.parse_set(value)
        except UsageError as error:
            raise click.BadParameter(str(error).removeprefix("--set: "), ctx, param) from None
    return values


config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The configuration file; else $CLUSTERD_CONFIG, ./clusterd.toml, /etc/clusterd/clusterd.toml.",
)
workers_option = click.option(
    "-w", "--workers", metavar="N", callback=_workers, help="Workers of the pool that runs the app, or auto."
)
bind_option = click.option(
    "-b",
    "--bind",
    "binds",
    metavar="ADDRESS",
    multiple=True,
    callback=_addresses,
    help="Where to listen, such as :8000 or 127.0.0.1:8000; may be given several times.",
)
set_option = click.option(
    "--set",
    "sets",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_sets,
    help="Any key of the configuration, such as pools.web.min_ready=2; may be given several times.",
)


def run_options(command: _Command) -> _Command:
    """Adds ``--config``, ``-w``, ``-b`` and ``--set``: parameters ``config_path workers binds sets``."""
    for option in (set_option, bind_option, workers_option, config_option):
        command = option(command)
    return command


@contextmanager
def _told() -> Iterator[None]:
    """Ends the command with the error's message on stderr and its exit code."""
    try:
        yield
    except ConfigError as error:
        click.echo(str(error), err=True)
        count = len(error.problems)
        click.echo(f"{count} problem{'s' if count > 1 else ''}", err=True)
        raise click.exceptions.Exit(EXIT_CONFIG) from None
    except ClusterdError as error:
        click.echo(f"clusterd: {error}", err=True)
        raise click.exceptions.Exit(error.exit_code) from None


@click.command()
@click.argument("app", required=False, default="")
@run_options
@click.option("--import", "with_import", is_flag=True, help="Also import each app, in a process that is thrown away.")
def check(
    app: str,
    config_path: str | None,
    workers: str | int | None,
    binds: Sequence[str],
    sets: Sequence[str],
    with_import: bool,
) -> None:
    """Validate the configuration; exit code 78 if `run` could not use it.

    Takes what `run` takes. The summary goes to standard output, problems to standard error.
    """
    with _told():
        loaded = configuration.open_config(config_path, app, workers, binds, sets, os.environ, strict_grace=True)
        certificates.verify(loaded)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if with_import and not _imports(loaded):
        raise click.exceptions.Exit(EXIT_CONFIG)
    click.echo(f"{loaded.file or 'flags'}: ok")
    for line in summary(loaded.config):
        click.echo(f"  {printable(line)}")


def summary(config: configuration.Config) -> list[str]:
    """What a configuration amounts to, a line each."""
    lines = [f"service {config.clusterd.name}, run directory {config.clusterd.run_dir}"]
    for name, pool in config.pools.items():
        runs = pool.app or pool.script or pool.tasks or " ".join(pool.command)
        listeners = ", ".join(pool.listeners) or "none"
        lines.append(f"pool {name}: {runs}, workers {pool.workers}, listeners {listeners}")
    lines += [f"listener {name}: {listener.address}" for name, listener in config.listeners.items()]
    address = config.monitoring.address
    lines.append(f"monitoring: {'off' if address is None else f'http://{address}/metrics'}")
    return lines


def _imports(loaded: configuration.Loaded) -> bool:
    """Whether each app can be imported; tells on stderr which cannot."""
    good = True
    for name, pool in loaded.config.pools.items():
        if not pool.app:
            continue
        timeout = min(pool.start_timeout or _LONGEST_IMPORT, _LONGEST_IMPORT)
        report = try_import(pool.app, cwd=pool.cwd, env={**os.environ, **pool.env}, timeout=timeout)
        if report is not None:
            good = False
            origin = loaded.provenance[f"pools.{name}.app"]
            click.echo(f"{origin}: pools.{name}.app: {report}", err=True)
    return good


@click.command()
@click.argument("key", required=False)
@run_options
def explain(
    key: str | None,
    config_path: str | None,
    workers: str | int | None,
    binds: Sequence[str],
    sets: Sequence[str],
) -> None:
    """Show the value in effect of KEY, its default, where it came from and what it is for.

    KEY is a key or a table, such as pools.web.workers, pools.web or pools.*.workers; without it, all keys are shown.
    """
    with _told():
        if configuration.find_file(config_path, os.environ) is None and not (binds or sets or workers):
            rows = configuration.explain_defaults()
        else:
            loaded = configuration.open_config(config_path, "", workers, binds, sets, os.environ)
            rows = configuration.explain(loaded)
            for warning in loaded.warnings:
                click.echo(f"warning: {warning}", err=True)
    chosen = rows if key is None else configuration.select(rows, key)
    if not chosen:
        near = configuration.suggestions(rows, key or "")
        hint = f"did you mean {' or '.join(near)}?" if near else "`clusterd explain` shows all keys"
        click.echo(f"clusterd: there is no key {key!r:.100}; {hint}", err=True)
        raise click.exceptions.Exit(EXIT_USAGE)
    if len(chosen) == 1:
        (row,) = chosen
        click.echo(f"{row.key} = {row.value}")
        click.echo(f"  from     {row.origin}")
        click.echo(f"  default  {row.default}")
        click.echo(f"  {row.doc}")
        return
    for row in chosen:
        click.echo(f"{row.key} = {row.value}  # {row.origin}")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    click.echo(json.dumps(configuration.json_schema(), indent=2, ensure_ascii=False))


commands: tuple[click.Command, ...] = (check, explain, schema)
"""What this module adds to the command line."""
