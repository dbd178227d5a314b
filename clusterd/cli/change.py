"""The commands that change a running service."""

import re
from typing import TYPE_CHECKING

import click

from clusterd.cli.choose import pool_of, socket_of, which_service, worker_of
from clusterd.errors import EXIT_FAILED, NotRunning, UsageError

if TYPE_CHECKING:
    from clusterd.client import Client


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
@click.argument("pool")
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
@click.argument("worker")
@which_service
def stacks(worker: str, config_path: str | None, name: str | None, run_dir: str | None) -> None:
    """Python stacks of all threads and tasks of WORKER (POOL/SLOT or id), without stopping it."""
    from clusterd.ops.escapes import harmless

    client = client_of(config_path, name, run_dir)
    chosen = worker_of(client.status(), worker)
    print(harmless(f"{chosen}\n\n{client.stacks(chosen.id)}"))


@click.command()
@which_service
@click.option("--now", is_flag=True, help="Without a drain.")
@click.option("--no-wait", is_flag=True, help="Return when it has begun.")
def shutdown(config_path: str | None, name: str | None, run_dir: str | None, now: bool, no_wait: bool) -> None:
    """End the whole service: drain, and wait for its end."""
    client = client_of(config_path, name, run_dir)
    client.shutdown(now=now)
    if no_wait:
        print("the service is ending")
        return
    code = watch_end(client)
    print(f"the service has ended{'' if code is None else f', exit code {code}'}")
    if code:
        raise click.exceptions.Exit(EXIT_FAILED)


def watch_end(client: "Client") -> int | None:
    """Tell of the end of a service as it comes; its exit code, ``None`` if the last word was not heard."""
    from clusterd.cli.follow import event_line

    ending = False
    try:
        for event in client.events(last=500, follow=True):
            ending = ending or event.get("event") == "stop_began"
            if ending:
                print(event_line(event), flush=True)
            if event.get("event") == "stopped":
                return int(event.get("code", 0))
    except NotRunning:
        pass  # it was faster
    return None
