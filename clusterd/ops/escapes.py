"""Text of others on a terminal: whoever can make an app print something must not steer who looks at it."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL_BUT_COLOUR = re.compile(r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _escaped(match: re.Match[str]) -> str:
    """A control character as ``\\x1b``."""
    return f"\\x{ord(match[0]):02x}"


def visible(text: str) -> str:
    """The text with every control character made visible, colours too; newlines and tabs stay."""
    return _CONTROL.sub(_escaped, text)


def harmless(text: str, *, colours: bool = False) -> str:
    """As :func:`visible`, but with the colours apart.

    Args:
        colours: let colours pass, and end them; otherwise they are taken out.
    """
    if not colours:
        return visible(_COLOUR.sub("", text))
    text = _CONTROL_BUT_COLOUR.sub(_escaped, text)
    return f"{text}\x1b[0m" if "\x1b" in text else text
