"""``cluster.settings``: what ``setup_primary`` takes, checked when a worker is forked, as Node checks it."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..wire.codecs import ADVANCED, JSON, Codec

NODE_PROGRAMS: Final = (".js", ".mjs", ".cjs")
"""Endings of programs that Node runs."""

INHERIT, PIPE, IGNORE, IPC = "inherit", "pipe", "ignore", "ipc"
_WORDS: Final = frozenset({INHERIT, PIPE, IGNORE, IPC, "overlapped"})


def defaults() -> dict[str, Any]:
    """The settings of a call of ``setup_primary`` without arguments."""
    return {"exec": sys.argv[0], "args": sys.argv[1:], "exec_argv": _exec_argv(), "silent": False}


def _exec_argv() -> list[str]:
    """The flags that this interpreter was started with, as far as they can be known: all that stands before the
    script."""
    flags = []
    for argument in sys.orig_argv[1:]:
        if not argument.startswith("-") or argument in ("-c", "-m", "-"):
            break
        flags.append(argument)
    return flags


def argv(settings: Mapping[str, Any]) -> list[str]:
    """The command of a worker.

    Raises:
        TypeError: a setting is of the wrong kind.
    """
    program = settings.get("exec")
    if not isinstance(program, str | os.PathLike):
        raise TypeError(f"exec is {program!r}; a worker's program is a path")
    path = os.fspath(program)
    args = settings.get("args") or []
    flags = settings.get("exec_argv") or []
    for name, value in (("args", args), ("exec_argv", flags)):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise TypeError(f"{name} is {value!r}; a list of arguments was expected")
    interpreter = settings.get("exec_path") or ("node" if is_node(path) else sys.executable)
    # What is run by `python -m package` is run so again: its file alone would lack its package.
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if not is_node(path) and spec is not None and path == sys.argv[0] and "exec_path" not in settings:
        name = spec.name.removesuffix(".__main__")
        return [str(interpreter), *map(str, flags), "-m", name, *map(str, args)]
    return [str(interpreter), *map(str, flags), path, *map(str, args)]


def is_node(path: str) -> bool:
    """Whether Node runs it."""
    return Path(path).suffix in NODE_PROGRAMS


def codec(settings: Mapping[str, Any]) -> Codec:
    """The serialization of a worker's channel.

    Raises:
        ValueError: there is no such, or not with that program.
    """
    match settings.get("serialization"):
        case None | False | "json":
            return JSON
        case "advanced" if is_node(os.fspath(settings["exec"])):
            raise ValueError(
                "serialization 'advanced' is V8's own format between Node processes and clusterd's own between Python"
                " ones; between Python and Node use 'json'"
            )
        case "advanced":
            return ADVANCED
        case other:
            raise ValueError(f"serialization is {other!r}; 'json' or 'advanced' was expected")


def stdio(settings: Mapping[str, Any]) -> list[str | int]:
    """What a worker's descriptors are to be: words, or numbers of ours.

    Raises:
        ValueError: no channel, two, or something unknown.
        TypeError: it is no list.
    """
    value = settings.get("stdio")
    if value is None:
        value = [PIPE] * 3 + [IPC] if settings.get("silent") else [INHERIT] * 3 + [IPC]
    elif isinstance(value, str):
        if value not in (PIPE, IGNORE, INHERIT, "overlapped"):
            raise ValueError(f"stdio is {value!r}; 'pipe', 'ignore', 'inherit' or a list was expected")
        value = [value] * 3 + [IPC]
    if isinstance(value, bytes) or not isinstance(value, Sequence):
        raise TypeError(f"stdio is {value!r}; a list was expected")
    found: list[str | int] = []
    for number, given in enumerate(value):
        entry = given if given is not None else PIPE if number < 3 else IGNORE
        if isinstance(entry, str) and entry in _WORDS:
            found.append(number if entry == INHERIT else PIPE if entry == "overlapped" else entry)
        elif isinstance(entry, int) and not isinstance(entry, bool):
            found.append(entry)
        elif hasattr(entry, "fileno"):
            found.append(int(entry.fileno()))
        else:
            raise ValueError(f"stdio holds {entry!r}; 'pipe', 'ignore', 'inherit', 'ipc', a number or a file may be")
    if found.count(IPC) == 0:
        raise ValueError("stdio has no 'ipc': a worker needs a channel (ERR_CHILD_PROCESS_IPC_REQUIRED)")
    if found.count(IPC) > 1:
        raise ValueError("stdio has 'ipc' twice: a worker has one channel (ERR_IPC_ONE_PIPE)")
    return found


def environment(extra: Mapping[str, Any] | None) -> dict[str, str]:
    """This process's environment with ``extra`` over it; a value ``None`` takes the variable out."""
    env = dict(os.environ)
    for name, value in (extra or {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return env


def number(settings: Mapping[str, Any], name: str) -> int | None:
    """``uid`` or ``gid``.

    Raises:
        TypeError: it is no number.
    """
    value = settings.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{name} is {value!r}; a number was expected")


def signal_number(name: str | int) -> int:
    """The number of a signal.

    Raises:
        ValueError: there is none.
    """
    if isinstance(name, int):
        if name != 0 and name not in signal.valid_signals():
            raise ValueError(f"Unknown signal: {name}")
        return int(name)
    number = getattr(signal, name, None)
    if not isinstance(number, signal.Signals):
        raise ValueError(f"Unknown signal: {name}")
    return int(number)


def signal_name(number: int | None) -> str | None:
    """As Node names it; a real-time signal by its number."""
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
