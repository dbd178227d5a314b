"""The status as a table for people: coloured on a terminal, plain where it is piped."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clusterd.ops.document import Pool, Slot, Status, Worker
from clusterd.ops.words import seconds, size

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = (
    "pool", "slot", "worker", "pid", "state", "gen", "uptime", "restarts", "conns", "req/s", "cpu", "memory", "lag",
)  # fmt: skip

DROPPED = ("lag", "gen", "pid", "cpu", "memory", "uptime", "worker", "req/s", "conns", "restarts")
"""The order in which a narrow terminal loses columns; pool, slot and state always stay."""

GAP = 2
"""Spaces between two columns."""

COLOURS = {"ready": "green", "given up": "red", "killing": "red", "vacant": "yellow", "held": "yellow"}

Row = dict[str, str]


def headline(status: Status) -> list[str]:
    """What stands above the table: the service, where it listens, what is odd."""
    service = status.service
    ready = "ready" if service.ready else "not ready"
    lines = [f"{service.name}: {service.state}, {ready}, up {seconds(service.uptime)}, pid {service.pid}"]
    lines += [f"listening on {one.address} ({one.name})" for one in service.listeners]
    if service.monitoring:
        lines.append(f"monitoring on {service.monitoring}")
    if status.reload is not None:
        found = status.reload
        lines.append(f"reload: generation {found.generation}, {found.stage}, {found.replaced} of {found.of} ready")
    for pool in status.pools:
        if pool.stopped:
            lines.append(f"pool {pool.name} is stopped; `clusterd start {pool.name}` has it work again")
        elif pool.given_up:
            lines.append(f"pool {pool.name} has given up: its workers ended too often too soon")
        elif pool.ready < pool.min_ready:
            lines.append(f"pool {pool.name}: {pool.ready} ready, {pool.min_ready} needed")
        if held := [f"{pool.name}/{slot.index}" for slot in pool.slots if slot.held]:
            lines.append(f"held: {', '.join(held)}; `clusterd start {held[0]}` fills it again")
    if status.leftovers:
        lines.append("left over from an earlier primary: " + ", ".join(map(str, status.leftovers)))
    return lines


def rows(status: Status) -> Iterator[Row]:
    """One row a slot, then one a worker that is leaving."""
    for pool in status.pools:
        for slot in pool.slots:
            yield _slot_row(pool, slot)
        for worker in pool.leaving:
            yield _worker_row(pool, worker)


def _worker_row(pool: Pool, worker: Worker) -> Row:
    return {
        "pool": pool.name,
        "slot": str(worker.slot),
        "worker": str(worker.id),
        "pid": _number(worker.pid),
        "state": worker.state,
        "gen": str(worker.generation),
        "uptime": seconds(worker.uptime),
        "restarts": "",
        "conns": _number(worker.connections),
        "req/s": "-" if worker.requests_per_second is None else f"{worker.requests_per_second:.1f}",
        "cpu": "-" if worker.cpu is None else f"{worker.cpu * 100:.0f} %",
        "memory": "-" if worker.memory is None else size(worker.memory),
        "lag": "-" if worker.loop_lag is None else f"{worker.loop_lag * 1000:.1f} ms",
    }


def _slot_row(pool: Pool, slot: Slot) -> Row:
    if slot.worker is not None:
        row = _worker_row(pool, slot.worker)
    else:
        if slot.held:
            state = "held"
        elif slot.given_up:
            state = "given up"
        elif slot.next_start_in is not None:
            state = f"vacant, starts in {seconds(slot.next_start_in)}"
        else:
            state = "vacant"
        row = dict.fromkeys(COLUMNS, "-") | {"pool": pool.name, "slot": str(slot.index), "state": state}
    row["restarts"] = str(slot.restarts) + (f" ({slot.last_reason})" if slot.last_reason is not None else "")
    return row


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def fitting(table: Sequence[Row], width: int | None) -> list[str]:
    """The columns that fit into ``width`` characters; all of them if it is ``None``."""
    widths = {name: max([len(name), *(len(row[name]) for row in table)]) for name in COLUMNS}
    columns = list(COLUMNS)
    for name in DROPPED:
        if width is None or sum(widths[column] for column in columns) + GAP * (len(columns) - 1) <= width:
            break
        columns.remove(name)
    return columns


def plain(status: Status, width: int | None = None) -> str:
    """The table as text, for pipes and files.

    Args:
        width: characters a line; ``None`` is unbounded.
    """
    table = list(rows(status))
    columns = fitting(table, width)
    widths = {name: max([len(name), *(len(row[name]) for row in table)]) for name in columns}
    lines = headline(status)
    for row in [{name: name for name in columns}, *table]:
        lines.append((" " * GAP).join(row[name].ljust(widths[name]) for name in columns).rstrip())
    return "\n".join(lines)


def rich_table(status: Status, width: int) -> "RenderableType":
    """The same for a terminal of ``width`` characters, in colours."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    found = list(rows(status))
    columns = fitting(found, width)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in found:
        colour = COLOURS.get(row["state"].partition(",")[0], "")
        cells = [Text(row[name], style=colour if name == "state" else "") for name in columns]
        table.add_row(*cells)
    return Group(*(Text(line) for line in headline(status)), table)
