"""``clusterd doctor``: what on this host would bite."""

import os

import click

from clusterd.cli.host import BAD, NOTE, OK, WARNING, Finding, Host, Wanted, examine
from clusterd.errors import EXIT_FAILED

COLOURS = {OK: "green", NOTE: "cyan", WARNING: "yellow", BAD: "red"}


def wanted_of(config_path: str | None) -> Wanted | None:
    """What the configuration wants; ``None``: there is none.

    Raises:
        ConfigError: it cannot be used.
    """
    from clusterd.config import find_file, open_config
    from clusterd.unix.cgroup import cpu_count

    if find_file(config_path, os.environ) is None:
        return None
    config = open_config(config_path).config
    ports = {}
    for name, listener in config.listeners.items():
        if listener.address.kind == "tcp" and listener.address.port:
            ports[name] = listener.address.port
    if config.monitoring.address is not None and config.monitoring.address.port:
        ports["monitoring"] = config.monitoring.address.port
    return Wanted(
        backlogs={name: listener.backlog for name, listener in config.listeners.items()},
        ports=ports,
        workers=sum(pool.workers if isinstance(pool.workers, int) else cpu_count() for pool in config.pools.values()),
        run_dir=config.clusterd.run_dir,
        has_user=all(pool.user for pool in config.pools.values()),
    )


def line(finding: Finding) -> str:
    """A finding for people."""
    return f"{click.style(f'{finding.level:5}', COLOURS[finding.level])} {finding.subject}: {finding.says}"


@click.command()
@click.option("--config", "config_path", metavar="FILE", help="A configuration whose wishes are looked at too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(config_path: str | None, as_json: bool) -> None:
    """What on this host would bite a service: limits, kernel, cgroup, ports, privileges.

    Exits with 1 if clusterd cannot run here.
    """
    findings = examine(Host(), wanted_of(config_path))
    for finding in findings:
        if as_json:
            import json

            told = {"level": finding.level, "subject": finding.subject, "says": finding.says}
            click.echo(json.dumps(told, ensure_ascii=False))
        else:
            click.echo(line(finding))
    if any(finding.level == BAD for finding in findings):
        raise click.exceptions.Exit(EXIT_FAILED)
