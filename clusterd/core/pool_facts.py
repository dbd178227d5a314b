"""Facts about slots and pools: who waits, who has given up, and what an operator has made of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartScheduled:
    """``row``: unexpected ends in a row; ``delay`` in seconds."""

    pool: str
    slot: int
    delay: float
    row: int
    at: float


@dataclass(frozen=True, slots=True)
class SlotHealthy:
    """The slot's row of unexpected ends starts again at zero."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class SlotGaveUp:
    pool: str
    slot: int
    rapid: int


@dataclass(frozen=True, slots=True)
class PoolGaveUp:
    """All slots have. ``then``: ``probe``, ``stop`` or ``exit``; ``retry_in`` in seconds where it is ``probe``."""

    pool: str
    then: str
    ever_ready: bool
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class PoolRecovered:
    pool: str


@dataclass(frozen=True, slots=True)
class Scaled:
    pool: str
    wanted: int
    was: int


@dataclass(frozen=True, slots=True)
class PoolStopped:
    """An operator stopped it."""

    pool: str


@dataclass(frozen=True, slots=True)
class PoolStarted:
    """An operator started it again."""

    pool: str
    wanted: int


@dataclass(frozen=True, slots=True)
class SlotHeld:
    """An operator has it empty: its worker drains, if there is one, and none follows."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class SlotReleased:
    """An operator has it filled again."""

    pool: str
    slot: int


@dataclass(frozen=True, slots=True)
class PoolRemoved:
    """A reload took it out of the configuration, or its addition was rolled back; all of it has ended."""

    pool: str
