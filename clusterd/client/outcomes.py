"""What becomes of an order whose answer was waited for while the primary replaced its own code.

The connection ends with the old code, what was ordered goes on: so the one that has waited looks how it ends.
"""

from collections.abc import Callable, Iterator
from select import select
from time import monotonic
from typing import TYPE_CHECKING, Any

from clusterd.errors import NotRunning, PeerError, Refused, RequestFailed, TimedOut

if TYPE_CHECKING:
    from clusterd.client import Client

LOOK = 0.1
"""Seconds between two looks."""

TRIES = 5
"""Looks in a row that may fail: a primary that becomes other code takes the connection of a look with it too."""

VERDICT = ("generation", "verdict", "reason", "report", "took")

SLACK = 0.5
"""Seconds by which two tellings of how long a primary has run may differ, in one that is the same."""

Document = dict[str, Any]

Outcome = Callable[["Client", Document, float], Document | None]
"""How it ended, of client, the status before and the end of patience, on the monotonic clock; ``None`` is untold."""


def outlived(
    client: "Client", ask: Callable[[float], Document], timeout: float, outcome: Outcome | None = None
) -> Document:
    """The answer to an order, also where the primary that has it becomes other code meanwhile.

    Args:
        ask: gives the order and waits for the seconds that it is given.
        timeout: seconds to wait in all.
        outcome: tells how the order ended, once there is somebody to ask again; ``None``: the order is given again, for
            what is so already stays so.

    Raises:
        ClusterdError: as of ``ask``; the primary has ended, and was not upgraded.
    """
    began, before = monotonic(), client.status()
    end, wait = monotonic() + timeout, timeout
    while True:
        try:
            return ask(wait)
        except (NotRunning, PeerError):
            if not _lives_on(client, before, began, end):
                raise
            if outcome is None:
                wait = left(end)
                continue
            found = outcome(client, before, end)
            if found is None:
                raise
            return found


def left(end: float) -> float:
    """Seconds that are left; the primary takes no order to wait for none."""
    return max(LOOK, end - monotonic())


def _lives_on(client: "Client", before: Document, began: float, end: float) -> bool:
    """It is the same primary, which lost the connection: nothing but an upgrade, or the try of one, does that."""
    now = look(client, end)["service"]
    was = before["service"]
    return bool(now["pid"] == was["pid"] and now["uptime"] + SLACK >= was["uptime"] + (monotonic() - began))


def look(client: "Client", end: float) -> Document:
    """The status.

    Raises:
        TimedOut, NotRunning, PeerError: nobody tells it.
    """
    failed = 0
    while True:
        try:
            return client.status()
        except TimedOut:  # it takes its time to become the new code
            if monotonic() > end:
                raise
        except (NotRunning, PeerError):
            failed += 1
            if failed == TRIES or monotonic() > end:
                raise
        select([], [], [], LOOK)


def looks(client: "Client", end: float, late: str) -> Iterator[Document]:
    """The status again and again.

    Raises:
        TimedOut: until ``end``; ``late`` says what of.
    """
    while True:
        yield look(client, end)
        if monotonic() > end:
            raise TimedOut(late)
        select([], [], [], LOOK)


def verdict(client: "Client", before: Document, end: float) -> Document | None:
    """How the reload ended that was under way."""
    late = f"{client.socket_path}: no verdict in time; the reload goes on, `clusterd events` tells"
    for status in looks(client, end, late):
        if status.get("reload") is None:
            ended = [one for one in client.events(last=500) if one.get("event") == "reload_ended"]
            return {name: ended[-1].get(name) for name in VERDICT} if ended else None
    return None


def replaced(pool: str | None, worker: int | None) -> Outcome:
    """All workers that were ready when it was asked for, or the one, are replaced."""

    def outcome(client: "Client", before: Document, end: float) -> Document:
        everybody = [(place["name"], one) for place in before["pools"] for one in _living(place)]
        if worker is None:
            asked = [one["id"] for name, one in everybody if pool in (None, name) and one["ready_for"] is not None]
        else:
            asked = [worker]
        there = _those(look(client, end), asked)
        for number in there:
            # Perhaps nobody has heard of the order. Else it is being replaced already, and that is refused.
            try:
                client.restart(worker=number, wait=False)
            except (Refused, RequestFailed):
                pass
        for status in looks(client, end, f"{len(there)} of {len(asked)} workers were not replaced in time"):
            if not _those(status, asked):
                break
        return {"workers": asked, "done": True}

    return outcome


def _those(status: Document, workers: list[int]) -> list[int]:
    """The ones among them that still live."""
    there = {one["id"] for place in status["pools"] for one in _living(place)}
    return [number for number in workers if number in there]


def _living(pool: Document) -> list[Document]:
    return [*(slot["worker"] for slot in pool["slots"] if slot["worker"] is not None), *pool["leaving"]]
