"""``${VAR}`` and ``${VAR:-default}`` in the strings of a configuration; ``$$`` is a dollar sign."""

import re
from collections.abc import Mapping

# execve(2) takes no string longer than 32 pages, and a file of many short references to one long variable must not
# fill the memory.
MAX_RESULT = 128 * 1024
MAX_TOTAL = 4 * 1024 * 1024

_DOLLAR = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<inside>[^}]*)\})?")
_REFERENCE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-(?P<text>[\s\S]*))?")


class Substitution:
    """Replaces references to the variables of one environment; bounded over all the strings of a document."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._left = MAX_TOTAL

    def apply(self, text: str) -> str:
        """``text`` with its references replaced. A default stands in for a variable that is unset or empty (sh(1)).

        Raises:
            ValueError: says which reference cannot be replaced, and why.
        """
        result = _DOLLAR.sub(self._value, text)
        self._left -= len(result)
        if len(result) > MAX_RESULT or self._left < 0:
            raise ValueError("the variables make it too long: at most 128 KiB a string and 4 MiB a file")
        return result

    def _value(self, match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["inside"] is None:
            raise ValueError('a $ begins "${VAR}" or "${VAR:-default}"; write $$ for a dollar sign')
        reference = _REFERENCE.fullmatch(match["inside"])
        if reference is None:
            raise ValueError(
                f'expected "${{VAR}}" or "${{VAR:-default}}", found {match.group()!r:.80};'
                " a default holds no reference and no }"
            )
        if reference["text"] is not None and "${" in reference["text"]:
            raise ValueError(f"a default holds no reference itself: {match.group()!r:.80}")
        name, default = reference["name"], reference["text"]
        value = self._environ.get(name)
        if value is None and default is None:
            raise ValueError(f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-…}}")
        if not value and default is not None:
            return default
        value = value or ""
        try:
            value.encode()
        except UnicodeEncodeError:
            # What is not UTF-8 comes as lone surrogates, which neither logs nor JSON could tell later.
            raise ValueError(f"the environment variable {name} is not valid UTF-8") from None
        return value
