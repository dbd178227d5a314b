"""``clusterd completions``: what makes a shell complete commands, options, pools and workers."""

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CLUSTERD_COMPLETE"
"""click's: a shell that sets it asks `clusterd` for completions instead of running it."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completions(shell: str) -> None:
    """Print what makes SHELL complete: `eval "$(clusterd completions bash)"`, or into the shell's directory of them."""
    from clusterd.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "clusterd", VARIABLE).source())


def selectors(pools: bool, workers: bool) -> list[str]:
    """What can be named of the service that would be meant; nothing where none or several run, or none answers."""
    from clusterd.cli.choose import living
    from clusterd.client import Client, find_socket
    from clusterd.errors import ClusterdError

    try:
        status = Client(find_socket(), timeout=0.5).status()
        found = [str(pool["name"]) for pool in status["pools"]] if pools else []
        return found + ([f"{one.pool}/{one.slot}" for one in living(status)] if workers else [])
    except (ClusterdError, KeyError, TypeError):
        return []


def pool_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Pools of the running service."""
    return [CompletionItem(name) for name in selectors(True, False) if name.startswith(incomplete)]


def worker_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Workers of the running service."""
    return [CompletionItem(name) for name in selectors(False, True) if name.startswith(incomplete)]


def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Pools and workers of the running service."""
    return [CompletionItem(name) for name in selectors(True, True) if name.startswith(incomplete)]
