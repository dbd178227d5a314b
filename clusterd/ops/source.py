"""What the room reads of the running primary, apart from facts; the composition root supplies it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from clusterd.core.facts import View


@dataclass(frozen=True, slots=True)
class Sample:
    """What one worker says of itself, read from its scoreboard row. Untrusted.

    Attributes:
        row: the row's words by their names in ``wire.rows.Row`` in lower case (``connections_open``, ``cpu_ns`` …).
            A name that is missing counts as never written.
    """

    pid: int
    row: Mapping[str, int]


def responses(row: Mapping[str, int]) -> int:
    """Responses that a worker has begun."""
    return sum(row.get(f"requests_{digit}xx", 0) for digit in range(1, 6))


class Rate(NamedTuple):
    """Of one worker. ``requests`` a second; ``cpu``: 1.0 is one core; ``latency``: their mean, in seconds."""

    requests: float
    cpu: float
    latency: float | None = None


class Rated(Protocol):
    """Who knows rates."""

    def of(self, worker: int) -> Rate | None:
        """A worker's; ``None`` if they are not known yet."""


@dataclass(frozen=True, slots=True)
class ListenerSample:
    """One listener.

    Attributes:
        address: where it is bound, as in the configuration but with the real port.
        backlog: connections that wait in the kernel's queue; ``None`` where the kernel does not tell.
        backlog_limit: how many may; likewise.
    """

    name: str
    address: str
    backlog: int | None
    backlog_limit: int | None


AppFamily = tuple[str, str, str, str, tuple[str, ...]]
"""A family of the app's metrics: name, type, help, how a gauge is aggregated, names of labels."""

AppSeries = tuple[int, str, tuple[str, ...], str, float, int]
"""A series of the app's: number of its family, suffix of the sample's name, values of labels, a bucket's upper bound,
what had been counted before the fork, number of its cell."""

ComputedFamily = tuple[str, str, str, str, list[tuple[str, dict[str, str], float]]]
"""A family that a worker computed: name, type, help, how a gauge is aggregated; of each sample name, labels, value."""


class Segment(Protocol):
    """The memory in which one worker keeps the app's metrics. Untrusted; every answer is a copy."""

    @property
    def pool(self) -> str: ...
    @property
    def slot(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def collects(self) -> bool:
        """It has metrics that it computes when asked."""

    def news(self) -> tuple[Sequence[AppFamily], Sequence[AppSeries]]:
        """Some of the definitions added since the last call, in their order; both empty when there are none."""

    def cells(self) -> bytes:
        """The values, 64-bit floats, of the series told of so far."""

    def keep(self) -> None:
        """Read on in a copy: the worker has ended, and its memory is about to be gone."""

    def exemplars(self) -> Sequence[tuple[int, dict[str, str], float, float]]:
        """Series' number, labels, value, Unix time of exemplars that are new since the last call."""


class Source(Protocol):
    """The primary, as far as eyes need it. Every method is cheap and blocks nothing; all run in the primary's loop."""

    def view(self) -> View:
        """The core's state; :attr:`View.now` is on the core's clock, which is ``time.monotonic``'s."""

    def samples(self) -> Mapping[int, Sample]:
        """By worker id; a worker's last sample is still there while its ``WorkerExited`` is observed."""

    def cpus(self, worker: int) -> Sequence[int] | None:
        """The CPUs that a worker's process may run on; ``None`` if there is none."""

    def handed(self) -> Mapping[tuple[int, str], int]:
        """(Worker id, listener's name) to the connections handed to it so far; kept as long as :meth:`samples`."""

    def listeners(self) -> Sequence[ListenerSample]:
        """The bound listeners."""

    def leftovers(self) -> Sequence[int]:
        """Pids of an earlier primary's workers that are still in our cgroup."""

    def reclaimed(self) -> Mapping[tuple[str, str], int]:
        """(Pool, ``dead`` or ``blocked``) to the connections read back from mailboxes so far."""

    def segments(self) -> Mapping[int, Segment]:
        """By worker id, of those that live; a worker's is still there while its ``WorkerExited`` is observed."""

    def ask(self, worker: int, round_: int) -> None:
        """Ask a worker for the metrics that it computes; the composition root is told the answer."""

    def saturation(self) -> Mapping[str, float]:
        """Pool to the share of its ready workers that leave work waiting."""

    def cgroup(self) -> tuple[float | None, int | None]:
        """Seconds of CPU throttling and number of OOM kills of our cgroup; ``None`` where the kernel does not count."""

    def loop_age(self) -> float:
        """Seconds since the primary's loop last turned its own beat."""

    def overdue(self) -> float:
        """Seconds by which the primary is late with what its rules have due; 0 if it is not."""

    def broken(self) -> str:
        """Why the primary's own state can no longer be relied on, a sentence; empty while it can."""

    def awaited(self, pool: str) -> str:
        """What makes a worker of this pool ready, in words that follow "it was waited for"; empty where it is an
        app's start-up."""

    def crash_lines(self, worker: int) -> Sequence[str]:
        """The last lines of a worker's output; still there while its ``WorkerExited`` is observed."""
