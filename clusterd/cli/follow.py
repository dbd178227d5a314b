"""The commands that tell what happens in a running service: events and logs."""

import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import click

from clusterd.cli.choose import Document, socket_of, which_service, worker_of

LINES = 50
"""Lines that are shown before those that come."""

LEVELS = {"warning": "33", "error": "31", "critical": "31;1", "debug": "2"}
"""ANSI colours."""

POOLS = ("36", "35", "34", "32", "33")
"""ANSI colours of the tags of output, one slot the next."""


def coloured(text: str, code: str | None) -> str:
    """The text in a colour, if standard output is a terminal that has some."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and has_colours() else text


def has_colours() -> bool:
    """Whether standard output is a terminal that shows colours and is to."""
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def clock(instant: str) -> str:
    """The local time of an instant in ISO 8601."""
    try:
        return datetime.fromisoformat(instant).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return instant[:32]


def printed(records: Iterable[Document], show: Callable[[Document], str]) -> None:
    """Print each as it comes; Ctrl-C is an end like any."""
    try:
        for record in records:
            print(show(record), flush=True)
    except KeyboardInterrupt:
        pass


def as_json(record: Document) -> str:
    """One line of JSON."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def event_line(record: Document) -> str:
    """An event for people."""
    from clusterd.ops.escapes import harmless

    level = str(record.get("level", "info"))
    known = ("id", "time", "level", "event")
    fields = " ".join(f"{name}={_value(value)}" for name, value in record.items() if name not in known)
    event = harmless(str(record.get("event")))
    line = f"{clock(str(record.get('time')))} {coloured(f'{level:8}', LEVELS.get(level))} {event:22} {fields}"
    return line.rstrip()


def _value(value: Any) -> str:
    from clusterd.ops.escapes import harmless

    text = harmless(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and (" " in text or not text) else text


def output_line(record: Document) -> str:
    """A line of output for people, tagged with whose it is; ``!`` marks standard error."""
    from clusterd.ops.escapes import harmless

    if record.get("event") == "left_out":
        return coloured(f"… {record.get('count')} lines were left out, this reader was too slow …", "2")
    slot = record.get("slot")
    tag = f"{record.get('pool')}/{'zygote' if slot is None else slot}"
    colour = POOLS[slot % len(POOLS)] if isinstance(slot, int) else "2"
    mark = "!" if record.get("stream") == "stderr" else "|"
    text = harmless(str(record.get("text")), colours=has_colours())
    place = f"{clock(str(record.get('time')))} {harmless(tag)} {mark}"
    return f"{coloured(place, colour)} {text}"


def crash_block(record: Document) -> str:
    """A crash report for people."""
    from clusterd.ops.escapes import harmless

    lines = [f"{clock(str(record.get('time')))} {coloured('crash report', '31')}: {record.get('cause')}"]
    if output := record.get("last_output"):
        lines.append(f"  its last {len(output)} lines of output:")
        lines += [f"    {line}" for line in output]
    if report := str(record.get("report") or ""):
        lines.append("  it reported:")
        lines += [f"    {line}" for line in report.rstrip().splitlines()]
    return "\n".join(harmless(line, colours=has_colours()) for line in lines)


def seconds_back(value: str) -> float:
    """``30s``, ``5m``, ``2h`` or a moment in ISO 8601 as seconds before now.

    Raises:
        UsageError: it is neither.
    """
    from clusterd.cli.spans import seconds_of
    from clusterd.errors import UsageError

    if (span := seconds_of(value)) is not None:
        return span
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(
            f"--since {value!r:.60}: expected a duration such as 90s, 5m, 2h, or a moment such as 2026-01-31T12:00"
        ) from None
    return max(0.0, (datetime.now(UTC) - moment.astimezone(UTC)).total_seconds())


@click.command()
@which_service
@click.option("--last", metavar="N", type=click.IntRange(0, 1000), default=LINES, help="Events that were before.")
@click.option("--no-follow", is_flag=True, help="Do not go on with those that come.")
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a line.")
def events(
    config_path: str | None, name: str | None, run_dir: str | None, last: int, no_follow: bool, json_lines: bool
) -> None:
    """What happens: starts, ends, reloads, changes by operators; until Ctrl-C or the service's end."""
    from clusterd.client import Client

    found = Client(socket_of(config_path, name, run_dir)).events(last=last, follow=not no_follow)
    printed(found, as_json if json_lines else event_line)


@click.command()
@which_service
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on.")
@click.option("--pool", metavar="POOL", help="Only this pool's.")
@click.option("--worker", metavar="WORKER", help="Only this worker's: POOL/SLOT, or its id.")
@click.option("--lines", metavar="N", type=click.IntRange(0, 5000), default=LINES, help="Lines that were before.")
@click.option("--since", metavar="T", help="None older than this: 90s, 5m, 2h, or a moment.")
@click.option("--crash", is_flag=True, help="The last crash reports instead.")
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a line.")
def logs(
    config_path: str | None,
    name: str | None,
    run_dir: str | None,
    follow: bool,
    pool: str | None,
    worker: str | None,
    lines: int,
    since: str | None,
    crash: bool,
    json_lines: bool,
) -> None:
    """What the workers printed, tagged with whose it is, from the primary's memory.

    That holds the last lines of each worker and of those that have ended lately. Where output is not captured
    (log.worker_output = "inherit"), there is none.
    """
    from clusterd.client import Client

    client = Client(socket_of(config_path, name, run_dir))
    if crash:
        printed(client.crashes(last=min(lines, 100)), as_json if json_lines else crash_block)
        return
    back = None if since is None else seconds_back(since)
    number, slot = None, None
    if worker is not None:
        text, _, place = worker.replace(":", "/").partition("/")
        if worker.isascii() and worker.isdigit():
            number = int(worker)  # perhaps one that has ended
        elif place.isascii() and place.isdigit() and (pool or text) == text:
            pool, slot = text, int(place)  # with those that were in the slot before
        else:
            number = worker_of(client.status(), worker).id
    found = client.logs(pool=pool, slot=slot, worker=number, lines=lines, since=back, follow=follow)
    printed(found, as_json if json_lines else output_line)
