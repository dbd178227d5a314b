"""Crash reports: why a worker or a zygote ended that nobody had asked to end, or that did not end when it was asked."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusterd.core.facts import ExitReason, KillReason, WorkerBootFailed, WorkerExited, ZygoteEnded
from clusterd.ops.source import Source
from clusterd.ops.words import seconds

MAX_LINE = 2000
"""Characters of one line of output that a report repeats."""

KILLED = {
    KillReason.DRAIN_TIMEOUT: "it had not finished within the drain timeout",
    KillReason.START_TIMEOUT: "it was not ready within start_timeout",
    KillReason.STOP_NOW: "the service was told to stop at once",
    KillReason.HANG: "it did not answer",
    KillReason.MEMORY: "it held too much memory",
}
"""Why clusterd kills, in words."""


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; a real-time or unknown signal by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class CrashReport:
    """One unasked end.

    Attributes:
        cause: one sentence.
        fields: the same in parts, as they stand in the log record.
        report: what the dying process itself said, a traceback as a rule; may be empty.
        last_output: its last lines of output, oldest first.
    """

    cause: str
    fields: Mapping[str, Any]
    report: str = ""
    last_output: Sequence[str] = field(default=())

    def record(self) -> dict[str, Any]:
        """The fields of the log record ``crash_report``."""
        return {**self.fields, "cause": self.cause, "report": self.report, "last_output": list(self.last_output)}

    def text(self) -> str:
        """The report for people, several lines, without a newline at the end."""
        lines = [f"crash report: {self.cause}"]
        if self.last_output:
            lines.append(f"  its last {len(self.last_output)} lines of output:")
            lines += [f"    {line}" for line in self.last_output]
        if self.report:
            lines.append("  it reported:")
            lines += [f"    {line}" for line in self.report.rstrip().splitlines()]
        return "\n".join(lines)


def _how(code: int | None, number: int | None) -> str:
    if number is not None:
        return f"was ended by {signal_name(number)}"
    return f"ended by itself with exit code {code}"


def worker_report(
    fact: WorkerExited,
    source: Source | None,
    failed: WorkerBootFailed | None,
    killed: KillReason | None,
    stacks: str = "",
) -> CrashReport:
    """The report for a worker that ended unasked, or was killed at the end of its drain.

    Args:
        failed: what it said of its failed boot, if it did.
        killed: why clusterd killed it, if it did.
        stacks: what it was doing when it did not answer, if that could be had.
    """
    sample = None if source is None else source.samples().get(fact.worker)
    row = sample.row if sample is not None else {}
    fields: dict[str, Any] = {"pool": fact.pool, "slot": fact.slot, "worker": fact.worker}
    if sample is not None:
        fields["pid"] = sample.pid
    fields |= {
        "generation": fact.generation,
        "reason": fact.reason.value,
        "exit_code": fact.code,
        "signal": None if fact.signal is None else signal_name(fact.signal),
        "uptime": round(fact.uptime, 3),
        "ready_for": None if fact.ready_for is None else round(fact.ready_for, 3),
        "connections_open": row.get("connections_open", 0),
        "connections_unread": row.get("connections_unread", 0),
    }
    who = f"worker {fact.worker} ({fact.pool}/{fact.slot})"
    if killed is not None:
        fields["killed"] = killed.value
        parts = [f"{who} was killed: {KILLED[killed]}"]
        awaited = source.awaited(fact.pool) if source is not None and killed is KillReason.START_TIMEOUT else ""
        if awaited:
            fields["awaited"] = awaited
            parts.append(f"it was waited for {awaited}")
    elif fact.reason is ExitReason.OOM:
        parts = [f"{who} was killed by the kernel: the memory limit was reached"]
    else:
        parts = [f"{who} {_how(fact.code, fact.signal)}"]
    if failed is not None:
        fields["stage"] = failed.stage
        parts.append(f"its {failed.stage} had failed")
    parts.append(f"up {seconds(fact.uptime)}")
    parts.append("never ready" if fact.ready_for is None else f"ready for {seconds(fact.ready_for)}")
    if fact.ready_for is not None:
        parts.append(f"{fields['connections_open']} connections open, {fields['connections_unread']} of them unread")
    return CrashReport(
        cause=", ".join(parts),
        fields=fields,
        report=failed.report if failed is not None else stacks,
        last_output=[] if source is None else [line[:MAX_LINE] for line in source.crash_lines(fact.worker)],
    )


def zygote_report(fact: ZygoteEnded) -> CrashReport:
    """The report for a zygote that failed or died."""
    how = "died" if fact.was_ready else "could not be started or failed before it was ready"
    retry = "" if fact.retry_in is None else f"; the next one in {seconds(fact.retry_in)}"
    return CrashReport(
        cause=f"the zygote of pool {fact.pool}, generation {fact.generation}, up {seconds(fact.uptime)}, {how}{retry}",
        fields={
            "pool": fact.pool,
            "generation": fact.generation,
            "was_ready": fact.was_ready,
            "uptime": round(fact.uptime, 3),
        },
        report=fact.report,
    )
