"""The primary's event loop: asyncio's own, with a short way for what happens ten thousand times a second.

One turn of asyncio's loop costs 6 us around what is done in it, nearly as much as handing a connection over. So a
listener's callback is called while the selector waits, and asyncio turns only when something else has happened.
"""

import asyncio
import select
import selectors
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE
_READABLE: Final = select.EPOLLIN

EVENTS: Final = 32
"""Told at once, at most; the kernel tells the others next. By default room is made for a thousand, at every wait."""


class Selector(selectors.BaseSelector):
    """epoll, as ``selectors.EpollSelector``, and descriptors that are served at once.

    Args:
        on_error: called with what a served descriptor's callback raised.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._served: dict[int, Callable[[], bool]] = {}
        self._hasty: dict[int, Callable[[], bool]] = {}
        self._on_error = on_error

    # -- served at once ------------------------------------------------------------------------------------------

    def serve(self, fd: int, callback: Callable[[], bool]) -> None:
        """Have ``callback`` called whenever ``fd`` is readable; it says whether the loop has to turn afterwards.

        That is so whenever it has asked anything of the loop, a timer or a watch: the selector waits by what it was
        told before.
        """
        self._epoll.register(fd, select.EPOLLIN)
        self._served[fd] = callback

    def leave(self, fd: int) -> None:
        """No more calls for ``fd``, which is open still."""
        del self._served[fd]
        self._epoll.unregister(fd)

    def hasten(self, fd: int, callback: Callable[[], bool]) -> None:
        """As ``serve``, of a descriptor that is registered, in its reader's place, until it is not registered to be
        read any more."""
        self._hasty[fd] = callback

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait, and serve meanwhile; as the base class's otherwise."""
        poll, served, keys, hasty = self._epoll.poll, self._served, self._keys, self._hasty
        until = None if timeout is None else monotonic() + timeout
        ready: list[tuple[selectors.SelectorKey, int]] = []
        while True:
            turn = False
            for fd, event in poll(timeout, EVENTS):
                callback = served.get(fd) or (hasty.get(fd) if event == _READABLE else None)
                if callback is not None:
                    try:
                        turn = callback() or turn
                    except BaseException as error:
                        self._on_error(error)
                        turn = True
                elif (key := keys.get(fd)) is not None:  # a callback before it may have taken it out
                    mask = (event & ~select.EPOLLIN and _WRITE) | (event & ~select.EPOLLOUT and _READ)
                    mask &= key.events
                    if mask & _READ and fd in hasty:
                        mask &= ~_READ
                        try:
                            turn = hasty[fd]() or turn
                        except BaseException as error:
                            self._on_error(error)
                            turn = True
                        mask &= key.events if keys.get(fd) is key else 0
                    if mask:
                        ready.append((key, mask))
            if ready or turn:
                return ready
            if until is not None:
                timeout = until - monotonic()
                if timeout <= 0:
                    return ready

    # -- what asyncio wants of a selector ------------------------------------------------------------------------

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As the base class's."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._keys:
            raise KeyError(f"descriptor {fd} is registered already")
        self._epoll.register(fd, _mask(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As the base class's."""
        key = self.get_key(fileobj)
        if events != key.events:
            self._epoll.modify(key.fd, _mask(events))
            if not events & _READ:
                self._hasty.pop(key.fd, None)
        changed = self._keys[key.fd] = key._replace(events=events, data=data)
        return changed

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As the base class's; a descriptor that was closed before is taken out all the same."""
        key = self.get_key(fileobj)
        del self._keys[key.fd]
        self._hasty.pop(key.fd, None)
        try:
            self._epoll.unregister(key.fd)
        except OSError:
            pass
        return key

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As the base class's."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        found = self._keys.get(fd)
        if found is not None:
            return found
        for key in self._keys.values():  # it was closed before it was taken out, and does not know its number now
            if key.fileobj is fileobj:
                return key
        raise KeyError(f"{fileobj!r} is not registered")

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """The keys by descriptor."""
        return self._keys

    def close(self) -> None:
        """As the base class's."""
        self._epoll.close()
        self._keys.clear()
        self._served.clear()
        self._hasty.clear()


def _mask(events: int) -> int:
    return (select.EPOLLIN if events & _READ else 0) | (select.EPOLLOUT if events & _WRITE else 0)


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop over a :class:`Selector`."""

    def __init__(self) -> None:
        self._serving = Selector(self._failed)
        super().__init__(self._serving)

    def serve(self, fd: int, callback: Callable[[], bool]) -> None:
        """See :meth:`Selector.serve`."""
        self._serving.serve(fd, callback)

    def leave(self, fd: int) -> None:
        """See :meth:`Selector.leave`."""
        self._serving.leave(fd)

    def hasten(self, fd: int, callback: Callable[[], bool]) -> None:
        """See :meth:`Selector.hasten`."""
        self._serving.hasten(fd, callback)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        self.call_exception_handler({"message": "a listener's callback failed", "exception": error})
