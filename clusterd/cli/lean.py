"""What a primary imports of others, without what they bring along and it never uses: 5 MB of each primary.

Imported by ``run`` before whatever else imports these libraries. What is hidden is hidden only meanwhile: who imports
it later gets it.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

ABSENT = ("ssl", "typing_extensions")
"""asyncio does without the one: a primary hands connections over and speaks TLS to nobody (1.7 MB with OpenSSL's own);
msgspec without the other, which has what ``typing`` has in this Python (0.5 MB)."""

BUILT_IN_HASHES = ("_blake2", "_md5", "_sha1", "_sha3")
"""Python's own, of which some distributions leave some out. With all of them hashlib needs no ``_hashlib``, which maps
OpenSSL's libcrypto (2.2 MB) for the one digest that a primary makes: of its configuration."""

UNUSED = (
    "gzip",
    "http.server",
    "socketserver",
    "ssl",
    "urllib.error",
    "urllib.request",
    "wsgiref",
    "wsgiref.simple_server",
)
"""prometheus_client's own web server and its client for a push gateway (3 MB); ``http.server`` brings all of email."""


class _StandIn(ModuleType):
    """A module in which every name is an empty class, for ``from it import Base`` and ``class Derived(Base)``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


@contextmanager
def without(*names: str) -> Iterator[None]:
    """While it lasts these modules cannot be imported; those that were imported already stay."""
    with _hidden(names, stand_in=False):
        yield


@contextmanager
def _hidden(names: tuple[str, ...], *, stand_in: bool) -> Iterator[None]:
    """While it lasts these modules cannot be imported, or are stand-ins; those that were imported already stay."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = _StandIn(name) if stand_in else None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def load() -> None:
    """Import them."""
    with _hidden(ABSENT, stand_in=False):
        import asyncio  # noqa: F401

        import msgspec  # noqa: F401
    with _hidden(UNUSED, stand_in=True):
        import prometheus_client  # noqa: F401
    if all(map(find_spec, (*BUILT_IN_HASHES, "_sha256" if sys.version_info < (3, 12) else "_sha2"))):
        with _hidden(("_hashlib",), stand_in=False):
            import hashlib  # noqa: F401


def installed_version() -> str:
    """The version of the package, by the name of its metadata's directory: ``importlib.metadata`` is 2 MB.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue  # a zip file, or nothing
        for name in names:
            if found := re.fullmatch(r"clusterd-([^-]+)\.(?:dist|egg)-info", name):
                return found[1]
    from importlib.metadata import version

    return version("clusterd")
