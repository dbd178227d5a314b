"""Spans of time on the command line, written as in the configuration."""

import click

from clusterd.config.kinds import Site
from clusterd.config.vocabulary import DURATION


def seconds_of(text: str) -> float | None:
    """``90s``, ``5m``, ``250ms`` in seconds; ``None``: it is no such thing."""
    site = Site(base="")
    value = DURATION.read(text, site)
    return None if site.faults else float(value)


def span_option(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The callback of an option that takes a span."""
    if value is None:
        return None
    seconds = seconds_of(value)
    if seconds is None:
        raise click.BadParameter(f"expected a duration such as 30s, 5m; found {value!r:.60}", ctx, param)
    return seconds
