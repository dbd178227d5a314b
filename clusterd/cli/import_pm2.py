"""PM2's ecosystem file as a configuration."""

import json
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from clusterd.cli.carried import Carried
from clusterd.cli.pm2_table import why_not
from clusterd.errors import UsageError

Value = Any

NODE = (".js", ".mjs", ".cjs")
SCRIPTS = (".py", *NODE)

NAMES = ("name",)
WHERE = ("script", "exec", "cmd", "command", "args", "interpreter", "exec_interpreter")
HANDLED_TOGETHER = {*NAMES, *WHERE, "node_args", "interpreter_args", "env", "source_map_support", "exec_mode", "port"}


def milliseconds(value: Value) -> str:
    """PM2's spans (a number of milliseconds, ``"3s"``, ``"1h"``) as ours.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str) and re.fullmatch(r"[0-9]+(ms|s|m|h|d)", value):
        return value
    return f"{_count(value)}ms"


def memory(value: Value) -> str:
    """PM2's sizes (``"300M"``, bytes) as ours.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG])B?", str(value), re.IGNORECASE)
    if found:
        return f"{found[1]}{found[2].upper()}iB"
    return str(_count(value))


def _count(value: Value) -> int:
    """A number of at least zero; of others ValueError."""
    number = int(value)
    if number < 0:
        raise ValueError(f"{number} is below zero")
    return number


def workers(value: Value) -> int | str:
    """PM2's ``instances``.

    Raises:
        ValueError: it is no number.
    """
    if value in ("max", 0, "0", ""):
        return "auto"
    count = int(value)
    return count if count > 0 else "auto"


def account(value: Value) -> str:
    """A user or group, by name or number."""
    return str(value)


SIMPLE: dict[str, tuple[tuple[str, ...], Callable[[Value], object]]] = {
    "cwd": (("cwd",), str),
    "instances": (("workers",), workers),
    "max_memory_restart": (("recycle", "max_memory"), memory),
    "max_restarts": (("restart", "give_up_after"), int),
    "min_uptime": (("restart", "rapid_exit"), milliseconds),
    "restart_delay": (("restart", "initial_delay"), milliseconds),
    "exp_backoff_restart_delay": (("restart", "initial_delay"), milliseconds),
    "listen_timeout": (("start_timeout",), milliseconds),
    "uid": (("user",), account),
    "user": (("user",), account),
    "gid": (("group",), account),
}
"""Keys that become one key of the pool."""


