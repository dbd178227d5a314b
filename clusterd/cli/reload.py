"""A reload from the side of the configuration: what ``run`` was started with is read once more, and tried out."""

import asyncio
import os
from collections.abc import Callable

from .. import config as configuration
from ..config.changes import Change, changes, reloaded
from ..config.load import Loaded
from ..errors import ClusterdError, UsageError
from ..ops.logs import Log
from ..primary.handover import Handover
from ..primary.plans import plan, verify_cpus
from ..primary.service import Primary
from ..unix import cgroup


class Reloader:
    """Reads anew and has the primary try it out.

    Args:
        loaded: what the service was started with.
        read: reads that from where it came from, with the same flags. Called in a thread.
        primary: who tries it out.
        log: where it is said what takes a restart.
        nofile: see :func:`clusterd.primary.plans.plan`.
        left: what a predecessor in this process has left.

    Attributes:
        hashes: of the configuration of each generation that is being tried out, or was last.
    """

    def __init__(
        self,
        loaded: Loaded,
        read: Callable[[], Loaded],
        primary: Primary,
        log: Log,
        nofile: int,
        left: Handover | None = None,
    ) -> None:
        self._loaded = loaded if left is None or left.loaded is None else left.loaded
        self._read = read
        self._primary = primary
        self._log = log
        self._nofile = nofile
        self._turn = asyncio.Lock()
        self.hashes: dict[int, str] = {} if left is None else left.hashes
        self._tasks: set[asyncio.Task[int | None]] = set()

    def describe(self, left: Handover) -> None:
        """What is to be known of this for a successor."""
        left.loaded, left.hashes = self._loaded, self.hashes

    def ask(self, pool: str = "") -> None:
        """Reload, and tell nobody but the observers."""
        task = asyncio.get_running_loop().create_task(self.reload(pool))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def asked(self) -> None:
        """Returns when every reload that was asked for until now has begun, or was refused."""
        while self._tasks:
            await asyncio.wait([*self._tasks])
        async with self._turn:  # those that somebody waits for himself
            pass

    async def reload(self, pool: str = "") -> int | None:
        """Begin to try out what the file says now; the verdict is a fact.

        Args:
            pool: this one alone; empty: all of them.

        Returns:
            The generation that is tried out; ``None`` if it was refused, which has become a fact by then.

        Raises:
            UsageError: there is no such pool.
        """
        async with self._turn:
            try:
                found = await asyncio.to_thread(self._read)
                config = reloaded(self._primary.config, found.config, pool)
                names = [pool] if pool else [*config.pools]
                verify_cpus(config)
                generation = self._primary.next_generation()
                # Certificates are read here, small files as the configuration is.
                plans = {
                    name: plan(name, config.pools[name], config, os.environ, self._nofile, generation) for name in names
                }
                policy = configuration.policy(config, cpus=cgroup.cpu_count())
                self.hashes = {generation: found.sha256}
                self._primary.reload(generation, config, policy, plans)
            except ClusterdError as error:
                if pool and isinstance(error, UsageError):
                    raise  # whoever named a pool is there to be told
                lines = str(error).splitlines()
                more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
                self._primary.refuse_reload(f"{lines[0]}{more}", str(error) if more else "")
                return None
            self._say_what_takes_a_restart(found)
            if not pool:
                self._loaded = found
            return generation

    async def changes(self) -> list[Change]:
        """What a reload would change in the configuration, besides taking the code as it is now.

        Raises:
            ConfigError, HostError: as reading it.
        """
        return changes(self._loaded, await asyncio.to_thread(self._read))

    def _say_what_takes_a_restart(self, found: Loaded) -> None:
        kept = [change for change in changes(self._loaded, found) if change.restart]
        if kept:
            listed = ", ".join(change.key for change in kept)
            self._log.emit("warning", "reload_partial", reason=f"changes of these keys take a restart: {listed}")
