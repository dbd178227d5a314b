"""The termination log: why a container ended, on one screen, for ``kubectl describe pod``.

Kubernetes reads it when the container has ended: 4,096 bytes of it, 12 KiB of all a pod's containers (kubernetes.io,
"Determine the Reason for Pod Failure").
"""

import os
import stat
from collections.abc import Iterator, Sequence

from clusterd.ops.crash import CrashReport

AUTO = "auto"
DEFAULT = "/dev/termination-log"
"""Where Kubernetes puts the file, unless the pod says otherwise; nothing else has one there."""

MAX_BYTES = 4096
MAX_LINES = 40
MAX_LINE = 200


def page(reason: str, report: CrashReport | None = None) -> bytes:
    """One screen: the reason, then the cause, then the ends of what was reported and printed.

    Args:
        reason: why the service ended; one sentence, or the several lines of a configuration's faults.
        report: the last crash report, where a crash is to blame.

    Returns:
        At most :data:`MAX_BYTES` of UTF-8 and :data:`MAX_LINES` lines.
    """
    lines = list(_short(reason.splitlines()))[:MAX_LINES]
    if report is not None:
        lines += _short([report.cause])
        # Of a traceback the end says what happened, and of the output what came last.
        for title, told in (("it reported:", report.report.splitlines()), ("its last output:", report.last_output)):
            room = (MAX_LINES - len(lines)) // (2 if title == "it reported:" and report.last_output else 1) - 1
            if told and room > 0:
                lines += [title, *_short([f"  {line}" for line in told[-room:]])]
    text = "\n".join(lines[:MAX_LINES]) + "\n"
    return text.encode("utf-8", "backslashreplace")[:MAX_BYTES].decode("utf-8", "ignore").encode()


def _short(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        shown = "".join(character if character.isprintable() else "\ufffd" for character in line)
        yield shown if len(shown) <= MAX_LINE else shown[: MAX_LINE - 1] + "…"


def leave(path: str, text: bytes) -> str | None:
    """Write it. Never fails: this is the last thing that a service does.

    Args:
        path: the file; :data:`AUTO` is :data:`DEFAULT` where that is a file, ``""`` is nowhere.

    Returns:
        Why it could not be written, ``None`` if it was or need not be.
    """
    if not path:
        return None
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        if path == AUTO:
            if not stat.S_ISREG(os.lstat(DEFAULT).st_mode):
                return None
            fd = os.open(DEFAULT, flags | os.O_NOFOLLOW)
        else:
            fd = os.open(path, flags | os.O_CREAT, 0o644)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
    except OSError as error:
        absent = path == AUTO and isinstance(error, FileNotFoundError)
        return None if absent else f"cannot write the termination log {path}: {error.strerror}"
    return None
