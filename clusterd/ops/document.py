"""The status document: what ``GET /v1/status`` answers and ``clusterd status --json`` prints.

Within a major version it only grows: readers ignore members they do not know, and new members have defaults.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

API = 1
"""Version of the document, the ``v1`` of its path."""


class Listener(msgspec.Struct, frozen=True):
    """A listening socket."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    address: Annotated[str, Meta(description="where it is bound, with the real port")]
    backlog: Annotated[int | None, Meta(description="connections waiting in the kernel's queue; null is untold")] = 0
    backlog_limit: Annotated[int | None, Meta(description="connections that may wait there; null is untold")] = 0


class Worker(msgspec.Struct, frozen=True):
    """A worker: a process, or the attempt to have one."""

    id: Annotated[int, Meta(description="worker.id, never used twice")]
    slot: Annotated[int, Meta(description="the slot it is in")]
    state: Annotated[str, Meta(description="spawning, cancelled, booting, ready, draining or killing")]
    generation: Annotated[int, Meta(description="the generation of code and configuration it runs")]
    uptime: Annotated[float, Meta(description="seconds since it was decided to start it")]
    pid: Annotated[int | None, Meta(description="its process; null while there is none")] = None
    ready_for: Annotated[float | None, Meta(description="seconds since it was ready; null if it is not yet")] = None
    connections: Annotated[int | None, Meta(description="connections it holds open, as it says; null if unknown")] = (
        None
    )
    requests: Annotated[int | None, Meta(description="responses it has begun, as it says; null if unknown")] = None
    in_flight: Annotated[int | None, Meta(description="requests it works on, as it says; null if unknown")] = None
    memory: Annotated[int | None, Meta(description="bytes, shared pages in proportion (PSS); null if unknown")] = None
    heartbeat_age: Annotated[float | None, Meta(description="seconds since its event loop turned; null if unknown")] = (
        None
    )
    requests_per_second: Annotated[
        float | None, Meta(description="responses begun a second, over the last five; null if unknown")
    ] = None
    cpu: Annotated[
        float | None, Meta(description="CPU, 1.0 is one core, over the last five seconds; null if unknown")
    ] = None
    latency: Annotated[
        float | None, Meta(description="mean seconds of a request, over the last five seconds; null if there was none")
    ] = None
    loop_lag: Annotated[
        float | None, Meta(description="seconds that its event loop's last beat was late; null if unknown")
    ] = None


class Slot(msgspec.Struct, frozen=True):
    """A place in a pool."""

    index: Annotated[int, Meta(description="its number, from 0")]
    worker: Annotated[Worker | None, Meta(description="who holds it; null while it is vacant")] = None
    restarts: Annotated[int, Meta(description="workers started in it after the first")] = 0
    row: Annotated[int, Meta(description="unexpected ends in a row")] = 0
    given_up: Annotated[bool, Meta(description="ended too often too soon to be tried further by itself")] = False
    last_reason: Annotated[str | None, Meta(description="why its last worker ended; null if none has")] = None
    next_start_in: Annotated[float | None, Meta(description="seconds until its next start; null if none is due")] = None
    held: Annotated[bool, Meta(description="an operator has it empty until it is released")] = False


class Pool(msgspec.Struct, frozen=True):
    """A set of identical workers."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    generation: Annotated[int, Meta(description="the generation that new workers get")]
    wanted: Annotated[int, Meta(description="workers it should have")]
    ready: Annotated[int, Meta(description="workers that are ready")]
    min_ready: Annotated[int, Meta(description="ready workers the service needs of it")]
    given_up: Annotated[bool, Meta(description="all its slots have given up")]
    zygote: Annotated[str, Meta(description="absent, starting, ready or stopping")]
    preloaded: Annotated[bool | None, Meta(description="workers share the imported app; null without a zygote")]
    slots: Annotated[tuple[Slot, ...], Meta(description="its slots, in order")]
    stopped: Annotated[bool, Meta(description="an operator stopped it")] = False
    leaving: Annotated[tuple[Worker, ...], Meta(description="workers that drain or are being killed")] = ()


class Reload(msgspec.Struct, frozen=True):
    """A reload that is under way."""

    generation: Annotated[int, Meta(description="what is tried out")]
    pools: Annotated[tuple[str, ...], Meta(description="the pools that get it")]
    stage: Annotated[str, Meta(description="importing, canary or rolling")]
    took: Annotated[float, Meta(description="seconds since it began")]
    left: Annotated[float | None, Meta(description="seconds that the canary must still stay well; null if none")]
    replaced: Annotated[int, Meta(description="workers of the new generation that are ready")]
    of: Annotated[int, Meta(description="workers that are to be")]


class Service(msgspec.Struct, frozen=True):
    """The service and its primary."""

    name: Annotated[str, Meta(description="its name in the configuration")]
    pid: Annotated[int, Meta(description="the primary's process")]
    version: Annotated[str, Meta(description="clusterd's version")]
    state: Annotated[str, Meta(description="running, lame_duck, closing, draining or ending")]
    ready: Annotated[bool, Meta(description="every pool has its min_ready ready workers and nothing stops")]
    uptime: Annotated[float, Meta(description="seconds since the primary started")]
    run_dir: Annotated[str, Meta(description="the directory of its control socket")]
    monitoring: Annotated[str | None, Meta(description="address of /metrics and the health checks; null if off")] = None
    listeners: Annotated[tuple[Listener, ...], Meta(description="the sockets its pools share")] = ()
    upgrades: Annotated[int, Meta(description="how often the primary's own code was replaced in place")] = 0


class Status(msgspec.Struct, frozen=True):
    """The whole document."""

    api: Annotated[int, Meta(description="version of this document: 1")]
    service: Annotated[Service, Meta(description="the service and its primary")]
    pools: Annotated[tuple[Pool, ...], Meta(description="its pools, in the order of the configuration")]
    leftovers: Annotated[
        tuple[int, ...],
        Meta(description="pids of an earlier primary's workers, and of what they started, that are still there"),
    ] = ()
    time: Annotated[str, Meta(description="when this was true: ISO 8601, UTC")] = ""
    reload: Annotated[Reload | None, Meta(description="the reload that is under way; null if none is")] = None
