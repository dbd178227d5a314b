"""What each metric's samples are, read from the view, the tally and the primary: one method a metric, by its name."""

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clusterd.core import facts as f
from clusterd.ops.source import Source
from clusterd.ops.tally import Tally

STATES = ("spawning", "cancelled", "booting", "ready", "draining", "killing")
"""States of a worker that are always exposed, also with no worker in them."""

RECLAIM_REASONS = ("dead", "blocked")

CODE_CLASSES = {f"{digit}xx": f"requests_{digit}xx" for digit in range(1, 6)}

Reading = Iterator[tuple[tuple[str, ...], float]]
"""Label values in the order of the table's labels, and the value."""


@dataclass(frozen=True, slots=True)
class Now:
    """One moment.

    Attributes:
        clock: on the core's clock, which is also that of the heartbeats.
        wall_offset: what to add to the core's clock for Unix time.
    """

    view: f.View
    clock: float
    wall_offset: float


@dataclass(frozen=True, slots=True)
class LastReload:
    """What became of the last reload; the start counts as one.

    Attributes:
        success_at: Unix time of the last that was successful.
    """

    successful: bool
    success_at: float


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything a page is made of; each method is called once for it, and read a few samples at a time."""

    source: Source
    tally: Tally
    now: Now
    pools: Sequence[str]
    starts: Counter[str]
    exits: Counter[tuple[str, str]]
    kills: Counter[tuple[str, str]]
    reclaimed: Mapping[tuple[str, str], int]
    counted_reloads: Counter[tuple[str, str]]
    last_reload: LastReload

    @property
    def python(self) -> str:
        """The running Python's version."""
        return platform.python_version()

    # -- the service and its pools -------------------------------------------------------------------------------

    def ready(self) -> Reading:
        yield (), int(self.now.view.ready)

    def config_last_reload_successful(self) -> Reading:
        yield (), int(self.last_reload.successful)

    def config_last_reload_success_timestamp_seconds(self) -> Reading:
        yield (), round(self.last_reload.success_at, 3)

    def reloads(self) -> Reading:
        for pool in self.pools:
            for verdict in f.Verdict:
                yield (pool, verdict.value), self.counted_reloads[pool, verdict.value]

    def pool_workers(self) -> Reading:
        for pool in self.now.view.pools:
            states = Counter(dict.fromkeys(STATES, 0))
            states.update(worker.state for worker in pool.workers)
            for state, count in states.items():
                yield (pool.name, state), count

    def pool_workers_desired(self) -> Reading:
        for pool in self.now.view.pools:
            yield (pool.name,), pool.wanted

    def pool_slots_held(self) -> Reading:
        for pool in self.now.view.pools:
            yield (pool.name,), sum(slot.held for slot in pool.slots)

    def pool_generation(self) -> Reading:
        for pool in self.now.view.pools:
            yield (pool.name,), pool.generation

    def pool_saturation_ratio(self) -> Reading:
        for pool, ratio in self.source.saturation().items():
            yield (pool,), round(ratio, 4)

    def worker_starts(self) -> Reading:
        for pool in self.pools:
            yield (pool,), self.starts[pool]

    def worker_exits(self) -> Reading:
        for pool in self.pools:
            for reason in f.ExitReason:
                yield (pool, reason.value), self.exits[pool, reason.value]

    def worker_kills(self) -> Reading:
        for pool in self.pools:
            for reason in f.KillReason:
                yield (pool, reason.value), self.kills[pool, reason.value]

    def worker_next_start_timestamp_seconds(self) -> Reading:
        for pool in self.now.view.pools:
            for slot in pool.slots:
                if slot.worker is None and slot.next_start is not None:
                    yield (pool.name, str(slot.index)), round(slot.next_start + self.now.wall_offset, 3)

    def connections_reclaimed(self) -> Reading:
        for pool in self.pools:
            for reason in RECLAIM_REASONS:
                yield (pool, reason), self.reclaimed.get((pool, reason), 0)

    # -- slots ---------------------------------------------------------------------------------------------------

    def connections(self) -> Reading:
        for (pool, slot, listener), count in list(self.tally.handed.items()):
            yield (pool, str(slot), listener), count

    def http_requests(self) -> Reading:
        for (pool, slot), counts in sorted(self.tally.counts.items()):
            for code_class, word in CODE_CLASSES.items():
                yield (pool, str(slot), code_class), counts[word]

    def worker_cpu_seconds(self) -> Reading:
        for (pool, slot), counts in sorted(self.tally.counts.items()):
            yield (pool, str(slot)), counts["cpu_ns"] / 1e9

    def worker_heartbeat_age_seconds(self) -> Reading:
        for (pool, slot), age in self.tally.heartbeat_ages(self.now.clock).items():
            yield (pool, str(slot)), round(max(age, 0.0), 3)

    def _gauge(self, word: str) -> Reading:
        for pool, slot, value in self.tally.gauge(word):
            yield (pool, str(slot)), value

    def connections_open(self) -> Reading:
        return self._gauge("connections_open")

    def http_requests_in_flight(self) -> Reading:
        return self._gauge("requests_in_flight")

    def worker_proportional_memory_bytes(self) -> Reading:
        return self._gauge("proportional_bytes")

    def worker_unique_memory_bytes(self) -> Reading:
        return self._gauge("unique_bytes")

    def worker_resident_memory_bytes(self) -> Reading:
        return self._gauge("resident_bytes")

    def worker_open_fds(self) -> Reading:
        return self._gauge("open_fds")

    def worker_max_fds(self) -> Reading:
        return self._gauge("max_fds")

    # -- the machine ---------------------------------------------------------------------------------------------

    def listener_backlog_connections(self) -> Reading:
        for listener in self.source.listeners():
            if listener.backlog is not None:  # else absent: 0 would be a lie
                yield (listener.name,), listener.backlog

    def listener_backlog_limit(self) -> Reading:
        for listener in self.source.listeners():
            if listener.backlog_limit is not None:
                yield (listener.name,), listener.backlog_limit

    def cgroup_cpu_throttled_seconds(self) -> Reading:
        throttled, _ = self.source.cgroup()
        if throttled is not None:
            yield (), throttled

    def cgroup_oom_kills(self) -> Reading:
        _, kills = self.source.cgroup()
        if kills is not None:
            yield (), kills
