"""``clusterd generate KIND``: files for what runs the service, made to fit one configuration."""

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import click

from clusterd.errors import HostError, UsageError

#: What can be generated, and where each command stands. Imported when it is run, as the commands of the command line.
KINDS = {
    "systemd": "clusterd.cli.generate_systemd:systemd",
    "docker": "clusterd.cli.generate_docker:docker",
    "compose": "clusterd.cli.generate_docker:compose",
    "kubernetes": "clusterd.cli.generate_kubernetes:kubernetes",
}


class Kinds(click.Group):
    """A group that imports a kind when somebody names it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(KINDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = KINDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Kinds)
def generate() -> None:
    """Print the files that run a configuration under a service manager or in containers, fitted to it."""


directory_option = click.option(
    "--directory", metavar="DIR", help="Write the files there, instead of printing them; none is overwritten."
)
force_option = click.option("--force", is_flag=True, help="With --directory: overwrite what is there.")


def emit(files: Mapping[str, str], directory: str | None, force: bool) -> None:
    """Print the files, each under a comment with its name if there are several, or write them into a directory.

    Args:
        files: names, without a directory, and texts.
        directory: where to write them; it is made if need be. ``None`` prints.
        force: whether a file that is there is overwritten.

    Raises:
        UsageError: ``force`` without a directory, or a file is there already; nothing is written then.
        HostError: they cannot be written.
    """
    if directory is None:
        if force:
            raise UsageError("--force says what --directory may do; without that, files are printed")
        for name, text in files.items():
            click.echo((f"# {name}\n" if len(files) > 1 else "") + text)
        return
    there = [name for name in files if os.path.lexists(os.path.join(directory, name))]
    if there and not force:
        raise UsageError(f"{directory} has {', '.join(there)} already; --force overwrites")
    try:
        os.makedirs(directory, exist_ok=True)
        for name, text in files.items():
            Path(directory, name).write_text(text)
            click.echo(os.path.join(directory, name))
    except OSError as error:
        raise HostError(f"cannot write {error.filename or directory}: {error.strerror}") from None
