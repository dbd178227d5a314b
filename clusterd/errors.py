"""One tree of exceptions that say who is to blame, and the exit code each of them ends a command with.

Exit codes are those of ``sysexits.h`` where one fits (78 is ``EX_CONFIG``) and of the command line's own table
(README, "Exit codes") elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_REFUSED = 4
EXIT_TIMED_OUT = 5
EXIT_CONFIG = 78


class ClusterdError(Exception):
    """The root. ``str()`` of it is the whole message for a person: what, where, what was expected, what to do."""

    exit_code = EXIT_FAILED


class UsageError(ClusterdError):
    """The command line was wrong."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration.

    Attributes:
        message: what is wrong, what was expected and what to do, in one sentence or two.
        key: the dotted path of the key, ``pools.web.workers``; empty for the file as a whole.
        file: the file as the user named it, or where else the value came from (``--set``, ``$WEB_CONCURRENCY``).
        line: the line in the file, counted from 1; ``None`` where the value has none.
    """

    message: str
    key: str = ""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line is not None else "")
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(ClusterdError):
    """The configuration cannot be used; all its problems are told at once."""

    exit_code = EXIT_CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class HostError(ClusterdError):
    """The machine refused: a taken port, a directory of another user, a missing permission."""


class AppError(ClusterdError):
    """The user's application is at fault: it cannot be imported, or is no application."""


class PeerError(ClusterdError):
    """The process at the other end of a wire broke its rules; it is to be treated as broken."""


class ChannelClosed(ClusterdError):
    """A message was sent to a process whose channel is closed. Node's ``ERR_IPC_CHANNEL_CLOSED``."""

    code = "ERR_IPC_CHANNEL_CLOSED"

    def __init__(self, message: str = "Channel closed", code: str = "ERR_IPC_CHANNEL_CLOSED") -> None:
        super().__init__(message)
        self.code = code


class NotRunning(ClusterdError):
    """No primary answers at the address that was asked."""

    exit_code = EXIT_NOT_RUNNING


class Refused(ClusterdError):
    """The primary will not do this for this user, or not now."""

    exit_code = EXIT_REFUSED


class TimedOut(ClusterdError):
    """The primary did not answer in time."""

    exit_code = EXIT_TIMED_OUT


class RequestFailed(ClusterdError):
    """The primary tried what was asked and it failed."""
