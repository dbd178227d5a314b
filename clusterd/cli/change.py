"""The commands that change a running service."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from clusterd.cli.choose import Command, Document, completed, place_of, pool_of, socket_of, which_service, worker_of
from clusterd.errors import EXIT_FAILED, RequestFailed, UsageError

if TYPE_CHECKING:
    from clusterd.client import Client


def span_option(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A span of time, written as in the configuration."""
    from clusterd.cli.spans import seconds_of

    if value is None:
        return None
    seconds = seconds_of(value)
    if not seconds:
        raise click.BadParameter(f"expected a duration such as 30s, 5m; found {value!r:.60}", ctx, param)
    return min(seconds, 86_400.0)


def client_of(config_path: str | None, name: str | None, run_dir: str | None) -> "Client":
    """A client of the service that the options mean."""
    from clusterd.client import Client

    return Client(socket_of(config_path, name, run_dir))


def amount(text: str) -> tuple[int | None, int]:
    """``4`` is (4, 0), ``+1`` is (None, 1), ``-1`` is (None, -1).

    Raises:
        UsageError: it is none of these.
    """
    if not re.fullmatch(r"[+-]?[0-9]{1,6}", text):
        raise UsageError(f"{text!r:.60} is no number of workers: expected one such as 4, +1 or -1")
    return (None, int(text)) if text[0] in "+-" else (int(text), 0)


class Signed(click.Command):
    """A command with an argument such as ``-1``, which is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            signed = [word for word in args if re.fullmatch(r"-[0-9]+", word)]
            args = [word for word in args if word not in signed]
            args += ["--", *signed] if signed else []
        return super().parse_args(ctx, args)


@click.command(cls=Signed)
@click.argument("pool", shell_complete=completed("pool_names"))
@click.argument("workers", metavar="N|+N|-N")
@which_service
def scale(pool: str, workers: str, config_path: str | None, name: str | None, run_dir: str | None) -> None:
    """More or fewer workers in POOL, until the next start or reload: `scale web 4`, `scale web +1`, `scale web -1`."""
    to, by = amount(workers)
    if to == 0:
        raise UsageError(f"a pool has one worker at the least; to end all of its workers: clusterd stop {pool}")
    client = client_of(config_path, name, run_dir)
    found = client.scale(pool_of(client.status(), pool), to=to, by=by)
    print(f"{found['pool']}: {found['wanted']} workers wanted, before {found['was']}")


@click.command()
@click.argument("worker", shell_complete=completed("worker_names"))
@which_service
def stacks(worker: str, config_path: str | None, name: str | None, run_dir: str | None) -> None:
    """Python stacks of all threads and tasks of WORKER (POOL/SLOT or id), without stopping it."""
    from clusterd.ops.escapes import harmless

    client = client_of(config_path, name, run_dir)
    chosen = worker_of(client.status(), worker)
    print(harmless(f"{chosen}\n\n{client.stacks(chosen.id)}"))


def patience(command: Command) -> Command:
    """The options of a command that waits for its outcome."""
    for option in (
        click.option("--timeout", metavar="T", callback=span_option, help="Wait for so long at most: 90s, 5m."),
        click.option("--no-wait", is_flag=True, help="Return when it has begun."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("target", metavar="[POOL|WORKER]", required=False, shell_complete=completed("names"))
@which_service
@patience
def restart(
    target: str | None,
    config_path: str | None,
    name: str | None,
    run_dir: str | None,
    no_wait: bool,
    timeout: float | None,
) -> None:
    """New workers with the same code, in turn: each is ready before the one that it replaces drains.

    POOL's workers, WORKER (POOL/SLOT or id) alone, or without either those of all pools.
    """
    client = client_of(config_path, name, run_dir)
    pool, worker = None, None
    if target is not None:
        status = client.status()
        if target in [one["name"] for one in status["pools"]]:
            pool = target
        else:
            worker = worker_of(status, target).id
    found = client.restart(pool, worker=worker, wait=not no_wait, timeout=timeout or 300.0)
    count = len(found["workers"])
    workers = f"{count} worker{'' if count == 1 else 's'}"
    print(f"{workers} {'replaced' if found['done'] else 'to be replaced'}")
    if not found["done"] and not no_wait:
        raise RequestFailed("the service ended before all of them were replaced")


@click.command()
@click.argument("target", metavar="POOL|WORKER", shell_complete=completed("names"))
@which_service
@patience
def start(
    target: str, config_path: str | None, name: str | None, run_dir: str | None, no_wait: bool, timeout: float | None
) -> None:
    """Have POOL work again that was stopped or has given up, with all its slots; or POOL/SLOT alone that was."""
    client = client_of(config_path, name, run_dir)
    place = place_of(client.status(), target)
    if place is not None:
        freed = client.release(*place, wait=not no_wait, timeout=timeout or 300.0)
        print(f"{place}: " + ("starting" if freed["worker"] is None or no_wait else f"worker {freed['worker']}"))
        if not no_wait and freed["worker"] is None:
            raise RequestFailed(f"{place} has no worker yet: `clusterd status` tells why")
        return
    found = client.start(target, wait=not no_wait, timeout=timeout or 300.0)
    print(f"{target}: {found['ready']} of {found['wanted']} workers ready")
    if not no_wait and found["ready"] < found["wanted"]:
        raise RequestFailed(
            f"pool {target} has given up: `clusterd logs --crash` tells why"
            if found["given_up"]
            else "the service ended meanwhile"
        )


@click.command()
@click.argument("target", metavar="POOL|WORKER", shell_complete=completed("names"))
@which_service
@patience
def stop(
    target: str, config_path: str | None, name: str | None, run_dir: str | None, no_wait: bool, timeout: float | None
) -> None:
    """Have all workers of POOL drain, or the one in POOL/SLOT alone, and none follow, until `start`.

    The whole service ends by `shutdown`.
    """
    client = client_of(config_path, name, run_dir)
    place = place_of(client.status(), target)
    if place is not None:
        client.hold(*place, wait=not no_wait, timeout=timeout or 300.0)
        print(f"{place}: {'draining, then ' if no_wait else ''}held; `clusterd start {place}` fills it again")
        return
    client.stop(target, wait=not no_wait, timeout=timeout or 300.0)
    print(f"{target}: {'stopping' if no_wait else 'stopped'}")


@click.command()
@which_service
@click.option("--now", is_flag=True, help="Without a drain.")
@click.option("--no-wait", is_flag=True, help="Return when it has begun.")
def shutdown(config_path: str | None, name: str | None, run_dir: str | None, now: bool, no_wait: bool) -> None:
    """End the whole service: drain, and wait for its end."""
    client = client_of(config_path, name, run_dir)
    if no_wait:
        client.shutdown(now=now)
        print("the service is ending")
        return
    happening = client.events(last=0, follow=True)
    client.shutdown(now=now)
    code = tell_end(happening)
    print(f"the service has ended{'' if code is None else f', exit code {code}'}")
    if code:
        raise click.exceptions.Exit(EXIT_FAILED)


def tell_end(happening: Iterator[Document]) -> int | None:
    """Tell of the end of a service as it comes; its exit code, ``None`` if the last word was not heard."""
    from clusterd.cli.follow import event_line

    for event in happening:
        print(event_line(event), flush=True)
        if event.get("event") == "stopped":
            return int(event.get("code", 0))
    return None
