"""From ``package.module:attribute`` to the application: the one place that imports the user's code."""

import importlib
import os
import sys
import traceback

from ..errors import AppError


class LoadError(AppError):
    """The application cannot be had. ``str()`` is one sentence; ``report`` adds the user's own traceback, if any."""

    def __init__(self, sentence: str, report: str = "") -> None:
        super().__init__(sentence)
        self.report = f"{sentence}\n{report}".rstrip()


def load(target: str, cwd: str | None = None) -> object:
    """Import the module and find the application in it.

    Args:
        target: ``package.module:attribute``; attributes may be dotted, and ``attribute()`` is called for the app.
        cwd: put first on ``sys.path``; ``None`` is the working directory, as ``python -m`` does it.

    Raises:
        LoadError: whatever the user's code did, ``sys.exit`` included. ``KeyboardInterrupt`` goes through.
    """
    place = os.getcwd() if cwd is None else cwd
    if place not in sys.path[:1]:
        sys.path.insert(0, place)
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise LoadError(f"{target!r} names no application: expected module:attribute, such as shop.asgi:app")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise LoadError(
                f"{target}: there is no module {error.name!r} in {place} or on the import path;"
                " check the spelling, the working directory (cwd) and the virtual environment"
            ) from None
        raise LoadError(f"{target}: importing {module_name} failed", _own_traceback(error)) from None
    except (Exception, SystemExit) as error:
        raise LoadError(_how(target, f"importing {module_name}", error), _own_traceback(error)) from None
    path, called = (attribute[:-2], True) if attribute.endswith("()") else (attribute, False)
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            known = ", ".join(sorted(n for n in vars(module) if not n.startswith("_"))[:20])
            raise LoadError(f"{target}: {module_name} has no attribute {path!r}; it has: {known}") from None
    if not called:
        return found
    if not callable(found):
        raise LoadError(f"{target}: {path} is a {type(found).__name__} and cannot be called; leave the () out")
    try:
        made: object = found()
    except (Exception, SystemExit) as error:
        raise LoadError(_how(target, f"{path}()", error), _own_traceback(error)) from None
    return made


def _how(target: str, what: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"{target}: {what} called sys.exit({error.code!r})"
    return f"{target}: {what} failed with {type(error).__name__}"


def _own_traceback(error: BaseException) -> str:
    """The traceback without our frames and importlib's: it begins where the user's code does."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == __file__
        or "importlib" in trace.tb_frame.f_code.co_filename  # "<frozen importlib._bootstrap>" and importlib/__init__.py
    ):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
