"""The service's log: what a record looks like, and the log's face to the rest of the primary."""

import os
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from clusterd.core import facts as f
from clusterd.ops.crash import CrashReport, worker_report, zygote_report
from clusterd.ops.escapes import harmless, visible
from clusterd.ops.passthrough import message, unwrapped
from clusterd.ops.records import LEVELS, record_of, status_records
from clusterd.ops.rendering import ConsoleRenderer, JSONRenderer, LogfmtRenderer
from clusterd.ops.source import Source
from clusterd.ops.writer import MAX_BYTES, MAX_RECORDS, Record, Writer

FORMATS = ("auto", "json", "console", "logfmt")

MAX_LINE = 16 * 1024
"""Characters of one captured line of output; the rest is cut off and its length told."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Level to syslog's priority."""

_NO_KEY = re.compile(r"[^\w.-]")
_BLOCK = "crash_report"


def _json(record: Any, **_: Any) -> str:
    try:
        return msgspec.json.encode(record, enc_hook=str).decode()
    except UnicodeEncodeError:  # a lone surrogate: the name of a file that is no UTF-8
        return msgspec.json.encode(_without_surrogates(record), enc_hook=str).decode()


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
    return value


def json_renderer() -> Callable[[Record], str]:
    """One JSON object a line."""
    render = JSONRenderer(serializer=_json)
    return lambda record: str(render(None, "", unwrapped(record)))


def logfmt_renderer() -> Callable[[Record], str]:
    """``key=value`` pairs on one line; lists as JSON; control characters escaped, lest a worker forge records."""
    render = LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False)

    def flat(value: Any) -> Any:
        if isinstance(value, str):
            return visible(value)
        return visible(_json(value)) if isinstance(value, list | dict) else value

    def show(record: Record) -> str:
        record = dict(unwrapped(record))
        for key, value in record.pop("app", {}).items():
            record[f"app.{_NO_KEY.sub('_', key)}"] = value
        return render(None, "", {key: flat(value) for key, value in record.items()})

    return show


