"""Which listening sockets there are: bound or inherited before anything else, exchanged by reloads, closed at the end.

One :class:`Dispatch` a listener: the connections of one that several pools name go in turn to all ready workers of all
of these pools, as if they were one; of a pool with several listeners each worker is in the rotation of each.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ..config.schema import Listener
from ..errors import HostError
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


def _queue(sock: socket.socket) -> tuple[int | None, int | None]:
    if sock.fileno() < 0:
        return 0, 0
    try:
        return sockets.accept_queue(sock.fileno())
    except OSError:
        return None, None


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """One listening socket that is served, or is about to be.

    Attributes:
        declared: its configuration, ``None`` if it has none.
        queue: who hands its connections on, or lets workers accept them.
    """

    opened: Opened
    queue: Dispatch | Shared
    declared: Listener | None
    address: str
    sockname: tuple[str, int]


class Listeners:
    """The listening sockets, by name; of the ``shared`` the workers accept by themselves.

    A reload may bring others: they are opened by :meth:`extend`, and by :meth:`settle` either they or those that they
    replace are closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: Mapping[str, Opened],
        on_short: Callable[[str], None],
        on_broken: Callable[[int], None],
        shared: Collection[str] = (),
        declared: Mapping[str, Listener] | None = None,
    ) -> None:
        self._loop = loop
        self._on_short = on_short
        self._on_broken = on_broken
        declared = declared or {}
        self.standing = {
            name: self._stand(name, one, name in shared, declared.get(name)) for name, one in opened.items()
        }
        self._tried: dict[int, dict[str, Standing]] = {}  # by generation
        self._leaving: dict[Standing, int] = {}  # the generation that has taken each away

    def _stand(self, name: str, one: Opened, shared: bool, declared: Listener | None) -> Standing:
        queue: Dispatch | Shared
        if shared:
            queue = Shared(self._loop, name, one.sock, inherited=one.inherited)
        else:
            queue = Dispatch(self._loop, name, one.sock, self._on_short, self._on_broken, inherited=one.inherited)
        return Standing(one, queue, declared, show(one.sock.getsockname()), _sockname(one.sock))

    @property
    def dispatch(self) -> dict[str, Dispatch | Shared]:
        """Who hands on the connections of each."""
        return {name: one.queue for name, one in self.standing.items()}

    @property
    def addresses(self) -> dict[str, str]:
        """Where each listens, for people."""
        return {name: one.address for name, one in self.standing.items()}

    @property
    def socknames(self) -> dict[str, tuple[str, int]]:
        """Host and port of each; of a unix socket its path and -1."""
        return {name: one.sockname for name, one in self.standing.items()}

    def queues(self) -> list[tuple[str, str, int | None, int | None]]:
        """Name, address, connections in the kernel's queue and its bound, of each; ``None`` is untold."""
        return [(name, one.address, *_queue(one.queue.sock)) for name, one in self.standing.items()]

    # -- reloads -------------------------------------------------------------------------------------------------

    def extend(self, generation: int, declared: Mapping[str, Listener], shared: Collection[str]) -> dict[str, Standing]:
        """The listeners of a generation that is to be tried out: those that there are already, and new ones.

        A socket is the same one if its address is, whatever its name. Nobody accepts from a new one before a worker of
        its generation is there.

        Raises:
            HostError: one of them cannot be had; the new ones are closed again.
        """
        known = {*self._trying(), *self.standing.values()}
        found: dict[str, Standing] = {}
        with ExitStack() as if_it_fails:
            for name, listener in declared.items():
                same = next((one for one in known if self._same(name, listener, one)), None)
                if same is None:
                    (one,) = open_all({name: listener}, activation.Activation()).values()
                    if_it_fails.callback(one.close)
                    found[name] = self._stand(name, one, name in shared, listener)
                    continue
                if (name in shared) is not isinstance(same.queue, Shared):
                    raise HostError(
                        f"listener {name}: a socket that is in use cannot change to or from scheduling none;"
                        " restart the service, or give it another address"
                    )
                if (
                    same.declared is not None
                    and same.declared.backlog != listener.backlog
                    and not same.opened.inherited
                ):
                    same.opened.sock.listen(listener.backlog)  # it may be said again (listen(2))
                found[name] = Standing(same.opened, same.queue, listener, same.address, same.sockname)
            if_it_fails.pop_all()
        self._tried[generation] = found
        return found

    def _trying(self) -> list[Standing]:
        """Those of generations that have no verdict yet."""
        return [one for tried in self._tried.values() for one in tried.values()]

    def _same(self, name: str, listener: Listener, one: Standing) -> bool:
        declared = one.declared
        if declared is None or declared.address != listener.address:
            return False
        chosen_by_kernel = listener.address.kind == "tcp" and listener.address.port == 0
        return not chosen_by_kernel or one.queue.name == name

    def settle(self, generation: int, promoted: bool, done: Callable[[], None]) -> None:
        """The generation has its verdict: close what served the other outcome only; ``done`` is called when that is.

        Connections that wait in a queue that is closed are handed on to workers that still have it.
        """
        tried = self._tried.pop(generation, {})
        before = self.standing
        if promoted:
            self.standing = tried
        kept = {
            id(one.queue) for one in [*self.standing.values(), *(o for t in self._tried.values() for o in t.values())]
        }
        rest = {id(one.queue): one for one in [*before.values(), *tried.values()] if id(one.queue) not in kept}
        self._leaving |= dict.fromkeys(rest.values(), generation)
        self._close([*rest.values()], True, done)

    # -- a successor of this process -----------------------------------------------------------------------------

    def keys(self) -> dict[str, Standing]:
        """Every socket once, by a key: its name, or what is no name for one that a reload has brought or taken away."""
        found = {id(one.queue): (name, one) for name, one in reversed(self.standing.items())}
        for number, one in enumerate([*self._trying(), *self._leaving]):
            found.setdefault(id(one.queue), (f"{number}:{one.queue.name}", one))
        return dict(found.values())

    def open_queues(self) -> list[Dispatch | Shared]:
        """Whose connections are handed on; those that are being closed take none any more."""
        return [one.queue for one in self.keys().values() if one not in self._leaving]

    @property
    def tried(self) -> Mapping[int, Mapping[str, Standing]]:
        """Those of generations that have no verdict yet."""
        return self._tried

    @property
    def leaving(self) -> Mapping[Standing, int]:
        """Those that are being closed, each with the generation that has taken it away."""
        return self._leaving

    @property
    def quiet(self) -> bool:
        """None has just been closed, which somebody has yet to be told."""
        return all(one.queue.sock.fileno() >= 0 for one in self._leaving)

    def take_up(
        self,
        further: Mapping[str, tuple[Opened, str, bool]],
        tried: Mapping[int, Mapping[str, str]],
        declared: Mapping[int, Mapping[str, Listener]],
        leaving: Mapping[str, int],
    ) -> dict[str, Standing]:
        """Those of a predecessor of this process that are not in force.

        Args:
            further: by key: the socket, the name of who hands its connections on, and whether workers accept.
            tried: by generation: the key of each, by name.
            declared: by generation: their configurations.
            leaving: by key, with the generation that has taken it away; they go on closing by :meth:`go_on_closing`.

        Returns:
            All of them, and those in force, by key.
        """
        found = {key: self._stand(name, one, shared, None) for key, (one, name, shared) in further.items()}
        found |= self.standing
        for generation, keys in tried.items():
            self._tried[generation] = {}
            for name, key in keys.items():
                one = found[key]
                same = Standing(one.opened, one.queue, declared[generation][name], one.address, one.sockname)
                self._tried[generation][name] = same
        self._leaving |= {found[key]: generation for key, generation in leaving.items()}
        return found

    def go_on_closing(self, done: Callable[[int], None]) -> None:
        """Close what a predecessor has begun to close; ``done`` is called with each generation of which that is all."""
        for generation in {*self._leaving.values()}:
            own = [one for one, number in self._leaving.items() if number == generation]
            self._close(own, True, lambda generation=generation: done(generation))  # type: ignore[misc]

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Close all of them, see :meth:`Dispatch.close`; ``done`` is called once when the last one has closed.

        A unix socket's file goes first: whoever comes from now on is refused by the path, and what is in the queue is
        accepted before the socket is closed.
        """
        for one in self._leaving:  # these have somebody who waits for them already: they are to hurry
            if not hand_on:
                one.queue.close(False, lambda: None)
        self._close(
            [*{id(one.queue): one for one in [*self.standing.values(), *self._trying()]}.values()], hand_on, done
        )

    def _close(self, standing: Sequence[Standing], hand_on: bool, done: Callable[[], None]) -> None:
        waiting = {id(one.queue) for one in standing}
        if not waiting:
            done()
            return

        def closed(one: Standing) -> None:
            self._leaving.pop(one, None)
            waiting.discard(id(one.queue))
            if not waiting:
                done()

        for one in standing:
            one.opened.remove()
            one.queue.close(hand_on, lambda one=one: closed(one))  # type: ignore[misc]

    def hurry(self) -> None:
        """Those that a reload has left behind have had their time."""
        for one in [*self._leaving]:
            one.queue.close(False, lambda: None)

    def remove_files(self) -> None:
        """Take away the files that we made."""
        for one in [*self.standing.values(), *self._trying()]:
            one.opened.remove()

    def discard(self) -> None:
        """At the very end: close what was accepted and could be handed to nobody."""
        for one in [*self.standing.values(), *self._trying(), *self._leaving]:
            one.queue.discard()
