"""``clusterd init``: a configuration to start from, new or carried over from PM2 or gunicorn."""

import os
import re
import tempfile
from pathlib import Path

import click

from clusterd.cli.carried import Carried
from clusterd.errors import ConfigError, HostError, UsageError

STARTER = """\
# Every key is in the README and in `clusterd explain`; editors know them by `clusterd schema`.
config_version = 1

[clusterd]
name = "{name}"

[listeners.http]
address = "127.0.0.1:8000"

[pools.web]
app = "{app}"
workers = "auto"          # as many as the cgroup's CPU quota and the affinity allow; or a number

[shutdown]
drain_timeout = "25s"     # what was taken gets this long; then SIGKILL

[monitoring]
address = "127.0.0.1:9190"  # /metrics /livez /readyz /startupz
"""


@click.command()
@click.argument("app", required=False, default="")
@click.option("--from-pm2", metavar="FILE", help="Carry over an ecosystem file in JSON.")
@click.option("--env", "environment", metavar="NAME", help="With --from-pm2: lay env_NAME over env.")
@click.option("--from-gunicorn", metavar="FILE|ARGS", help="Carry over a settings file, or quoted arguments.")
@click.option("--output", metavar="FILE", default="clusterd.toml", help="Where to; - is standard output.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(
    app: str, from_pm2: str | None, environment: str | None, from_gunicorn: str | None, output: str, force: bool
) -> None:
    """Write a configuration to start from: for APP, or from what PM2 or gunicorn was told.

    What could not be carried over is listed in the file's head and on standard error.
    """
    if from_pm2 is not None and from_gunicorn is not None:
        raise UsageError("one of --from-pm2 and --from-gunicorn is enough")
    carried: Carried | None = None
    if from_pm2 is not None:
        from clusterd.cli.import_pm2 import carry_over as from_ecosystem

        carried, source = from_ecosystem(_read(from_pm2), environment), from_pm2
    elif from_gunicorn is not None:
        from clusterd.cli.import_gunicorn import carry_over as from_settings

        carried, source = from_settings(from_gunicorn), from_gunicorn
    else:
        source = ""
    if carried is not None:
        if app:
            carried.set(app, "pools", "web", "app")
            carried.lost = [note for note in carried.lost if note[0] != "the app"]
        text = carried.text(source)
    else:
        from clusterd.config.notation import toml_text

        name = re.sub(r"\W+", "-", app.partition(":")[0].partition(".")[0]).strip("-") or "shop"
        text = STARTER.format(name=name, app=toml_text(app or "shop.asgi:app")[1:-1])
    _write(text, output, force)
    for head, notes in (
        (("means something else here", carried.changed), ("not carried over", carried.lost)) if carried else ()
    ):
        for key, why in notes:
            click.echo(f"{head}: {key}: {why}", err=True)
    _validate(text)
    if output != "-":
        click.echo(f"{output} is written; next: clusterd check --config {output} --import")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path}: it cannot be read: {why}") from None


def _write(text: str, output: str, force: bool) -> None:
    if output == "-":
        click.echo(text, nl=False)
        return
    try:
        with open(output, "w" if force else "x") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{output} is there already; --force replaces it, --output names another") from None
    except OSError as error:
        raise HostError(f"{output}: it cannot be written: {error.strerror}") from None


def _validate(text: str) -> None:
    """Say what of the file this version would not take: it was made by us, and is still to be looked at by its user."""
    from clusterd.config.load import open_config

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clusterd.toml")
        Path(path).write_text(text)
        try:
            open_config(path)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(f"to be looked at: {problem.key or 'the file'}: {problem.message}", err=True)