def console_renderer(colours: bool) -> Callable[[Record], str]:
    """For people: one line a record, a block for a crash report, worker output as the worker wrote it.

    Control characters are shown as ``\\x1b``, because whoever can make an app print something must not steer the
    terminal of whoever looks at it; on a terminal, colours pass.
    """
    render = ConsoleRenderer(colors=colours, force_colors=colours, sort_keys=False, pad_event_to=20)

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            value = harmless(value, colours=colours)
            return value if value and "\n" not in value else repr(value)
        return [clean(item) for item in value] if isinstance(value, list) else value

    def show(record: Record) -> str:
        record = {key: value for key, value in record.items() if key != "service"}
        record["timestamp"] = datetime.fromisoformat(record["timestamp"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
        record = unwrapped(record)
        if "app" in record:
            text, fields = message(record["app"])
            place = f"{record['timestamp']} {record['pool']}/{record.get('slot', 'zygote')}"
            told = {"timestamp": place, "level": record["level"], "event": text, **fields}
            return render(None, "", {_NO_KEY.sub("_", key): clean(value) for key, value in told.items()})
        if record["event"] == "output":
            text = harmless(record["text"], colours=colours)
            mark = "!" if record["stream"] == "stderr" else "|"
            return f"{record['timestamp']} {record['pool']}/{record.get('slot', 'zygote')} {mark} {text}"
        block = record.pop("block", None)
        if block is not None:
            record = {key: record[key] for key in ("timestamp", "level", "event")}
        line = render(None, "", {key: clean(value) for key, value in record.items()})
        return line if block is None else f"{line}\n{visible(block)}"

    return show


def in_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this descriptor is the journal's own stream (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def prioritized(render: Callable[[Record], str]) -> Callable[[Record], str]:
    """Each line with its priority before it, which the journal takes off and keeps (sd-daemon(3), ``SD_ERR`` …)."""

    def show(record: Record) -> str:
        level = unwrapped(record)["level"]
        return "\n".join(f"<{PRIORITIES[level]}>{line}" for line in render(record).split("\n"))

    return show


class Log:
    """The log of one service. Every method returns at once, whatever becomes of the descriptor it is written to.

    Args:
        fd: where to; standard output as a rule. Not closed.
        format: one of :data:`FORMATS`; ``auto`` is ``console`` on a terminal, else ``json``.
        level: records below it are left out: ``debug``, ``info``, ``warning`` or ``error``.
        service: the service's name, in every record.

    Attributes:
        source: set by the composition root once there is a primary; until then facts are logged without samples.
        last_report: the last crash report, which the primary prints as its last words when it fails.
        on_crash: set by the composition root: takes each crash report's record.
    """

    def __init__(
        self,
        fd: int = 1,
        format: str = "auto",
        level: str = "info",
        service: str = "",
        source: Source | None = None,
        *,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        terminal = os.isatty(fd)
        self.format = ("console" if terminal else "json") if format == "auto" else format
        self.source = source
        self.last_report: CrashReport | None = None
        self.on_crash: Callable[[dict[str, Any]], None] | None = None
        self._service = service
        self._threshold = LEVELS[level]
        self._failed: dict[int, f.WorkerBootFailed] = {}
        self._killed: dict[int, f.KillReason] = {}
        self._stacks: dict[int, str] = {}
        colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        render = {"json": json_renderer, "logfmt": logfmt_renderer}.get(self.format) or partial(
            console_renderer, colours
        )
        show = prioritized(render()) if in_journal(fd) else render()
        self._writer = Writer(fd, show, self._lost, max_records=max_records, max_bytes=max_bytes)

    @property
    def dropped(self) -> int:
        """Records dropped so far because they could not be written fast enough."""
        return self._writer.dropped_total

    def emit(self, level: str, event: str, **fields: Any) -> None:
        """One record.

        Args:
            event: what happened, in snake_case.
            fields: values that JSON knows; ``pool``, ``slot`` and ``worker`` say whom it is about.
        """
        if LEVELS[level] >= self._threshold:
            self._writer.put(self._record(level, event, fields))

    def always(self, event: str, **fields: Any) -> None:
        """One record of level ``info``, whatever ``level`` is: what was changed and by whom is for every reader."""
        self._writer.put(self._record("info", event, fields))

    def line(self, pool: str, slot: int | None, worker: int | None, stream: str, text: str) -> None:
        """One line of captured output: event ``output``, level ``info``, whatever ``level`` is.

        Args:
            slot, worker: whose; ``None`` for the pool's zygote.
            stream: ``stdout`` or ``stderr``.
            text: without its newline.
        """
        who = {"zygote": True} if worker is None else {"slot": slot, "worker": worker}
        fields: dict[str, Any] = {"pool": pool, **who, "stream": stream}
        if len(text) > MAX_LINE:
            fields["cut_off"] = len(text) - MAX_LINE
            text = text[:MAX_LINE]
        fields["text"] = text
        self._writer.put(self._record("info", "output", fields), bulk=True)

    def slow_request(self, stack: str, **fields: Any) -> None:
        """A request that takes long, and where it is.

        Args:
            fields: ``pool``, ``slot``, ``worker``, ``method``, ``path``, ``seconds``, ``where``.
        """
        if LEVELS["warning"] < self._threshold:
            return
        record = self._record("warning", "slow_request", {**fields, "stack": stack})
        if self.format == "console":
            who = f"{fields['method']} {fields['path']} of {fields['pool']}/{fields['slot']}, worker {fields['worker']}"
            record["block"] = f"{who}, after {fields['seconds']:g} s, {fields['where']}:\n{stack}"
        self._writer.put(record)

    def fact(self, fact: f.Fact) -> None:
        """One record for a fact, and the crash report after an end that nobody had asked for, or that was forced."""
        level, event, fields = record_of(fact)
        self.emit(level, event, **fields)
        match fact:
            case f.WorkerBootFailed():
                self._failed[fact.worker] = fact
            case f.WorkerKilled():
                self._killed[fact.worker] = fact.reason
            case f.StacksReported():
                self._stacks[fact.worker] = fact.report
            case f.WorkerExited():
                failed, killed = self._failed.pop(fact.worker, None), self._killed.pop(fact.worker, None)
                stacks = self._stacks.pop(fact.worker, "")
                # A drain was asked for, its end by force was not: whoever is on call wants to know what held it up.
                if not fact.asked or killed is f.KillReason.DRAIN_TIMEOUT:
                    self._crash(worker_report(fact, self.source, failed, killed, stacks))
            case f.ZygoteEnded():
                self._crash(zygote_report(fact))

    def dump(self, view: f.View) -> None:
        """The whole state, at level ``info`` whatever ``level`` is: somebody asked (SIGUSR1)."""
        for event, fields in status_records(view):
            self._writer.put(self._record("info", event, fields))

    def flush(self) -> bool:
        """Wait, a second at most, until all that was told is written; whether it was."""
        return self._writer.flush()

    def close(self, timeout: float = 2.0) -> bool:
        """Write what is queued, for at most ``timeout`` seconds; true if all of it was written."""
        return self._writer.close(timeout)

    def _crash(self, report: CrashReport) -> None:
        self.last_report = report
        if self.on_crash is not None:
            self.on_crash(report.record())
        record = self._record("error", _BLOCK, report.record())
        if self.format == "console":
            record["block"] = report.text()
        self._writer.put(record)

    def _record(self, level: str, event: str, fields: dict[str, Any]) -> Record:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"timestamp": now, "level": level, "event": event, "service": self._service, **fields}

    def _lost(self, count: int) -> Record:
        return self._record("warning", "log_records_dropped", {"count": count})
