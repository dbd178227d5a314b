"""What the requests of operators carry, and what they are answered with."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

MOST_WORKERS: Final = 4096
"""That a pool can be scaled to: a slip of the hand must not be a fork bomb."""

Span = Annotated[float, Meta(gt=0, le=86_400, description="seconds to wait for the outcome, at most")]
Wait = Annotated[bool, Meta(description="answer when there is an outcome, and not when it has begun")]


class ScaleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many workers: ``to`` (or as many as there are to be now), and ``by`` more."""

    to: Annotated[Annotated[int, Meta(ge=1, le=MOST_WORKERS)] | None, Meta(description="this many")] = None
    by: Annotated[int, Meta(ge=-MOST_WORKERS, le=MOST_WORKERS, description="so many more, or fewer")] = 0


class ShutdownBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the service is to end."""

    now: Annotated[bool, Meta(description="without a drain")] = False


class WaitBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to wait for the outcome."""

    wait: Wait = True
    timeout: Span = 300.0


class RestartBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to be replaced: all, those of a pool, or one worker."""

    pool: Annotated[str | None, Meta(description="only this pool's workers")] = None
    worker: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="only this worker, by id")] = None
    wait: Wait = True
    timeout: Span = 300.0


class ReloadBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be reloaded."""

    pool: Annotated[str | None, Meta(description="only this pool")] = None
    begin: Annotated[
        bool, Meta(description="false: begin none; the verdict is of the one that is under way, else of the last one")
    ] = True
    wait: Wait = True
    timeout: Span = 600.0


class Scaled(msgspec.Struct, frozen=True):
    """What became of it."""

    pool: str
    wanted: Annotated[int, Meta(description="workers it is to have")]
    was: Annotated[int, Meta(description="workers it was to have before")]


class Ending(msgspec.Struct, frozen=True):
    """What became of it."""

    state: Annotated[str, Meta(description="the service's state now")]


class Stacks(msgspec.Struct, frozen=True):
    """What a worker showed."""

    worker: int
    stacks: Annotated[str, Meta(description="of its threads and its event loop's tasks, for people; untrusted")]


class Replaced(msgspec.Struct, frozen=True):
    """What became of it."""

    workers: Annotated[tuple[int, ...], Meta(description="those that are to be replaced, by id")]
    done: Annotated[bool, Meta(description="all of them have been, each by one that was ready before")]


class Running(msgspec.Struct, frozen=True):
    """What became of it."""

    pool: str
    wanted: Annotated[int, Meta(description="workers it is to have")]
    ready: Annotated[int, Meta(description="workers that are ready")]
    given_up: Annotated[bool, Meta(description="its workers ended too often too soon")] = False


class Slotted(msgspec.Struct, frozen=True):
    """What became of it."""

    pool: str
    slot: int
    held: Annotated[bool, Meta(description="it stays empty until it is released")]
    worker: Annotated[int | None, Meta(description="who is in it, by id")] = None


class Verdict(msgspec.Struct, frozen=True):
    """How a reload ended."""

    generation: Annotated[int | None, Meta(description="what was tried; null where nothing was")]
    verdict: Annotated[str, Meta(description="promoted, rolled_back, superseded, stopped, refused; begun: none yet")]
    reason: Annotated[str, Meta(description="one sentence")] = ""
    report: Annotated[str, Meta(description="what there is to read, a traceback as a rule")] = ""
    took: Annotated[float, Meta(description="seconds")] = 0.0


class Changed(msgspec.Struct, frozen=True):
    """One key that a reload would change; values as they stand in a file."""

    key: str
    before: Annotated[str | None, Meta(description="null: it was not there")]
    after: Annotated[str | None, Meta(description="null: it is gone")]
    restart: Annotated[bool, Meta(description="a reload does not do it: it takes a restart")]
