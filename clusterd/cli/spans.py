"""Spans of time on the command line, written as in the configuration."""

from clusterd.config.kinds import Site
from clusterd.config.vocabulary import DURATION


def seconds_of(text: str) -> float | None:
    """``90s``, ``5m``, ``250ms`` in seconds; ``None``: it is no such thing."""
    site = Site(base="")
    value = DURATION.read(text, site)
    return None if site.faults else float(value)
