"""uvicorn, the library: ``import uvicorn`` brings its command line along, click and multiprocessing with it.

Those are 2 MB of every service's zygote, and spread what workers touch over more pages. ``uvicorn.run`` and
``uvicorn.main`` get it when they are called.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_COMMAND_LINE = "uvicorn.main"


class _StandIn(ModuleType):
    """``uvicorn.main`` while ``uvicorn`` is imported, which asks it for ``Server``, ``main`` and ``run``."""

    def __getattr__(self, name: str) -> Any:
        if name == "Server":
            return import_module("uvicorn.server").Server
        if name.startswith("__"):
            raise AttributeError(name)

        def later(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(_COMMAND_LINE), name)(*args, **kwargs)

        return later


if "uvicorn" in sys.modules:
    import uvicorn
else:
    sys.modules[_COMMAND_LINE] = _StandIn(_COMMAND_LINE)
    try:
        import uvicorn
    finally:
        del sys.modules[_COMMAND_LINE]

from uvicorn.server import ServerState  # noqa: E402

__all__ = ["ServerState", "uvicorn"]
