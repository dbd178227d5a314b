"""Telling an ASGI application from a WSGI one, without calling it."""

import functools
import inspect
from typing import Any, Literal, NamedTuple


class Judgement(NamedTuple):
    """What an application seems to be.

    Attributes:
        interface: ``None`` if it is neither, or cannot be told.
        style: uvicorn's name of the interface; ``auto`` leaves it to uvicorn.
        reason: as the end of a sentence about the application.
    """

    interface: Literal["asgi", "wsgi"] | None
    style: Literal["auto", "asgi3", "asgi2"]
    reason: str


def judge(app: Any) -> Judgement:
    """Look at how ``app`` can be called.

    ASGI 3 is called with scope, receive and send and gives an awaitable; ASGI 2 with scope alone and gives a callable;
    WSGI (PEP 3333) with environ and start_response.
    """
    if not callable(app):
        return Judgement(None, "auto", f"it is a {type(app).__name__}, which cannot be called")
    if inspect.isclass(app):
        return _judge_class(app)
    call = _called(app)
    if inspect.isbuiltin(call):
        return Judgement(None, "auto", "it is a builtin function")
    asynchronous = inspect.iscoroutinefunction(inspect.unwrap(call)) or inspect.iscoroutinefunction(call)
    try:
        signature = inspect.signature(app)
    except (ValueError, TypeError):
        return Judgement(None, "auto", "how it is called cannot be found out")
    if asynchronous:
        if _takes(signature, 3):
            return Judgement("asgi", "asgi3", "it is a coroutine function of scope, receive and send")
        return Judgement(None, "auto", f"it is a coroutine function, but of {signature}: ASGI has scope, receive, send")
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        return Judgement(None, "auto", f"it takes whatever it is given, {signature}, so nothing can be told")
    if _takes(signature, 2):
        return Judgement("wsgi", "auto", "it takes environ and start_response")
    if _takes(signature, 3):
        return Judgement("asgi", "asgi3", "it takes scope, receive and send")
    if _takes(signature, 1):
        return Judgement("asgi", "asgi2", "it takes scope alone, as ASGI 2 has it")
    if _takes(signature, 0):
        return Judgement(None, "auto", "it takes no arguments: if it makes the application, put () behind its name")
    return Judgement(None, "auto", f"it is called as {signature}, which is neither ASGI nor WSGI")


def _called(app: Any) -> Any:
    """The function that a call of ``app`` comes to."""
    while isinstance(app, functools.partial):
        app = app.func
    return app if inspect.isroutine(app) else type(app).__call__


def _judge_class(app: type[Any]) -> Judgement:
    """A class is called to make an instance that serves one request."""
    try:
        signature = inspect.signature(app)
    except (ValueError, TypeError):
        return Judgement(None, "auto", "it is a class, and how it is called cannot be found out")
    if hasattr(app, "__await__") and _takes(signature, 3):
        return Judgement("asgi", "asgi3", "it is a class of scope, receive and send whose instances are awaited")
    if hasattr(app, "__iter__") and _takes(signature, 2):
        return Judgement("wsgi", "auto", "it is a class of environ and start_response whose instances are iterated")
    if any("__call__" in vars(base) for base in app.__mro__) and _takes(signature, 1):
        return Judgement("asgi", "asgi2", "it is a class of scope whose instances are called, as ASGI 2 has it")
    return Judgement(None, "auto", f"it is a class: if its instances are applications, put () behind {app.__name__}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    """Whether it can be called with so many positional arguments, none of them a default's place."""
    try:
        bound = signature.bind(*range(count))
    except TypeError:
        return False
    return all(
        parameter.default is parameter.empty or name not in bound.arguments
        for name, parameter in signature.parameters.items()
    )
