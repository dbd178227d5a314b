"""structlog's renderers, without what they would bring along.

``structlog.dev`` imports rich where it finds it, for tracebacks that are not rendered here: 3.5 MB of every primary.
"""

import sys

_HIDDEN = "rich" not in sys.modules
if _HIDDEN:
    sys.modules["rich"] = None  # type: ignore[assignment]
from structlog.dev import ConsoleRenderer  # noqa: E402
from structlog.processors import JSONRenderer, LogfmtRenderer  # noqa: E402

if _HIDDEN:
    del sys.modules["rich"]

__all__ = ["ConsoleRenderer", "JSONRenderer", "LogfmtRenderer"]
