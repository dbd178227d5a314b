"""``clusterd reload``: the next generation, watched until its verdict."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from clusterd.cli.change import client_of, patience
from clusterd.cli.choose import Document, completed, pool_of, which_service
from clusterd.errors import EXIT_FAILED, ClusterdError, UsageError

if TYPE_CHECKING:
    from clusterd.client import Client

DUMB = ("", "dumb", "unknown")
"""Values of ``TERM`` of terminals that cannot go back in a line."""

LOOK_EVERY = 0.2
"""Seconds between two looks at the progress."""


@click.command()
@click.argument("pool", required=False, shell_complete=completed("pool_names"))
@which_service
@patience
@click.option("--verdict", "joins", is_flag=True, help="Begin none: wait for the one under way, or tell of the last.")
@click.option("--dry-run", is_flag=True, help="Show what would change in the configuration, and do nothing.")
def reload(
    pool: str | None,
    config_path: str | None,
    name: str | None,
    run_dir: str | None,
    no_wait: bool,
    timeout: float | None,
    joins: bool,
    dry_run: bool,
) -> None:
    """The next generation of code and configuration, of all pools or of POOL, with a verdict.

    Exits with 0 if it was promoted, 1 if it was rolled back or could not be tried.
    """
    if joins and (pool is not None or no_wait or dry_run):
        raise UsageError("--verdict is of what somebody else has asked for: leave out POOL, --no-wait and --dry-run")
    client = client_of(config_path, name, run_dir)
    if pool is not None:
        pool_of(client.status(), pool)
    if dry_run:
        for line in would_change(client.changes()):
            print(line)
        return
    longest = timeout or 600.0
    if joins:
        found = watched(client, lambda: client.verdict(timeout=longest))
    elif no_wait:
        found = client.reload(pool, wait=False)
        if found["verdict"] == "begun":
            print(f"generation {found['generation']} is being tried out; `clusterd events` tells of it")
            return
    else:
        found = watched(client, lambda: client.reload(pool, timeout=longest))
    for line in verdict(found):
        print(line)
    if found["verdict"] != "promoted":
        raise click.exceptions.Exit(EXIT_FAILED)


def would_change(changes: list[Document]) -> Iterator[str]:
    """The changes for people."""
    from clusterd.ops.escapes import harmless

    for change in changes:
        before, after = change.get("before"), change.get("after")
        how = f"{after} (new)" if before is None else "(gone)" if after is None else f"{after} (was {before})"
        yield harmless(f"{change['key']} = {how}" + ("; takes a restart" if change.get("restart") else ""))
    if not changes:
        yield "nothing changes in the configuration; the code is taken as it is now"


def verdict(found: Document) -> Iterator[str]:
    """The verdict for people."""
    from clusterd.ops.escapes import harmless
    from clusterd.ops.words import seconds

    generation = "" if found["generation"] is None else f"generation {found['generation']} "
    words = {"rolled_back": "was rolled back", "promoted": "is promoted", "refused": "the reload was refused",
             "superseded": "was superseded", "stopped": "ended with the service"}  # fmt: skip
    reason = f": {found['reason']}" if found["reason"] else ""
    took = f", after {seconds(float(found['took']))}" if found["took"] else ""
    yield harmless(f"{generation}{words.get(found['verdict'], found['verdict'])}{reason}{took}")
    if found["report"]:
        yield harmless(str(found["report"]).rstrip())


def watched(client: "Client", ask: Callable[[], Document]) -> Document:
    """What ``ask`` answers, in a thread; meanwhile its progress is shown."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(ask())
        except ClusterdError as error:
            answer.append(error)

    thread = threading.Thread(target=run, daemon=True)
    show = bar if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in DUMB else stages
    thread.start()
    try:
        show(client, thread)
    except KeyboardInterrupt:
        click.echo("the reload goes on; `clusterd events` tells of its verdict", err=True)
        raise click.exceptions.Exit(130) from None
    if isinstance(answer[0], ClusterdError):
        raise answer[0]
    return dict(answer[0])


def looks(client: "Client", thread: threading.Thread) -> Iterator[Document | None]:
    """The reload as the status has it, again and again until the thread has ended."""
    while thread.is_alive():
        try:
            yield client.status().get("reload")
        except ClusterdError:
            yield None  # the answer of the reload itself says what is wrong
        thread.join(LOOK_EVERY)


def stage_of(found: Document) -> str:
    """What is going on, for people."""
    stage = {"importing": "importing the new code", "canary": "the first new worker proves itself",
             "rolling": "the rest follows"}.get(str(found["stage"]), str(found["stage"]))  # fmt: skip
    left = found.get("left")
    return f"generation {found['generation']}: {stage}" + (f", {left:.0f} s left" if left else "")


def stages(client: "Client", thread: threading.Thread) -> None:
    """A line for each stage, on standard error: for pipes and dumb terminals."""
    before = ""
    for found in looks(client, thread):
        if found and found["stage"] != before:
            before = found["stage"]
            click.echo(stage_of(found), err=True)


def bar(client: "Client", thread: threading.Thread) -> None:
    """A bar, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reload", total=None)
        for found in looks(client, thread):
            if found:
                progress.update(task, description=stage_of(found), completed=found["replaced"], total=found["of"])
