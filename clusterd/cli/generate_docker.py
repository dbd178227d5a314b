"""``clusterd generate docker`` and ``compose``: an image with the application in it, and one machine that runs it."""

import json
import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click

from clusterd.cli import contained
from clusterd.cli.configure import config_option, set_option
from clusterd.cli.contained import APP, Contained
from clusterd.cli.generate import directory_option, emit, force_option
from clusterd.cli.manifests import USER

BASE = "python:3.11-slim"

#: What says which packages an application needs, and how pip is told; the first that is there counts.
REQUIREMENTS = {
    "requirements.txt": ("-r", "requirements.txt"),
    "pyproject.toml": (".",),
}

IGNORED = (
    ".git",
    "**/__pycache__",
    ".venv",
    "venv",
    ".env",
    "*.egg-info",
    ".pytest_cache",
    "Dockerfile",
    "compose.yaml",
)


@click.command()
@config_option
@set_option
@click.option("--base", default=BASE, show_default=True, metavar="IMAGE", help="The image to build on.")
@directory_option
@force_option
def docker(config_path: str | None, sets: Sequence[str], base: str, directory: str | None, force: bool) -> None:
    """Print a Dockerfile for the application of a configuration; the directory of the file is what is built from."""
    one = contained.read(config_path, sets)
    where = os.path.dirname(os.path.abspath(_path(config_path)))
    files = {"Dockerfile": dockerfile(one, base, packages(where)), ".dockerignore": "".join(f"{x}\n" for x in IGNORED)}
    emit(files, directory, force)


@click.command()
@config_option
@set_option
@click.option("--image", metavar="IMAGE", default="", help="The application's image; else it is built from here.")
@click.option("--cpus", type=float, default=1.0, show_default=True, help="CPUs of the container.")
@click.option("--memory", metavar="SIZE", default="512m", show_default=True, help="Memory of the container.")
@directory_option
@force_option
def compose(
    config_path: str | None,
    sets: Sequence[str],
    image: str,
    cpus: float,
    memory: str,
    directory: str | None,
    force: bool,
) -> None:
    """Print a Compose file that runs a configuration on one machine."""
    if not re.fullmatch(r"[0-9]+[bkmg]?", memory):
        raise click.BadParameter(f"expected a size such as 512m, found {memory!r:.80}", param_hint="--memory")
    emit({"compose.yaml": composed(contained.read(config_path, sets), image, cpus, memory)}, directory, force)


def _path(config_path: str | None) -> str:
    from clusterd import config as configuration

    return configuration.find_file(config_path, os.environ) or "."


def packages(directory: str) -> tuple[str, ...]:
    """The arguments of pip that install what an application needs; empty if nothing there says it."""
    return next((arguments for file, arguments in REQUIREMENTS.items() if Path(directory, file).is_file()), ())


def dockerfile(one: Contained, base: str, needed: Sequence[str]) -> str:
    """Two stages, of which the second has neither pip nor what was only needed to build.

    Args:
        needed: pip's arguments for the application's own packages.
    """
    pip = ["/build/bin/python", "-m", "pip", "--python", "/opt/app/bin/python", "install", "--no-cache-dir"]
    own = f"clusterd[fast]=={version('clusterd')}"
    sources = "COPY . ./" if needed == (".",) else f"COPY {needed[1]} ./" if needed else ""
    install = "\n".join(filter(None, [sources, f"RUN {json.dumps([*pip, *needed, own])}"]))
    return f"""\
# Made by `clusterd generate docker`. No step needs a shell, and nothing runs as root.
ARG BASE={base}

FROM ${{BASE}} AS build
WORKDIR /src
RUN ["python3", "-m", "venv", "/build"]
RUN ["python3", "-m", "venv", "--without-pip", "/opt/app"]
{install}

FROM ${{BASE}}
COPY --from=build /opt/app /opt/app
ENV PATH=/opt/app/bin:/usr/local/bin:/usr/bin:/bin \\
    PYTHONDONTWRITEBYTECODE=1
WORKDIR {APP}
COPY . {APP}
USER {USER}:{USER}
EXPOSE {" ".join(str(port) for port in [*(port for _, port in one.ports), one.monitoring])}
STOPSIGNAL SIGTERM
# A start takes {one.startup} s at most: start_timeout twice, for the import and for the workers.
HEALTHCHECK --interval=10s --timeout=3s --start-period={one.startup}s CMD ["clusterd", "health", "ready"]
ENTRYPOINT ["clusterd"]
CMD {json.dumps(one.arguments)}
"""


def composed(one: Contained, image: str, cpus: float, memory: str) -> str:
    """A service of Compose, as confined as the manifests of Kubernetes are."""
    source = f"image: {json.dumps(image)}" if image else "build: ."
    ports = "".join(f'      - "{port}:{port}"\n' for _, port in one.ports)
    return f"""\
# Made by `clusterd generate compose`.
name: {one.name}
services:
  {one.name}:
    {source}
    command: {json.dumps(one.arguments)}
    environment:
      CLUSTERD_GRACE_PERIOD: {one.grace_period}
    # lame_duck, linger, drain_timeout and a second fit into it.
    stop_grace_period: {one.grace_period}
    restart: unless-stopped
    ports:
{ports}      - "127.0.0.1:{one.monitoring}:{one.monitoring}"
    healthcheck:
      test: ["CMD", "clusterd", "health", "ready"]
      interval: 10s
      timeout: 3s
      start_period: {one.startup}s
    read_only: true
    tmpfs: [/tmp]
    user: "{USER}:{USER}"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    # The primary is pid 1 and does what an init would.
    init: false
    deploy:
      resources:
        limits: {{cpus: "{cpus:g}", memory: {memory}}}
"""
