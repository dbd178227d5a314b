"""The commands that look at a running service: status and health."""

import os
import select
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

# What a command needs beyond click is imported when it runs: `clusterd status` is typed by people and called by probes.

INTERVAL = 1.0
"""Seconds between two pictures of ``--watch``."""

Command = TypeVar("Command", bound=Callable[..., Any])


def which_service(command: Command) -> Command:
    """The options that say which running service is meant."""
    for option in (
        click.option("--run-dir", metavar="DIR", help="The service's run directory."),
        click.option("--name", metavar="NAME", help="The service's name."),
        click.option("--config", "config_path", metavar="FILE", help="The service's configuration file."),
    ):
        command = option(command)
    return command


def socket_of(config_path: str | None, name: str | None, run_dir: str | None) -> str:
    """The control socket that the options mean.

    Raises:
        UsageError: more than one option, or none and several services are running.
        NotRunning: there is no such service.
        ConfigError: the file named by ``--config`` cannot be used.
    """
    from clusterd.client import find_socket, is_running, run_dir_candidates
    from clusterd.errors import NotRunning, UsageError

    if sum(option is not None for option in (config_path, name, run_dir)) > 1:
        raise UsageError("one of --config, --name and --run-dir is enough")
    if config_path is None:
        return find_socket(run_dir=run_dir, name=name)
    from pathlib import Path

    from clusterd.config.derive import CONTROL_SOCKET
    from clusterd.config.load import open_config

    config = open_config(config_path).config
    # The file's default depends on the environment it is run in ($RUNTIME_DIRECTORY), which is not ours.
    places = [Path(config.control.socket)] if os.path.isabs(config.control.socket) else []
    places += [place / CONTROL_SOCKET for place in run_dir_candidates(os.environ, config.clusterd.name)]
    for place in places:
        if is_running(place):
            return str(place)
    looked = ", ".join(map(str, places))
    raise NotRunning(f"{config.clusterd.name} of {config_path} is not running; looked for {looked}")


@click.command()
@which_service
@click.option("--json", "as_json", is_flag=True, help="The status document, as one line of JSON.")
@click.option("--watch", is_flag=True, help=f"Again every {INTERVAL:g} s, until Ctrl-C.")
def status(config_path: str | None, name: str | None, run_dir: str | None, as_json: bool, watch: bool) -> None:
    """What is: the service, its pools, its workers."""
    from clusterd.client import Client

    client = Client(socket_of(config_path, name, run_dir))
    if as_json:
        _repeat(watch, lambda: print(client.status_json().decode().rstrip("\n"), flush=True))
        return

    import msgspec

    from clusterd.errors import PeerError
    from clusterd.ops.status import Status
    from clusterd.ops.terminal import plain, rich_table

    def fetch() -> Status:
        try:
            return msgspec.convert(client.status(), Status)
        except msgspec.ValidationError as error:
            raise PeerError(f"{client.socket_path}: the status is of another version of clusterd: {error}") from None

    if not sys.stdout.isatty():
        _repeat(watch, lambda: print(plain(fetch()) + ("\n" if watch else ""), flush=True))
        return
    from rich.console import Console

    console = Console()
    if not watch:
        console.print(rich_table(fetch(), console.width))
        return
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        _repeat(True, lambda: live.update(rich_table(fetch(), console.width), refresh=True))


def _repeat(again: bool, show: Callable[[], None]) -> None:
    """Shows once, or every :data:`INTERVAL` until Ctrl-C."""
    try:
        show()
        while again:
            select.select([], [], [], INTERVAL)
            show()
    except KeyboardInterrupt:
        if not again:
            raise


@click.command()
@click.argument("check", type=click.Choice(("live", "ready", "startup")), default="ready")
@which_service
@click.option("-v", "--verbose", is_flag=True, help="A line for each slot too.")
@click.pass_context
def health(
    context: click.Context,
    check: str,
    config_path: str | None,
    name: str | None,
    run_dir: str | None,
    verbose: bool,
) -> None:
    """Whether the service is live, ready (default) or was ready once.

    Exits with 0 if so, 1 if not, 3 if it is not running: made for a container's health check.
    """
    from clusterd.client import Client

    well, lines = Client(socket_of(config_path, name, run_dir)).health(check, verbose=verbose)
    print(lines, end="")
    context.exit(0 if well else 1)


ALIASES = {"list": status, "ls": status}
"""Further names of commands."""
