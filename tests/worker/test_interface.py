"""Telling ASGI from WSGI: the forms in which applications come."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from clusterd.worker.asgi import interface_of, why
from clusterd.worker.interface import judge


async def asgi3(scope: Any, receive: Any, send: Any) -> None: ...


async def asgi3_bound(extra: Any, scope: Any, receive: Any, send: Any) -> None: ...


async def asgi3_anything(*args: Any, **kwargs: Any) -> None: ...


@functools.wraps(asgi3)
def asgi3_wrapped(*args: Any, **kwargs: Any) -> Any:
    return asgi3(*args, **kwargs)


def asgi3_plain(scope: Any, receive: Any, send: Any) -> Any: ...


def asgi2(scope: Any) -> Any: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class Asgi3Instance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Asgi3Awaited:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Iterator[None]:
        yield


def wsgi(environ: Any, start_response: Any) -> Any: ...


class WsgiInstance:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        yield b""


@pytest.mark.parametrize(
    ("app", "style"),
    [
        (asgi3, "asgi3"),
        (functools.partial(asgi3_bound, 1), "asgi3"),
        (functools.partial(functools.partial(asgi3_bound), 1), "asgi3"),
        (asgi3_anything, "asgi3"),
        (asgi3_wrapped, "asgi3"),
        (asgi3_plain, "asgi3"),
        (Asgi3Instance(), "asgi3"),
        (Asgi3Instance().__call__, "asgi3"),
        (Asgi3Awaited, "asgi3"),
        (FastAPI(), "asgi3"),
        (asgi2, "asgi2"),
        (Asgi2, "asgi2"),
    ],
)
def test_what_is_asgi(app: object, style: str) -> None:
    assert interface_of(app) == "asgi"
    assert judge(app).style == style


@pytest.mark.parametrize("app", [wsgi, WsgiInstance(), WsgiClass, functools.partial(wsgi)])
def test_what_is_wsgi(app: object) -> None:
    assert interface_of(app) == "wsgi"
    assert "environ" in why(app)


def _factory() -> object: ...


async def _one(request: Any) -> None: ...


def _anything(*args: Any) -> None: ...


def _four(a: Any, b: Any, c: Any, d: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        (3, "a int, which cannot be called"),
        (_factory, "put () behind its name"),
        (FastAPI, "put () behind FastAPI"),
        (_one, "a coroutine function, but of"),
        (_anything, "nothing can be told"),
        (_four, "neither ASGI nor WSGI"),
        (dict.fromkeys, "builtin"),
        (type, "class"),
    ],
)
def test_what_is_neither_or_cannot_be_told_has_a_reason(app: object, reason: str) -> None:
    assert interface_of(app) is None
    assert reason in why(app)
