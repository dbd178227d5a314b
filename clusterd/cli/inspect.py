"""The commands that look at a running service: status, describe and health."""

import select
import sys
from collections.abc import Callable

import click

from clusterd.cli.choose import Document, completed, socket_of, which_service, worker_of

# What a command needs beyond click is imported when it runs: `clusterd status` is typed by people and called by probes.

INTERVAL = 1.0
"""Seconds between two pictures of ``--watch``."""


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
    from clusterd.ops.document import Status
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
@click.argument("worker", shell_complete=completed("worker_names"))
@which_service
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
def describe(worker: str, config_path: str | None, name: str | None, run_dir: str | None, as_json: bool) -> None:
    """One worker in full, and what it has started. WORKER is POOL/SLOT, its id, or the pool of which it is the only
    one."""
    from clusterd.cli import offspring
    from clusterd.client import Client

    client = Client(socket_of(config_path, name, run_dir))
    status = client.status()
    found = client.describe(worker_of(status, worker).id)
    found["processes"] = offspring.of(found["worker"]["pid"] or 0, status["service"]["pid"])
    if as_json:
        import json

        print(json.dumps(found, ensure_ascii=False, separators=(",", ":")))
        return
    from clusterd.ops.escapes import harmless

    print(harmless("\n".join(described(found))))


def described(found: Document) -> list[str]:
    """A worker's description for people, a line each."""
    from clusterd.cli.follow import output_line
    from clusterd.ops.words import seconds, size
    from clusterd.unix.cpus import ranges

    worker = found["worker"]

    def known(value: object, show: Callable[[float], str] = str) -> str:
        return show(value) if isinstance(value, int | float) else "-"

    def span(value: object) -> str:
        return known(value, seconds)

    facts = {
        "state": worker["state"],
        "generation": known(worker["generation"]),
        "pid": known(worker["pid"]),
        "up": span(worker["uptime"]),
        "ready for": span(worker["ready_for"]),
        "restarts of its slot": known(found["restarts"])
        + (f", the last for {found['last_reason']}" if found["last_reason"] else ""),
        "connections": f"{known(worker['connections'])} open, {known(found['unread'])} not read from yet",
        "handed to it": ", ".join(f"{count} of {name}" for name, count in found["connections_handed"].items())
        or "none",
        "requests": f"{known(worker['requests'])} answered, {known(worker['in_flight'])} in flight, "
        + known(worker["requests_per_second"], "{:.1f} a second".format),
        "by status": ", ".join(f"{name} {count}" for name, count in found["requests_by_class"].items() if count) or "-",
        "cpu": f"{known(worker['cpu'], lambda share: f'{share * 100:.1f} %')}, {span(found['cpu_seconds'])} in all",
        "memory": f"{known(worker['memory'], lambda count: size(int(count)))} in proportion (PSS), "
        f"{known(found['unique'], lambda count: size(int(count)))} its own (USS), "
        f"{known(found['resident'], lambda count: size(int(count)))} resident (RSS)",
        "may run on": "-" if found.get("cpus") is None else f"CPU {ranges(found['cpus'])}",
        "descriptors": f"{known(found['open_fds'])} of {known(found['max_fds'])}",
        "event loop": f"turned {span(worker['heartbeat_age'])} ago, late by "
        + known(worker["loop_lag"], lambda late: f"{late * 1000:.1f} ms"),
    }
    lines = [f"worker {worker['id']} ({found['pool']}/{worker['slot']})"]
    lines += [f"  {name:22}{value}" for name, value in facts.items()]
    for number, one in enumerate(found["processes"]):
        lines.append(
            f"  {'' if number else 'has started':22}{one['pid']} {one['state']}, {seconds(one['cpu_seconds'])} of cpu,"
            f" {size(one['resident'])} resident: {one['command']}"
        )
    if found["output"]:
        lines.append(f"  its last {len(found['output'])} lines of output:")
        lines += [f"    {output_line(line)}" for line in found["output"]]
    return lines


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


@click.command()
@which_service
def top(config_path: str | None, name: str | None, run_dir: str | None) -> None:
    """A live screen: curves and output of each worker, and what to do about it (the extra `top`)."""
    from clusterd.client import Client
    from clusterd.errors import RequestFailed

    client = Client(socket_of(config_path, name, run_dir))
    client.status()  # what is wrong is said before the screen is taken
    try:
        from clusterd.cli.top import Top
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise RequestFailed("top needs textual, which is not installed: pip install 'clusterd[top]'") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RequestFailed("top needs a terminal; `clusterd status --watch` does without one")
    Top(client).run()
