"""The table of metrics: every name, type, label and HELP text, for the exposition and for the README."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric.

    Attributes:
        name: as it is exposed, with ``_total`` where it is a counter.
        help: what it is, its unit, and what a rise means.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_POOL = ("pool",)
_SLOT = ("pool", "slot")

METRICS: tuple[MetricRow, ...] = (
    MetricRow(
        "clusterd_build_info", "gauge", ("version", "python_version"),
        "Always 1; the labels say which clusterd runs on which Python.",
    ),
    MetricRow(
        "clusterd_config_info", "gauge", ("sha256",),
        "Always 1; the label is the hash of the configuration in force. A new label: the configuration has changed.",
    ),
    MetricRow(
        "clusterd_ready", "gauge", (),
        "1 while every pool has its min_ready ready workers and the service is not stopping, else 0. A fall to 0: "
        "no new work should be sent here.",
    ),
    MetricRow(
        "clusterd_config_last_reload_successful", "gauge", (),
        "1 if the last reload, or the start, was successful, 0 if it was refused or rolled back. A rise: it is well "
        "again. A fall: what is running is not what the files say.",
    ),
    MetricRow(
        "clusterd_config_last_reload_success_timestamp_seconds", "gauge", (),
        "When the last reload, or the start, was successful, in Unix time. A rise: a reload.",
    ),
    MetricRow(
        "clusterd_reloads_total", "counter", ("pool", "verdict"),
        "Reloads that ended, by verdict. A rise of rolled_back: the new code or configuration did not work, and the "
        "old goes on.",
    ),
    MetricRow(
        "clusterd_pool_workers", "gauge", ("pool", "state"),
        "Workers by state, of all generations. A rise of anything but ready that lasts: workers do not start or do "
        "not end.",
    ),
    MetricRow(
        "clusterd_pool_workers_desired", "gauge", _POOL,
        "Workers the pool should have. A rise: it was scaled up.",
    ),
    MetricRow(
        "clusterd_pool_slots_held", "gauge", _POOL,
        "Slots that an operator keeps empty. A rise: somebody held one; it lacks a worker until it is released.",
    ),
    MetricRow(
        "clusterd_pool_generation", "gauge", _POOL,
        "The generation of code and configuration that new workers get. A rise: a reload.",
    ),
    MetricRow(
        "clusterd_pool_saturation_ratio", "gauge", _POOL,
        "Share of the pool's ready workers that leave connections waiting or whose event loop turned over 0.1 s late: "
        "0 is idle, 1 is full. A rise: more workers, or a faster app, are needed.",
    ),
    MetricRow(
        "clusterd_worker_starts_total", "counter", _POOL,
        "Worker processes started. A rise without reloads or scaling: workers end and are replaced.",
    ),
    MetricRow(
        "clusterd_worker_exits_total", "counter", ("pool", "reason"),
        "Worker processes that ended, by reason. A rise of crash, boot, oom or hung: the app or its memory limit "
        "is in trouble.",
    ),
    MetricRow(
        "clusterd_worker_kills_total", "counter", ("pool", "reason"),
        "Workers that clusterd ended with SIGKILL, by reason. A rise of drain_timeout: requests were cut off.",
    ),
    MetricRow(
        "clusterd_worker_next_start_timestamp_seconds", "gauge", _SLOT,
        "When a slot that waits after unexpected ends starts its next worker, in Unix time; absent for slots that "
        "do not wait. A rise: the row of ends goes on.",
    ),
    MetricRow(
        "clusterd_worker_heartbeat_age_seconds", "gauge", _SLOT,
        "Seconds since the worker's event loop last turned its one-second beat. A rise: the loop is blocked.",
    ),
    MetricRow(
        "clusterd_worker_start_duration_seconds", "histogram", _POOL,
        "Seconds from the decision to start a worker until it was ready. A rise: the app starts more slowly.",
    ),
    MetricRow(
        "clusterd_worker_replacement_duration_seconds", "histogram", _POOL,
        "Seconds from a worker's unasked end until its successor was ready, back-off included. A rise: capacity is "
        "missing for longer.",
    ),
    MetricRow(
        "clusterd_reload_duration_seconds", "histogram", _POOL,
        "Seconds from the beginning of a reload until its verdict. A rise: the app starts or drains more slowly.",
    ),
    MetricRow(
        "clusterd_drain_duration_seconds", "histogram", _POOL,
        "Seconds from telling a worker to drain until its end. A rise towards drain_timeout: requests are about to "
        "be cut off.",
    ),
    MetricRow(
        "clusterd_handover_duration_seconds", "histogram", _POOL,
        "Seconds from the accept of a connection in the primary until a worker has taken it. A rise: workers are busy "
        "or blocked.",
    ),
    MetricRow(
        "clusterd_http_request_duration_seconds", "histogram", _POOL,
        "Seconds from a request's complete head until the end of its response, of responses that had an end. A rise: "
        "the app has become slower.",
    ),
    MetricRow(
        "clusterd_event_loop_lag_seconds", "histogram", _POOL,
        "Seconds by which the one-second beat of a worker's event loop was late. A rise: something blocks the loop.",
    ),
    MetricRow(
        "clusterd_connections_total", "counter", ("pool", "slot", "listener"),
        "Connections handed over. A rise is load; slots of a pool that rise unevenly: some of them are blocked.",
    ),
    MetricRow(
        "clusterd_connections_open", "gauge", _SLOT,
        "Connections the slot's workers hold open. A rise without more requests: clients keep idle connections.",
    ),
    MetricRow(
        "clusterd_connections_reclaimed_total", "counter", ("pool", "reason"),
        "Connections read back from a worker's mailbox and given to another, because it was dead or blocked. A "
        "rise: workers die or block under load; nothing was lost.",
    ),
    MetricRow(
        "clusterd_http_requests_total", "counter", ("pool", "slot", "code_class"),
        "HTTP responses begun, by class of their status. A rise of 5xx: the app fails.",
    ),
    MetricRow(
        "clusterd_http_requests_in_flight", "gauge", _SLOT,
        "HTTP requests being worked on. A rise without more requests a second: the app has become slower.",
    ),
    MetricRow(
        "clusterd_listener_backlog_connections", "gauge", ("listener",),
        "Connections that wait in the kernel's queue to be accepted. A rise: every worker's mailbox is full.",
    ),
    MetricRow(
        "clusterd_listener_backlog_limit", "gauge", ("listener",),
        "Connections that may wait in the kernel's queue; beyond it the kernel drops. A rise: configuration.",
    ),
    MetricRow(
        "clusterd_worker_cpu_seconds_total", "counter", _SLOT,
        "CPU seconds, user and system, of the slot's workers. A rise of 1 a second: one core is full.",
    ),
    MetricRow(
        "clusterd_worker_proportional_memory_bytes", "gauge", _SLOT,
        "Bytes of memory, pages shared with others counted in proportion (PSS); may be summed. A steady rise: a "
        "leak, or shared pages that are copied.",
    ),
    MetricRow(
        "clusterd_worker_unique_memory_bytes", "gauge", _SLOT,
        "Bytes of memory that the worker's end would free (USS). A steady rise: a leak.",
    ),
    MetricRow(
        "clusterd_worker_resident_memory_bytes", "gauge", _SLOT,
        "Bytes of resident memory (RSS), shared pages counted in full, so that a sum over workers is too high. A "
        "steady rise: a leak.",
    ),
    MetricRow(
        "clusterd_worker_open_fds", "gauge", _SLOT,
        "Open file descriptors. A steady rise: connections or files are not closed.",
    ),
    MetricRow(
        "clusterd_worker_max_fds", "gauge", _SLOT,
        "File descriptors the worker may open. A rise: its limit was raised.",
    ),
    MetricRow(
        "clusterd_cgroup_cpu_throttled_seconds_total", "counter", (),
        "Seconds for which processes of the service's control group waited for its CPU quota; absent where the kernel "
        "does not count. A rise: the quota is too small.",
    ),
    MetricRow(
        "clusterd_cgroup_oom_kills_total", "counter", (),
        "Processes of the service's control group that the kernel killed for want of memory; absent where the kernel "
        "does not count. A rise: the memory limit is too small, or the app leaks.",
    ),
)  # fmt: skip
"""In the order of exposition. Beside these the page has the primary's own ``process_*`` and ``python_*``."""

BY_NAME = {row.name.removeprefix("clusterd_"): row for row in METRICS}
