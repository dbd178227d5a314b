"""The README's tables, from the code: ``python -m tests.readme`` writes them, ``tests/test_readme.py`` holds them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from clusterd import errors
from clusterd.cli import COMMANDS, cli, pm2_table
from clusterd.config import reference_rows
from clusterd.ops.metrics_table import METRICS
from clusterd.primary.doors import SIGNALS
from tests.conformance.decisions import GROUPS, IMPROVED, NAMES, Decision, decisions

README = Path(__file__).parent.parent / "README.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells lose their line breaks, and ``|`` is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=\.)\s", " ".join((text or "").split()), maxsplit=1)[0]


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def exit_codes() -> str:
    """Each code, with the errors that end a command with it."""
    meaning: dict[int, list[str]] = {number: [] for name, number in vars(errors).items() if name.startswith("EXIT_")}
    meaning[errors.EXIT_OK].append("Ended as asked.")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ClusterdError) and kind is not errors.ClusterdError:
            meaning[kind.exit_code].append(first_sentence(kind.__doc__))
    return table(["code", "meaning"], ([code(str(number)), " ".join(meaning[number])] for number in sorted(meaning)))


def usage(command: click.Command) -> str:
    """The command with its arguments and options, as one would type it."""
    context = click.Context(command)
    words = [command.name or ""]
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            if "--help" in parameter.opts or parameter.hidden:
                continue
            option = min(parameter.opts, key=lambda name: (name.count("-") < 2, len(name)))
            words.append(f"[{option}{'' if parameter.is_flag else ' ' + parameter.make_metavar(context)}]")
        else:
            words.append(parameter.make_metavar(context))
    return " ".join(words)


def commands() -> str:
    """Every command that the command line has."""
    context = click.Context(cli)
    rows = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        aliases = [code(alias) for alias, place in COMMANDS.items() if place == COMMANDS[name] and alias != name]
        also = f" Also {', '.join(aliases)}." if aliases else ""
        rows.append([code(usage(command)), first_sentence(command.help) + also])
    return table(["command", "does"], rows)


def signals() -> str:
    rows: dict[str, list[str]] = {}
    for number, door in SIGNALS.items():
        rows.setdefault(door.does, []).append(code(number.name.removeprefix("SIG")))
    return table(["signal", "does"], ([", ".join(names), does] for does, names in rows.items()))


def configuration() -> str:
    """A table for each table of the file."""
    tables: dict[str, list[list[str]]] = {}
    for key, kind, default, doc in reference_rows():
        head, _, name = key.rpartition(".")
        # A default that depends on other things is told in words, not in TOML.
        written = default[:1] in '"[{-' or default[:1].isdigit() or default in ("true", "false")
        tables.setdefault(head, []).append([code(name), kind, code(default) if written else default, doc])
    return "\n\n".join(
        (f"#### [{head}]\n\n" if head else "") + table(["key", "type", "default", "what it is for"], rows)
        for head, rows in tables.items()
    )


def metrics() -> str:
    return table(
        ["metric", "type", "labels", "what it is, and what a rise means"],
        ([code(row.name), row.type, ", ".join(map(code, row.labels)), row.help] for row in METRICS),
    )


def pm2(rows: Sequence[pm2_table.Same], head: str) -> str:
    """PM2's names, ours, and what is different."""
    return table(
        [head, "clusterd", "what is different, or why there is none"],
        ([", ".join(map(code, row.theirs)), row.ours if " " in row.ours else code(row.ours), row.why] for row in rows),
    )


def pm2_commands() -> str:
    return pm2(pm2_table.COMMANDS, "PM2's command")


def pm2_keys() -> str:
    return pm2(pm2_table.KEYS, "key of an ecosystem file")


def conformance() -> str:
    """Node's own tests: how many of them pass, and what is decided of the others."""
    made = decisions()
    counts = [
        [kind.value, *(str(sum(made[number].kind is kind for number in group)) for group in GROUPS.values())]
        for kind in Decision
    ]
    others = [
        [f"{number} {NAMES.get(number, '')}".strip(), one.kind.value, one.reason]
        for number, one in made.items()
        if one.reason
    ]
    return "\n\n".join(
        [
            table(["of Node's tests", *(f"{name} ({len(group)})" for name, group in GROUPS.items())], counts),
            table(["test", "decision", "why, and what there is instead"], others),
            table(["what", "in Node", "here"], IMPROVED),
        ]
    )


SECTIONS = {
    "pm2-commands": pm2_commands,
    "pm2-keys": pm2_keys,
    "conformance": conformance,
    "commands": commands,
    "exit-codes": exit_codes,
    "signals": signals,
    "configuration": configuration,
    "metrics": metrics,
}
"""Marker to what stands between it and its end."""


def generated(text: str) -> str:
    """``text`` with everything between markers made anew.

    Raises:
        LookupError: a marker without a section, a section without a marker.
    """
    found = []

    def fill(match: re.Match[str]) -> str:
        found.append(match["name"])
        return f"{match['begin']}\n{SECTIONS[match['name']]()}\n<!-- /{match['name']} -->"

    marker = re.compile(r"(?P<begin><!-- (?P<name>[\w-]+): generated[^>]*-->)\n.*?<!-- /(?P=name) -->", re.DOTALL)
    result = marker.sub(fill, text)
    if missing := SECTIONS.keys() - set(found):
        raise LookupError(f"README.md has no markers for {', '.join(sorted(missing))}")
    return result


if __name__ == "__main__":
    README.write_text(generated(README.read_text()))
