"""Lines that an app writes as JSON objects (structlog, python-json-logger …): their fields, not text with quotes in it.

They stay the app's: the record is still ``output`` of that worker, and all they say is under ``app``. Whoever can make
an app print something must not be able to write the service's own records.
"""

from typing import Any

import msgspec

LEVEL_KEYS = ("level", "levelname", "severity", "log.level", "loglevel")
TEXT_KEYS = ("event", "message", "msg")

LEVELS = {
    "trace": "debug", "debug": "debug", "info": "info", "notice": "info", "warn": "warning", "warning": "warning",
    "error": "error", "err": "error", "exception": "error", "fatal": "critical", "critical": "critical",
    "alert": "critical", "emergency": "critical",
}  # fmt: skip
"""What loggers call their levels, and what it is called here."""

_NUMBERS = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"), (0, "debug"))


def unwrapped(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a line of output; of one that is a JSON object with ``app`` instead of ``text``, and its level."""
    text = record.get("text")
    if record.get("event") != "output" or type(text) is not str or "cut_off" in record:
        return record
    if not (text.startswith("{") and text.rstrip().endswith("}")):
        return record
    try:
        app = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return record
    if type(app) is not dict or not app:
        return record
    level = next((_level(app[key]) for key in LEVEL_KEYS if key in app), None)
    fields = {key: value for key, value in record.items() if key != "text"}
    return {**fields, "level": level or record["level"], "app": app}


def message(app: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What such a line says, and the rest of it without its time and level, which the record has."""
    text = next((key for key in TEXT_KEYS if type(app.get(key)) is str), None)
    rest = {key: value for key, value in app.items() if key not in (text, "timestamp", "time", "asctime", *LEVEL_KEYS)}
    return (app[text] if text is not None else "", rest)


def _level(value: Any) -> str | None:
    if type(value) is str:
        return LEVELS.get(value.lower())
    if type(value) is int:
        return next((name for least, name in _NUMBERS if value >= least), "debug")
    return None
