"""Figures for people: spans of time and sizes."""


def seconds(value: float) -> str:
    """A span of time for people: ``0.25 s``, ``12.3 s``, ``5 m 2 s``, ``3 h 20 m``, ``2 d 3 h``."""
    if value < 1:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} m"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def size(count: int) -> str:
    """Bytes for people: ``812 KiB``, ``43.1 MiB``, ``1.52 GiB``."""
    if count < 1024 * 1024:
        return f"{count / 1024:.0f} KiB"
    if count < 1024**3:
        return f"{count / 1024**2:.1f} MiB"
    return f"{count / 1024**3:.2f} GiB"
