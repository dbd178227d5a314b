"""Which service is meant, and which worker or pool of it: the options and the selectors that commands share."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import click

from clusterd.errors import RequestFailed

# What a command needs beyond click is imported when it runs: `clusterd status` is typed by people and called by probes.

Command = TypeVar("Command", bound=Callable[..., Any])
Document = dict[str, Any]


def which_service(command: Command) -> Command:
    """The options that say which running service is meant."""
    for option in (
        click.option("--run-dir", metavar="DIR", help="The service's run directory."),
        click.option("--name", metavar="NAME", help="The service's name."),
        click.option("--config", "config_path", metavar="FILE", help="The service's configuration file."),
    ):
        command = option(command)
    return command


def completed(kind: str) -> Callable[..., Any]:
    """Completes an argument with what a function of :mod:`clusterd.cli.completions` says."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from clusterd.cli import completions

        return getattr(completions, kind)(ctx, param, incomplete)

    return complete


def socket_of(config_path: str | None, name: str | None, run_dir: str | None) -> str:
    """The control socket that the options mean; without any that of the only service that runs, else of the one whose
    configuration file a primary would read here.

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
        try:
            return find_socket(run_dir=run_dir, name=name)
        except NotRunning:
            if run_dir is not None or name is not None or (config_path := _usual_file()) is None:
                raise
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


def _usual_file() -> str | None:
    from clusterd.config.load import find_file

    return find_file(None, os.environ)


class Worker(NamedTuple):
    """A living worker, as far as it is chosen by."""

    pool: str
    slot: int
    id: int

    def __str__(self) -> str:
        return f"{self.pool}/{self.slot} (worker {self.id})"


def living(status: Document) -> Iterator[Worker]:
    """The workers of a status document: those of the slots first."""
    leaving = []
    for pool in status.get("pools", ()):
        for slot in pool.get("slots", ()):
            if slot.get("worker"):
                yield Worker(pool["name"], slot["index"], slot["worker"]["id"])
        leaving += [Worker(pool["name"], one["slot"], one["id"]) for one in pool.get("leaving", ())]
    yield from leaving


def pool_of(status: Document, name: str) -> str:
    """The pool of this name.

    Raises:
        RequestFailed: there is none.
    """
    names = [pool["name"] for pool in status.get("pools", ())]
    if name not in names:
        raise RequestFailed(f"there is no pool {name!r:.100}; there are {', '.join(names)}")
    return name


class Place(NamedTuple):
    """A slot."""

    pool: str
    slot: int

    def __str__(self) -> str:
        return f"{self.pool}/{self.slot}"


def place_of(status: Document, selector: str) -> Place | None:
    """The slot that is meant, with a worker or without: ``web/0``, or its worker's id; ``None``: it is a pool's name.

    Raises:
        RequestFailed: it is no pool, no slot and no worker.
    """
    pools = {pool["name"]: pool for pool in status.get("pools", ())}
    if selector in pools:
        return None
    name, _, slot = selector.replace(":", "/").partition("/")
    if name in pools and slot:
        there = [str(one["index"]) for one in pools[name].get("slots", ())]
        if slot in there:
            return Place(name, int(slot))
        raise RequestFailed(f"pool {name} has no slot {slot!r:.100}; it has {', '.join(there) or 'none now'}")
    if selector.isascii() and selector.isdigit():
        for one in living(status):
            if one.id == int(selector):
                return Place(one.pool, one.slot)
    raise RequestFailed(
        f"there is no pool, slot or worker {selector!r:.100} now; expected a pool ({', '.join(pools)}), POOL/SLOT or a"
        " worker's id"
    )


def worker_of(status: Document, selector: str) -> Worker:
    """The one worker that is meant: by id (``7``), by slot (``web/0``), or by its pool where that has only one.

    Raises:
        RequestFailed: there is none, or there are several.
    """
    workers = list(living(status))
    pool, _, slot = selector.replace(":", "/").partition("/")
    if selector.isascii() and selector.isdigit():
        found = [one for one in workers if one.id == int(selector)]
    elif slot:
        found = [one for one in workers if one.pool == pool and str(one.slot) == slot][:1]
    else:
        found = [one for one in workers if one.pool == pool_of(status, pool)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(map(str, found or workers)) or "none"
    if found:
        raise RequestFailed(f"pool {pool} has several workers, say which: {there}")
    raise RequestFailed(
        f"there is no worker {selector!r:.100} now; a worker is POOL/SLOT or its id; there are: {there}"
    )
