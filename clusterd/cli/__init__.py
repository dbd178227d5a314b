"""The command line: argv to configuration to run. The composition root, the one place that sees everything."""

import sys

if sys.argv[1:2] == ["run"]:
    # Before any other import: a signal that arrives now must wait for its handler. Without a handler SIGTERM ends
    # the process, or, if it is pid 1, is lost (measured: in the first 130 ms). `signal` itself is a Python module.
    import _signal  # type: ignore[import-not-found]

    _signal.pthread_sigmask(
        _signal.SIG_BLOCK,
        (
            _signal.SIGTERM,
            _signal.SIGINT,
            _signal.SIGQUIT,
            _signal.SIGHUP,
            _signal.SIGUSR1,
            _signal.SIGUSR2,
            _signal.SIGTTIN,
            _signal.SIGTTOU,
        ),
    )
    from . import lean

    lean.load()

import json
import os
import re
from importlib import import_module
from typing import Any

import click

from ..errors import EXIT_FAILED, ClusterdError

OLDEST_KERNEL = (5, 4)

#: Where each command stands. They are imported when they are run, for `status` must not wait for what `run` needs.
COMMANDS = {
    "run": "clusterd.cli.run:run",
    "check": "clusterd.cli.configure:check",
    "explain": "clusterd.cli.configure:explain",
    "schema": "clusterd.cli.configure:schema",
    "status": "clusterd.cli.inspect:status",
    "list": "clusterd.cli.inspect:status",
    "ls": "clusterd.cli.inspect:status",
    "describe": "clusterd.cli.inspect:describe",
    "events": "clusterd.cli.follow:events",
    "health": "clusterd.cli.inspect:health",
    "completions": "clusterd.cli.completions:completions",
    "doctor": "clusterd.cli.doctor:doctor",
    "init": "clusterd.cli.init:init",
    "logs": "clusterd.cli.follow:logs",
    "reload": "clusterd.cli.renew:reload",
    "restart": "clusterd.cli.change:restart",
    "scale": "clusterd.cli.change:scale",
    "start": "clusterd.cli.change:start",
    "stop": "clusterd.cli.change:stop",
    "shutdown": "clusterd.cli.change:shutdown",
    "stacks": "clusterd.cli.change:stacks",
    "top": "clusterd.cli.inspect:top",
    "upgrade": "clusterd.cli.upgrading:upgrade",
    "monit": "clusterd.cli.inspect:top",
    "generate": "clusterd.cli.generate:generate",
}


_ASKING = tuple(f"clusterd.cli.{name}:" for name in ("inspect", "follow", "change", "renew", "upgrading"))
"""Where the commands are that ask a running service: people wait for their imports."""


class Commands(click.Group):
    """A group that imports a command when somebody names it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if name not in ("list", "ls", "monit")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClusterdError as error:
            click.echo(_blame(error), err=True)
            ctx.exit(error.exit_code)


def _blame(error: ClusterdError) -> str:
    text = str(error)
    return text if "\n" in text or text.startswith("clusterd") else f"clusterd: {text}"


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .lean import installed_version

        click.echo(f"clusterd {installed_version()}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Runs a service as one primary and N workers that share its ports.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    pass


def main() -> None:
    """The entry point."""
    if sys.platform != "linux":
        sys.stderr.write("clusterd runs on Linux only: it stands on pidfds, child subreapers and sealed memory\n")
        sys.exit(EXIT_FAILED)
    if tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) < OLDEST_KERNEL:
        sys.stderr.write(f"clusterd needs Linux 5.4, which can wait for pidfds; this is {os.uname().release}\n")
        sys.exit(EXIT_FAILED)
    if COMMANDS.get("".join(sys.argv[1:2]), "").startswith(_ASKING):
        from .lean import without

        with without("ssl"):  # for a protocol that none of them speaks
            import http.client  # noqa: F401
    try:
        cli(prog_name="clusterd")
    except Exception as error:
        _go_back(error)
        raise


def _go_back(error: Exception) -> None:
    """New code of a running primary that cannot even be imported becomes the old code again (:mod:`.succession`).

    It is here because there is nothing that this could import.
    """
    words = os.environ.pop("CLUSTERD_UPGRADE_BACK", None)
    if words is not None:
        sys.stderr.write(f"clusterd: the new code failed, back to the old: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        command = json.loads(words)
        os.execv(command[0], command)
