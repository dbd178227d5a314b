#!/usr/bin/env python3
"""Writes the man pages from the code: ``packaging/man.py DIRECTORY`` makes man1/clusterd.1 and man5/clusterd.toml.5.

Run by an interpreter that has clusterd; the packages do so when they are built.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from clusterd import errors
from clusterd.cli import cli
from clusterd.cli.lean import installed_version
from clusterd.config import reference_rows
from clusterd.primary.doors import SIGNALS


def text(words: str) -> str:
    """Plain words for roff: no escapes, no requests by accident."""
    line = " ".join(words.split()).replace("\\", "\\e").replace("-", "\\-")
    line = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", line)
    return "\\&" + line if line[:1] in (".", "'") else line


def tagged(term: str, words: str) -> list[str]:
    return [".TP", f"\\fB{text(term)}\\fR", text(words)]


def page(name: str, section: int, summary: str, lines: Iterable[str]) -> str:
    head = [
        f'.TH {name.upper()} {section} "" "clusterd {installed_version()}" "clusterd"',
        ".SH NAME",
        f"{text(name)} \\- {text(summary)}",
    ]
    return "\n".join([*head, *lines]) + "\n"


def option_words(command: click.Command, context: click.Context) -> list[str]:
    lines = []
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden and "--help" not in parameter.opts:
            record = parameter.get_help_record(context)
            if record is not None:
                lines += [".RS", *tagged(record[0], record[1]), ".RE"]
    return lines


def commands(group: click.Group, before: str = "") -> list[str]:
    """Each command with its options; a group's own ones behind it."""
    context = click.Context(group)
    lines: list[str] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name)
        arguments = [one.make_metavar(inner) for one in command.get_params(inner) if isinstance(one, click.Argument)]
        lines += tagged(" ".join([before + name, *arguments]), command.help or "")
        lines += option_words(command, inner)
        if isinstance(command, click.Group):
            lines += commands(command, f"{before}{name} ")
    return lines


def program() -> str:
    codes = {value: [] for name, value in vars(errors).items() if name.startswith("EXIT_")}  # type: dict[int, list[str]]
    codes[errors.EXIT_OK].append("Ended as asked.")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ClusterdError) and kind is not errors.ClusterdError:
            codes[kind.exit_code].append((kind.__doc__ or "").split("\n")[0])
    lines = [".SH SYNOPSIS", "\\fBclusterd\\fR \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]", ".SH DESCRIPTION"]
    lines += [text(cli.help or "One primary and N workers share the ports of a service."), ".SH COMMANDS"]
    lines += commands(cli)
    lines += [".SH SIGNALS", "What the primary does on each."]
    for number, door in SIGNALS.items():
        lines += tagged(number.name, door.does)
    lines.append(".SH EXIT STATUS")
    for code, words in sorted(codes.items()):
        lines += tagged(str(code), " ".join(words))
    lines.append(".SH FILES")
    lines += tagged("/etc/clusterd/clusterd.toml", "The configuration that is read where none is named.")
    lines += tagged("/etc/clusterd/NAME.toml", "The configuration of clusterd@NAME.service.")
    lines += tagged("/run/clusterd/NAME/control.sock", "Where the commands reach the primary of NAME.")
    lines += [".SH SEE ALSO", "\\fBclusterd.toml\\fR(5), \\fBsystemd.service\\fR(5)"]
    return page("clusterd", 1, "run a service as one primary and N workers that share its ports", lines)


def configuration() -> str:
    lines = [".SH DESCRIPTION", text('A TOML file. Durations are "250ms", "30s", "5m", sizes "512MiB"; 0 is off.')]
    table = None
    for key, kind, default, doc in reference_rows():
        head, _, name = key.rpartition(".")
        if head != table:
            table = head
            lines.append(f".SH {text('[' + head + ']')}" if head else ".SH TOP LEVEL")
        lines += tagged(name, f"{kind}, default {default}. {doc}")
    lines += [".SH SEE ALSO", "\\fBclusterd\\fR(1)"]
    return page("clusterd.toml", 5, "the configuration of clusterd", lines)


def main() -> None:
    directory = Path(sys.argv[1])
    for section, name, made in (("man1", "clusterd.1", program()), ("man5", "clusterd.toml.5", configuration())):
        (directory / section).mkdir(parents=True, exist_ok=True)
        (directory / section / name).write_text(made)


if __name__ == "__main__":
    main()
