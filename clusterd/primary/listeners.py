"""Which listening sockets there are: opened from the configuration before anything else, closed together at the end."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping

from ..config.schema import Listener
from ..unix import sockets
from .dispatch import Dispatch


def show(name: object) -> str:
    """A socket's own address as people write it."""
    if isinstance(name, tuple):
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{os.fsdecode(name) if isinstance(name, bytes) else name}"


def open_all(listeners: Mapping[str, Listener]) -> dict[str, socket.socket]:
    """Bind and listen on every listener.

    Raises:
        HostError: one of them cannot be had; the others are closed again.
    """
    opened: dict[str, socket.socket] = {}
    try:
        for name, listener in listeners.items():
            address = listener.address
            opened[name] = sockets.bind_tcp(address.host, address.port, listener.backlog)
    except BaseException:
        for sock in opened.values():
            sock.close()
        raise
    return opened


class Listeners:
    """The dispatchers of all listeners, by name."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: Mapping[str, socket.socket],
        on_short: Callable[[str], None],
        on_broken: Callable[[int], None],
    ) -> None:
        self.dispatch = {name: Dispatch(loop, name, sock, on_short, on_broken) for name, sock in opened.items()}
        self.addresses = {name: show(sock.getsockname()) for name, sock in opened.items()}
        self.socknames = {name: sock.getsockname()[:2] for name, sock in opened.items()}

    def close(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Close all of them, see :meth:`Dispatch.close`; ``done`` is called once when the last one has closed."""
        waiting = set(self.dispatch)
        if not waiting:
            done()
            return

        def closed(name: str) -> None:
            waiting.discard(name)
            if not waiting:
                done()

        for name, dispatch in self.dispatch.items():
            dispatch.close(hand_on, lambda name=name: closed(name))  # type: ignore[misc]
