"""Which listening sockets there are: bound or inherited before anything else, closed together at the end.

One :class:`Dispatch` a listener: the connections of one that several pools name go in turn to all ready workers of all
of these pools, as if they were one; of a pool with several listeners each worker is in the rotation of each.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ..config.schema import Listener
from ..unix import activation, local, sockets
from . import passed
from .dispatch import Dispatch
from .passed import show
from .shared import Shared


@dataclass(frozen=True, slots=True)
class Opened:
    """A listening socket.

    Attributes:
        sock: the socket.
        bound: its file, for its removal; ``None`` where there is none of ours.
        inherited: whoever passed it holds it too.
    """

    sock: socket.socket
    bound: local.Bound | None = None
    inherited: bool = False

    def remove(self) -> None:
        """Take away the file that we made; to be called before the socket is closed, harmless when repeated."""
        if self.bound is not None:
            self.bound.remove()

    def close(self) -> None:
        """Both."""
        self.remove()
        self.sock.close()


def open_all(
    listeners: Mapping[str, Listener], given: activation.Activation, kept: Mapping[str, Opened] | None = None
) -> dict[str, Opened]:
    """Find each listener's socket among those that were passed, or bind it, and listen.

    Args:
        listeners: by name.
        given: what the service manager passed; see :mod:`.passed` for how it is matched.
        kept: those that are there already, from before (:mod:`.kept`); owned from here on.

    Raises:
        HostError: one of them cannot be had, or something was passed that is not wanted; the others are closed again.
    """
    kept = kept or {}
    opened: dict[str, Opened] = {}
    with ExitStack() as if_it_fails:
        for one in kept.values():
            if_it_fails.callback(one.close)
        wanted = {name: listener for name, listener in listeners.items() if name not in kept}
        inherited = _inherited(wanted, given, if_it_fails)
        for name, listener in listeners.items():
            if name in kept:
                opened[name] = kept[name]
                continue
            sock = inherited.get(name)
            opened[name] = _bind(listener) if sock is None else Opened(sock, inherited=True)
            if_it_fails.callback(opened[name].close)
        if_it_fails.pop_all()
    return opened


def _inherited(
    listeners: Mapping[str, Listener], given: activation.Activation, if_it_fails: ExitStack
) -> dict[str, socket.socket]:
    numbers = {one.fd: one for one in given.passed}
    found: dict[str, socket.socket] = {}
    for name, listener in listeners.items():
        if listener.address.kind == "fd":
            fd = listener.address.fd
            shown = numbers.pop(fd, None) or f"descriptor {fd}"
            found[name] = activation.adopt(fd, f"listener {name}: {shown}", backlog=listener.backlog)
            if_it_fails.callback(found[name].close)
    candidates = []
    for one in numbers.values():
        candidates.append(passed.Candidate(one, activation.adopt(one.fd, str(one))))
        if_it_fails.callback(candidates[-1].sock.close)
    others = {name: listener.address for name, listener in listeners.items() if name not in found}
    return found | passed.match(candidates, others)


def _bind(listener: Listener) -> Opened:
    address = listener.address
    if address.kind == "tcp":
        return Opened(sockets.bind_tcp(address.host, address.port, listener.backlog))
    bound = local.bind_unix(address.path, listener.mode, listener.backlog, user=listener.user, group=listener.group)
    return Opened(bound.sock, bound)


def _sockname(sock: socket.socket) -> tuple[str, int]:
    """Host and port; of a unix socket its path and -1, as Node has it."""
    name = sock.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else (passed.path(name), -1)


class Listeners:
    """The dispatchers of all listeners, by name; in their place, of the ``shared``, those who let workers accept."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: Mapping[str, Opened],
        on_short: Callable[[str], None],
        on_broken: Callable[[int], None],
        shared: Collection[str] = (),
    ) -> None:
        self._opened = opened
        self.dispatch: dict[str, Dispatch | Shared] = {
            name: Shared(loop, name, one.sock, inherited=one.inherited)
            if name in shared
            else Dispatch(loop, name, one.sock, on_short, on_broken, inherited=one.inherited)
            for name, one in opened.items()
        }
        self.addresses = {name: show(one.sock.getsockname()) for name, one in opened.items()}
        self.socknames = {name: _sockname(one.sock) for name, one in opened.items()}

    def close(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Close all of them, see :meth:`Dispatch.close`; ``done`` is called once when the last one has closed.

        A unix socket's file goes first: whoever comes from now on is refused by the path, and what is in the queue is
        accepted before the socket is closed.
        """
        for one in self._opened.values():
            one.remove()
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
