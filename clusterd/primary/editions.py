"""What the workers of one pool and generation are made with, kept for as long as any may still be made."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..config.schema import Pool
from ..spawner.client import Plan
from .listeners import Standing


@dataclass(frozen=True, slots=True)
class Edition:
    """One pool's generation.

    Attributes:
        plan: how its zygotes are started.
        listeners: what its workers serve, by name.
        steal_after: seconds after which mail that one of them has not taken may go to others; 0 is never.
    """

    plan: Plan
    listeners: Mapping[str, Standing]
    steal_after: float


def edition(plan: Plan, pool: Pool, standing: Mapping[str, Standing]) -> Edition:
    """A pool's generation: how it is started, and what it serves of the listeners that there are."""
    return Edition(plan, {name: standing[name] for name in pool.listeners}, pool.steal_after)


class Editions:
    """All editions, by pool and generation."""

    def __init__(self) -> None:
        self._editions: dict[tuple[str, int], Edition] = {}

    def add(self, pool: str, generation: int, edition: Edition) -> None:
        """A generation that is to be, or may come to be."""
        self._editions[pool, generation] = edition

    def get(self, pool: str, generation: int) -> Edition | None:
        """One of them, if there is such."""
        return self._editions.get((pool, generation))

    def __contains__(self, key: object) -> bool:
        return key in self._editions

    def of(self, generation: int) -> dict[str, Edition]:
        """What a generation brings, by pool."""
        return {pool: one for (pool, number), one in self._editions.items() if number == generation}

    def __getitem__(self, key: tuple[str, int]) -> Edition:
        return self._editions[key]

    def plan(self, pool: str) -> Plan:
        """How the pool's newest generation is started."""
        return self._editions[max(key for key in self._editions if key[0] == pool)].plan

    def settle(self, generation: int, promoted: bool, pools: Iterable[str]) -> None:
        """The generation has its verdict: nobody will be made any more of what it replaces, or of it.

        Args:
            pools: those that the service has now.
        """
        if not promoted:
            self._editions = {key: one for key, one in self._editions.items() if key[1] != generation}
            return
        renewed = {pool for pool, number in self._editions if number == generation}
        wanted = {*pools}
        self._editions = {
            (pool, number): one
            for (pool, number), one in self._editions.items()
            if pool in wanted and (pool not in renewed or number >= generation)
        }
