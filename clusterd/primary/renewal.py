"""Zygotes built anew after an upgrade of the primary, beside those that another version of this code has started.

The old one goes on until the new one can fork, and if that fails: whatever is wrong with the code on disk, it was not
asked for. For the rules nothing happens; a pool's generation has a zygote all the time.
"""

from collections.abc import Callable

from ..spawner.client import ZygoteClient

Key = tuple[str, int]
"""A pool and its generation."""


class Renewals:
    """Those that are being built, and those that have been replaced and have not quite gone.

    Args:
        make: makes a zygote of a pool and generation.
        take: gives it the place of the one that is there; false: that is busy, ask again.
        on_end: called with pool, generation, whether it imported the app, the seconds that it took, and a report if it
            failed.
        gone: called with a zygote that has ended.
        clock: seconds.
    """

    def __init__(
        self,
        make: Callable[[str, int], ZygoteClient],
        take: Callable[[Key, ZygoteClient], bool],
        on_end: Callable[[str, int, bool, float, str], None],
        gone: Callable[[ZygoteClient], None],
        clock: Callable[[], float],
    ) -> None:
        self._make = make
        self._take = take
        self._on_end = on_end
        self._gone = gone
        self._clock = clock
        self._began: dict[Key, float] = {}
        self._coming: dict[Key, ZygoteClient] = {}
        self._preloaded: dict[Key, bool] = {}  # of those that are ready
        self._going: set[ZygoteClient] = set()

    def begin(self, key: Key) -> None:
        """Build one, unless one is being built."""
        if key not in self._coming:
            self._began[key] = self._clock()
            client = self._coming[key] = self._make(*key)
            client.hand_to(self)
            client.start()

    def look(self) -> None:
        """One that is in the way has perhaps done what it was asked."""
        for key, preloaded in [*self._preloaded.items()]:
            client = self._coming.pop(key)
            if self._take(key, client):
                del self._preloaded[key]
                self._on_end(*key, preloaded, self._clock() - self._began[key], "")
            else:
                self._coming[key] = client

    def drop(self, key: Key) -> None:
        """It is not wanted any more; harmless if there is none."""
        self._preloaded.pop(key, None)
        client = self._coming.pop(key, None)
        if client is not None:
            self.retire(client)

    def drop_all(self) -> None:
        """None is."""
        for key in [*self._coming]:
            self.drop(key)

    def retire(self, client: ZygoteClient) -> None:
        """End one that has no place, or none any more; nobody is told."""
        client.hand_to(self)
        self._going.add(client)
        client.stop()

    def pids(self) -> set[int]:
        """The pids of all of them."""
        return {client.pid for client in [*self._coming.values(), *self._going]}

    # -- what they say -------------------------------------------------------------------------------------------

    def zygote_ready(self, client: ZygoteClient, preloaded: bool, warning: str) -> None:
        for key, one in self._coming.items():
            if one is client:
                self._preloaded[key] = preloaded
        self.look()

    def zygote_failed(self, client: ZygoteClient, report: str) -> None:
        self._going.discard(client)
        for key, one in [*self._coming.items()]:
            if one is client:
                del self._coming[key]
                self._preloaded.pop(key, None)
                self._on_end(*key, False, self._clock() - self._began[key], report)
        self._gone(client)

    def zygote_gone(self, client: ZygoteClient, report: str) -> None:
        self.zygote_failed(client, report)

    def spawned(self, worker: int, pid: int, fd: int) -> None:
        raise AssertionError("it was asked for no worker")

    def spawn_failed(self, worker: int, report: str, zygote_gone: bool) -> None:
        raise AssertionError("it was asked for no worker")
