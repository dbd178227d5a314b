"""Gunicorn's settings, a file of Python or its arguments, as a configuration."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusterd.cli.carried import Carried
from clusterd.errors import UsageError

Value = Any
Settings = dict[str, Value]

PATIENCE = 20.0
"""Seconds that a settings file may take to run."""

# It is Python, so it is run, in a process of its own; what JSON cannot say (hooks) is told by its type.
_READER = """
import json, runpy, sys, types
found = runpy.run_path(sys.argv[1], run_name="gunicorn_conf")
told = {}
for name, value in found.items():
    if name.startswith("_") or isinstance(value, types.ModuleType):
        continue
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        value = {"is": type(value).__name__}
    told[name] = value
sys.stdout.write("\\n" + json.dumps(told))
"""

SHORT = {
    "-w": "workers", "-b": "bind", "-k": "worker_class", "-t": "timeout", "-c": "config", "-u": "user", "-g": "group",
    "-m": "umask", "-e": "raw_env", "-n": "proc_name", "-p": "pidfile", "-D": "daemon",
    "-R": "enable_stdio_inheritance",
}  # fmt: skip
FLAGS = {"preload", "preload_app", "reload", "daemon", "reuse_port", "capture_output", "enable_stdio_inheritance",
         "proxy_protocol", "check_config", "print_config", "no_sendfile", "spew"}  # fmt: skip
RENAMED = {
    "preload": "preload_app", "access_logfile": "accesslog", "error_logfile": "errorlog", "log_level": "loglevel",
    "env": "raw_env", "name": "proc_name", "pid": "pidfile", "keep_alive": "keepalive", "log_file": "errorlog",
}  # fmt: skip

REASONS = {
    "daemon": "clusterd stays in the foreground: systemd or a container keeps it",
    "pidfile": "nothing needs it: `clusterd status` has the pids",
    "reload": "a supervisor for production does not watch files; `watchexec -- clusterd reload` does",
    "worker_tmp_dir": "heartbeats are in shared memory, not in a file",
    "statsd_host": "metrics are Prometheus', at monitoring.address",
    "errorlog": "standard output and standard error are the log",
    "access_log_format": "access lines have one form; set pools.web.http.access_log",
    "logconfig": "the log is structured; the app's own logging is the app's",
    "logconfig_dict": "the log is structured; the app's own logging is the app's",
    "threads": "the WSGI engine chooses; the bound is pools.web.http.max_concurrency",
    "limit_request_line": "the engine's own bounds are in force",
    "limit_request_fields": "the engine's own bounds are in force",
    "limit_request_field_size": "the engine's own bounds are in force",
    "secure_scheme_headers": "X-Forwarded-Proto is read from the proxies in pools.web.http.forwarded_allow_ips",
    "pythonpath": "set PYTHONPATH in pools.web.env",
    "capture_output": "always: every line is tagged with its worker",
    "sendfile": "the engine decides",
    "tmp_upload_dir": "uploads are the app's",
    "initgroups": "a pool's user gets the groups of that user",
    "check_config": "`clusterd check` does this",
    "print_config": "`clusterd explain` does this",
}
"""Why a setting is not carried over; hooks and what is not here have reasons of their own."""

HOOK = "a hook: startup and shutdown of the app are its lifespan's; the rest is `clusterd events`"


def seconds(value: Value) -> str:
    """A number of seconds as a duration."""
    return f"{float(value):g}s"


SIMPLE: dict[str, tuple[tuple[str, ...], Callable[[Value], object]]] = {
    "workers": (("pools", "web", "workers"), lambda value: int(value) or "auto"),
    "keepalive": (("pools", "web", "http", "keep_alive"), seconds),
    "graceful_timeout": (("shutdown", "drain_timeout"), seconds),
    "max_requests": (("pools", "web", "recycle", "max_requests"), int),
    "preload_app": (("pools", "web", "preload"), bool),
    "chdir": (("pools", "web", "cwd"), str),
    "user": (("pools", "web", "user"), str),
    "group": (("pools", "web", "group"), str),
    "umask": (("pools", "web", "umask"), lambda value: f"{int(str(value), 0) if value else 0:04o}"),
    "proc_name": (("clusterd", "name"), str),
    "worker_connections": (("pools", "web", "http", "max_concurrency"), int),
    "certfile": (("listeners", "http", "tls", "cert"), str),
    "keyfile": (("listeners", "http", "tls", "key"), str),
    "ca_certs": (("listeners", "http", "tls", "client_ca"), str),
    "proxy_protocol": (("listeners", "http", "proxy_protocol"), bool),
    "backlog": (("listeners", "http", "backlog"), int),
}
"""Settings that become one key."""


def carry_over(source: str) -> Carried:
    """The configuration that a settings file, or a command line of gunicorn's, amounts to.

    Raises:
        UsageError: it cannot be read.
    """
    settings = from_file(Path(source)) if Path(source).is_file() else from_arguments(source)
    carried = Carried()
    _listeners(carried, settings.pop("bind", None) or "127.0.0.1:8000")
    app = settings.pop("wsgi_app", None)
    if app:
        carried.set(re.sub(r"^([\w.]+)$", r"\1:application", str(app)), "pools", "web", "app")
    else:
        carried.set("shop.asgi:app", "pools", "web", "app")
        carried.lost.append(("the app", "it was not in the settings; put yours into pools.web.app"))
    if "workers" not in settings:
        carried.set(1, "pools", "web", "workers")
    for key, value in settings.items():
        if value is None or value is False or value == "":
            continue
        _one(carried, key, value, settings)
    return carried


def _one(carried: Carried, key: str, value: Value, settings: Settings) -> None:
    if isinstance(value, dict) and set(value) == {"is"}:
        carried.lost.append((key, HOOK))
    elif key in SIMPLE:
        path, convert = SIMPLE[key]
        try:
            carried.set(convert(value), *path)
        except (TypeError, ValueError):
            carried.lost.append((key, f"{value!r:.60} was not understood"))
    elif key in _SPECIAL:
        _SPECIAL[key](carried, value, settings)
    else:
        carried.lost.append((key, REASONS.get(key, "clusterd has nothing of the kind")))


def _listeners(carried: Carried, bind: Value) -> None:
    addresses = [bind] if isinstance(bind, str) else list(bind)
    if len(addresses) == 1 and "," in addresses[0]:
        addresses = addresses[0].split(",")
    for number, address in enumerate(map(str, addresses)):
        name = "http" if number == 0 else f"http{number + 1}"
        text = address.strip()
        if text.startswith("fd://"):
            text = f"fd:{text[5:]}"
        elif not text.startswith("unix:") and not re.search(r":\d+$", text):
            text = f"{text}:8000"
        carried.set(text, "listeners", name, "address")


def _worker_class(carried: Carried, value: Value, settings: Settings) -> None:
    name = str(value)
    if "uvicorn" in name or "asgi" in name.lower():
        return  # as it is here
    if name in ("sync", "gthread"):
        carried.set("wsgi", "pools", "web", "interface")
    else:
        carried.lost.append(("worker_class", f"{name:.60}: an app is served as ASGI or as WSGI, whichever it is"))


def _timeout(carried: Carried, value: Value, settings: Settings) -> None:
    carried.set(seconds(value), "pools", "web", "health", "heartbeat_timeout")
    carried.changed.append(("timeout", "a worker whose event loop stands still for this long is replaced"))


def _jitter(carried: Carried, value: Value, settings: Settings) -> None:
    most = int(settings.get("max_requests") or 0)
    if most:
        carried.set(round(min(1.0, int(value) / most), 3), "pools", "web", "recycle", "max_requests_jitter")


def _env(carried: Carried, value: Value, settings: Settings) -> None:
    words = [value] if isinstance(value, str) else list(value)
    env = dict(str(word).partition("=")[::2] for word in words)
    root = env.pop("SCRIPT_NAME", "")
    if root:
        carried.set(root, "pools", "web", "http", "root_path")
    if env:
        carried.set({name: text.replace("$", "$$") for name, text in env.items()}, "pools", "web", "env")


def _access_log(carried: Carried, value: Value, settings: Settings) -> None:
    carried.set(True, "pools", "web", "http", "access_log")
    if value != "-":
        carried.changed.append(("accesslog", "access lines go to the log, standard output, and not to a file"))


def _level(carried: Carried, value: Value, settings: Settings) -> None:
    level = str(value).lower()
    carried.set({"critical": "error"}.get(level, level), "log", "level")


def _proxies(carried: Carried, value: Value, settings: Settings) -> None:
    words = value.split(",") if isinstance(value, str) else list(value)
    carried.set([str(word).strip() for word in words], "pools", "web", "http", "forwarded_allow_ips")


def _reuse_port(carried: Carried, value: Value, settings: Settings) -> None:
    carried.lost.append(("reuse_port", "the primary hands connections over in turn; see pools.web.scheduling"))


_SPECIAL: dict[str, Callable[[Carried, Value, Settings], None]] = {
    "worker_class": _worker_class,
    "timeout": _timeout,
    "max_requests_jitter": _jitter,
    "raw_env": _env,
    "accesslog": _access_log,
    "loglevel": _level,
    "forwarded_allow_ips": _proxies,
    "reuse_port": _reuse_port,
}


def from_file(path: Path) -> Settings:
    """What a settings file says: it is Python, and is run for it, in a process of its own.

    Raises:
        UsageError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READER, str(path)],
            capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"{path}: it had not ended after {PATIENCE:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UsageError(f"{path}: it cannot be run as Python: {last}")
    try:
        found = json.loads(done.stdout.rsplit("\n", 1)[-1])
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: it ended before it was read")
    return {name: value for name, value in found.items() if name.islower()}


def from_arguments(text: str) -> Settings:
    """What arguments of gunicorn's say; a first word ``gunicorn`` is allowed.

    Raises:
        UsageError: they are none.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--from-gunicorn: {error}; expected a settings file or arguments of gunicorn") from None
    if words and Path(words[0]).name == "gunicorn":
        words = words[1:]
    settings: Settings = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            settings["wsgi_app"] = word
            continue
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            value, name, has_value = (word[2:], word[:2], word[2:])
        key = SHORT.get(name, name.lstrip("-").replace("-", "_"))
        key = RENAMED.get(key, key)
        if key in FLAGS:
            settings[key] = True
            continue
        if not has_value:
            value = next(rest, "")
        if key in ("bind", "raw_env"):
            settings.setdefault(key, []).append(value)
        else:
            settings[key] = value
    if "config" in settings:
        settings = from_file(Path(str(settings.pop("config")).removeprefix("file:"))) | settings
    if not settings:
        raise UsageError("--from-gunicorn: expected a settings file or arguments of gunicorn, such as '-w 4 shop:app'")
    return settings
