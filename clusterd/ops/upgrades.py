"""``POST /v1/upgrade``: the primary's own code is tried out, and then replaced in place."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from clusterd.errors import ClusterdError
from clusterd.ops.exchange import Answer, Response, error, json
from clusterd.ops.roles import Role
from clusterd.ops.routes import Call, Route


class Upgrades(Protocol):
    """What replaces the primary's own code; the composition root supplies it."""

    async def prove(self) -> None:
        """Try the new code; nothing changes.

        Raises:
            ClusterdError: it cannot be, and why.
        """

    def go(self) -> None:
        """Become the new code, a moment from now."""


class UpgradeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far."""

    check: Annotated[bool, Meta(description="only try the new code out")] = False


class Proven(msgspec.Struct, frozen=True):
    """The new code works."""

    begun: Annotated[bool, Meta(description="the primary becomes it now")]
    upgrades: Annotated[int, Meta(description="how often it was upgraded before")]


def route(upgrades: Upgrades | None, before: int, changed: Callable[..., Any]) -> Route:
    """The route.

    Args:
        upgrades: ``None`` in a primary that is a program of its own.
        before: how often the primary was upgraded.
        changed: told of each, with the call, the action and its fields.
    """

    def handle(call: Call) -> Answer:
        return asyncio.ensure_future(answer(call))

    async def answer(call: Call) -> Response:
        if upgrades is None:
            return error(409, "this primary is a program of its own, which its owner upgrades")
        try:
            await upgrades.prove()
        except ClusterdError as why:
            return error(409, str(why))
        changed(call, "upgrade", check=call.body.check)
        if not call.body.check:
            upgrades.go()
        return json(Proven(not call.body.check, before))

    return Route(
        "POST", "/v1/upgrade", Role.ADMIN, "The primary's own code is replaced in place.", handle, Proven,
        body=UpgradeBody, fails={409: "Not now, or the new code does not work; nothing has changed."},
    )  # fmt: skip