def carry_over(text: str, environment: str | None = None) -> Carried:
    """The configuration that an ecosystem file amounts to.

    Args:
        text: JSON.
        environment: whose ``env_NAME`` is laid over ``env``.

    Raises:
        UsageError: it is no ecosystem file in JSON.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the ecosystem file is no JSON ({error}); of a .js file make one with:"
            " node -p 'JSON.stringify(require(\"./ecosystem.config.js\"))' > ecosystem.config.json"
        ) from None
    apps = found.get("apps", found.get("pm2", [found])) if isinstance(found, dict) else found
    apps = [apps] if isinstance(apps, dict) else apps
    if not isinstance(apps, list) or not apps or not all(isinstance(app, dict) for app in apps):
        raise UsageError("the ecosystem file has no apps: expected an object with an array `apps`")
    carried = Carried()
    for number, app in enumerate(apps):
        _App(carried, app, _name(carried, app, number), environment).carry()
    if isinstance(found, dict) and "deploy" in found:
        carried.lost.append(("deploy", why_not("deploy") or ""))
    return carried


def _name(carried: Carried, app: dict[str, Value], number: int) -> str:
    """A name that a pool may have, and that no other has."""
    given = str(app.get("name") or PurePath(str(app.get("script", ""))).stem or "app")
    name = re.sub(r"[^A-Za-z0-9_]+", "-", given).strip("-_") or f"app{number}"
    if not name[0].isalpha():
        name = f"app-{name}"
    name = name[:40].lower()
    taken = carried.get("pools") or {}
    while name in taken:
        name = f"{name}-{number}"
    if name != given:
        carried.changed.append(("name", f"{given} is pool {name}"))
    return name


class _App:
    def __init__(self, carried: Carried, app: dict[str, Value], pool: str, environment: str | None) -> None:
        self._carried = carried
        self._app = app
        self._pool = pool
        self._environment = environment

    def _set(self, value: object, *path: str) -> None:
        self._carried.set(value, "pools", self._pool, *path)

    def _lose(self, key: str, why: str) -> None:
        self._carried.lost.append((f"{self._pool}: {key}", why))

    def carry(self) -> None:
        self._runs()
        for key, value in self._app.items():
            if key in HANDLED_TOGETHER or value is None:
                continue
            if key in SIMPLE:
                path, convert = SIMPLE[key]
                try:
                    self._set(convert(value), *path)
                except (TypeError, ValueError):
                    self._lose(key, f"{value!r:.60} was not understood")
            elif key.startswith("env_"):
                if key != f"env_{self._environment}":
                    self._lose(key, "one environment a file: --env chooses which")
            else:
                self._special(key, value)
        self._env()

    def _special(self, key: str, value: Value) -> None:
        if key == "kill_timeout":
            try:
                span = milliseconds(value)
            except (TypeError, ValueError):
                self._lose(key, f"{value!r:.60} was not understood")
                return
            longest = max(self._carried.get("shutdown", "drain_timeout") or "0ms", span, key=_in_ms)
            self._carried.set(longest, "shutdown", "drain_timeout")
        elif key == "wait_ready":
            if value:
                self._set("message", "ready_when")
        elif value is not False or key in ("autorestart", "treekill", "autostart"):
            if value is True and key in ("autorestart", "treekill", "autostart"):
                return  # as it is here
            self._lose(key, why_not(key) or "PM2 has no such key either")

    def _runs(self) -> None:
        app = self._app
        script = str(app.get("script") or app.get("exec") or app.get("cmd") or app.get("command") or "")
        interpreter = str(app.get("interpreter") or app.get("exec_interpreter") or "")
        given = app.get("args") or []
        arguments = [str(word) for word in given] if isinstance(given, list) else str(given).split()
        if not script:
            self._lose("script", "there is none, and a pool needs something to run")
            return
        if " " in script:
            self._set(["/bin/sh", "-c", " ".join([f"exec {script}", *arguments])], "command")
        elif PurePath(script).suffix in SCRIPTS and interpreter not in ("none", "bun"):
            self._set(script, "script")
            if arguments:
                self._set(arguments, "args")
            if PurePath(script).suffix == ".py" and not app.get("wait_ready"):
                self._set("running", "ready_when")
                self._carried.changed.append(
                    (f"{self._pool}: ready_when", "a Python program of PM2's says nothing; if it listens, drop this")
                )
            if interpreter and interpreter not in ("node", "python", "python3"):
                self._set(interpreter, "interpreter")
        else:
            self._set([*([interpreter] if interpreter not in ("", "none") else []), script, *arguments], "command")
        if not app.get("instances"):
            self._set(1, "workers")

    def _env(self) -> None:
        app = self._app
        env: dict[str, str] = {}
        if "port" in app:
            env["PORT"] = str(app["port"])
        for source in (app.get("env"), app.get(f"env_{self._environment}") if self._environment else None):
            if isinstance(source, dict):
                for name, value in source.items():
                    text = value if isinstance(value, str) else json.dumps(value)
                    env[str(name)] = text.replace("$", "$$")
        options = app.get("node_args") or app.get("interpreter_args") or []
        words = [str(word) for word in options] if isinstance(options, list) else str(options).split()
        if app.get("source_map_support"):
            words.append("--enable-source-maps")
        is_node = str(app.get("script", "")).endswith(NODE) or app.get("interpreter") == "node"
        if words and is_node:
            env["NODE_OPTIONS"] = " ".join([*filter(None, [env.get("NODE_OPTIONS")]), *words])
        elif words:
            self._lose("interpreter_args", "options of an interpreter that is not Node: make a command of it")
        if env:
            self._set(env, "env")


def _in_ms(span: str) -> float:
    units = {"ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6, "d": 8.64e7}
    number, unit = re.fullmatch(r"(\d+)([a-z]+)", span).groups()  # type: ignore[union-attr]
    return float(number) * units[unit]
