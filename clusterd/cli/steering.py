"""What the rooms that only look (:mod:`clusterd.ops`) may tell the primary: an operator's orders."""

from collections.abc import Awaitable, Callable, Sequence

from ..config.changes import Change
from ..core.events import Event
from ..primary.service import Primary
from .reload import Reloader


class Steering:
    """:class:`~clusterd.ops.orders.Controls` of a primary and of who reads its configuration anew."""

    def __init__(self, primary: Primary, reloader: Reloader) -> None:
        self._primary = primary
        self._reloader = reloader

    def command(self, event: Event) -> None:
        self._primary.command(event)

    def stacks(self, worker: int, done: Callable[[str], None]) -> bool:
        return self._primary.stacks(worker, done)

    def reload(self, pool: str) -> Awaitable[int | None]:
        return self._reloader.reload(pool)

    def asked(self) -> Awaitable[None]:
        return self._reloader.asked()

    def changes(self) -> Awaitable[Sequence[Change]]:
        return self._reloader.changes()
