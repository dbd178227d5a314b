"""From a listening socket to the mailboxes of its workers: in turn, bounded by the kernel, nothing held in between.

The primary accepts only when some box has room, so the kernel's backlog is the one queue there is. Nobody but the
primary writes to a box, so room that was seen is still there when the connection has been accepted.
"""

import asyncio
import errno
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from os import close
from time import monotonic_ns
from typing import Final

from ..errors import PeerError
from ..unix import sockets, synfilter
from ..unix.mail import SEND_FLAGS, Mail, Outbox, Posted
from ..wire import mail as letters
from ..wire.mail import head as letter_head
from .box import Box
from .loop import Loop
from .rotation import Rotation
from .thief import Thief

BATCH: Final = 16
"""Connections accepted in one turn of the loop, at most: everything else in the primary waits for them."""

CROWD: Final = 30_000
"""Nanoseconds from one connection to the next in which there was no time to sleep: more of them wait."""

PAUSE: Final = 0.1
"""Seconds without accepting after the kernel was short of descriptors or memory; a level-triggered poll would spin."""

_SENT: Final = Posted.SENT
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


__all__ = ["Box", "Dispatch"]


class Dispatch:
    """Hands the connections of one listener to its workers.

    Args:
        loop: the primary's loop.
        name: the listener's.
        sock: the listening socket, owned from here on.
        on_short: called with a sentence when the kernel is short of something, once until it is there again.
        on_broken: called with the id of a worker whose box does not take mail any more.
        inherited: the socket is shared with whoever passed it: it goes on listening when we have closed our end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        sock: socket.socket,
        on_short: Callable[[str], None],
        on_broken: Callable[[int], None],
        *,
        inherited: bool = False,
    ) -> None:
        self.name = name
        self._inherited = inherited
        self.sock = sock
        self._loop = loop
        self._on_short = on_short
        self._on_broken = on_broken
        self._rotation = Rotation()
        self._held: deque[tuple[bytes, int]] = deque()  # accepted, and handed to nobody yet: a worker died with it
        self._reading = False
        self._eager = isinstance(loop, Loop)
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self._more = poll.poll
        self._accept = sock._accept  # type: ignore[attr-defined]  # as sockets.accept has it
        self._last = 0  # when a connection was accepted: time.monotonic_ns()
        self._writers: list[int] = []
        self._pause: asyncio.TimerHandle | None = None
        self._short = False
        self._closed: Callable[[], None] | None = None
        self._empty_seen = 0
        self.thief = Thief(loop, self)
        self._robs = False  # some box may be robbed

    # -- the rotation --------------------------------------------------------------------------------------------

    def add(self, box: Box) -> None:
        """The worker joins the rotation, at its end."""
        self._rotation.add(box)
        self._robs = self._robs or box.steal_after > 0
        self._resume()

    @property
    def boxes(self) -> Sequence[Box]:
        """The boxes in the rotation, in its order."""
        return self._rotation.boxes

    def in_turn(self) -> list[Box]:
        """The boxes in the rotation, the one whose turn it is first."""
        return self._rotation.in_turn()

    @property
    def held(self) -> tuple[tuple[bytes, int], ...]:
        """What was accepted and handed to nobody yet, oldest first; it stays here."""
        return tuple(self._held)

    def remove(self, worker: int) -> None:
        """The worker is handed nothing more."""
        self._await_room(False)
        self._rotation.remove(worker)
        self._resume()

    def reclaim(self, mails: Sequence[Mail]) -> int:
        """Hand on what a dead worker had not taken, before anything that is accepted now; returns how many.

        The oldest first: they have waited longest.
        """
        count = 0
        for mail in mails:
            if mail.fd is None:
                continue
            try:
                letters.unpack(mail.payload)
            except PeerError:
                os.close(mail.fd)
                continue
            self._held.append((mail.payload, mail.fd))
            count += 1
        self._resume()
        return count

    # -- accepting -----------------------------------------------------------------------------------------------

    def _readable(self) -> bool:
        """Accept and hand on what waits, a batch at most; whether anything was asked of the loop.

        Every connection comes this way, most of them alone and to a processor whose caches others have filled: each
        function called costs a third of a microsecond then, and so what is done is written out (measured: 16 us a
        connection were 21). It is ``sockets.accept``, ``letters.pack`` and ``Outbox.post``, and the last two again
        where a post fails.
        """
        rotation, thief = self._rotation, self.thief
        boxes = rotation.boxes
        if turn := thief.late:
            thief.look()
        count = least = 0
        crowded = False
        while count < BATCH:
            # To ask whether there is one more costs a quarter of an accept that finds nothing. While they come in
            # crowds the last accept of a turn finds out; while they come one by one the loop itself asks, in waiting.
            if count and not crowded and (self._eager or not self._more(0)):
                break
            index = rotation.next
            box = boxes[index] if index < len(boxes) else None
            if box is not None and box.words[box.word] == box.last_ns and not box.robbed:
                index += 1  # most often; the rest is the rotation's
                rotation.after = index if index < len(boxes) else 0
            elif (box := rotation.choose(least)) is not None:
                least = rotation.least
            else:
                turn = thief.arm() or turn
                return self._resume() or turn
            try:
                fd, address = self._accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in sockets.LOST_BEFORE_ACCEPT:
                    count += 1
                    continue
                self._accept_failed(error)
                return True
            now = monotonic_ns()
            crowded = now - self._last < CROWD and not self._inherited
            self._last = now
            count += 1
            outbox = box.outbox
            try:
                if type(outbox) is Outbox:
                    if type(address) is tuple:
                        letter = letter_head(letters.VERSION, now, address[1]) + address[0].encode()
                    else:
                        letter = letter_head(letters.VERSION, now, 0)
                    outbox.passing[0] = fd
                    outbox.sendmsg((letter,), outbox.rights, SEND_FLAGS)
                    close(fd)
                    box.posted.append(now / 1e9)  # as the loop's clock has it
                else:
                    outbox.hand(fd, address, now)  # type: ignore[union-attr]  # there are two kinds
            except OSError:
                turn = True
                if self._hand(letters.of(address, now), fd, box):  # once more, and what follows from a failure
                    continue
                thief.arm()
                return True
            box.handed += 1
            box.last_ns = now
            rotation.next = rotation.after
        self._short = False
        return (self._robs and thief.timer is None and thief.arm()) or turn

    def give(self, mail: Mail, box: Box) -> None:
        """Hand on what was taken back from another's box, before anything that is accepted now."""
        if mail.fd is not None:
            self._hand(mail.payload, mail.fd, box)

    def wake(self) -> bool:
        """A box is in the rotation again, or has room: look. Whether anything was asked of the loop."""
        return not self._reading and self._resume()

    def _hand(self, letter: bytes, fd: int, box: Box) -> bool:
        """Post and close our copy; false if it had to be held, and accepting must wait."""
        posted = box.outbox.post(letter, fd)
        if posted is _SENT:
            if box.fd >= 0:  # a ``Newconn`` keeps it
                os.close(fd)
            box.handed += 1
            box.posted.append(self._loop.time())
            box.last_ns = -1  # it is not the youngest letter that there is
            self._rotation.next = self._rotation.after
            self.thief.arm()
            return True
        self._held.appendleft((letter, fd))  # it has waited longest of all that is held
        if posted is Posted.BROKEN:
            self.remove(box.worker)
            self._on_broken(box.worker)
        elif posted is Posted.SHORT:
            self._say_short("too many descriptors are in flight, or the kernel is short of memory")
            self._pause_for(PAUSE)
        else:
            box.doubt()  # it was full, whatever its worker said; else it would be chosen again and again
            self._resume()
        return False

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in _SHORT:
            self._say_short(f"cannot accept connections: {os.strerror(error.errno or 0)}")
            self._pause_for(PAUSE)
        elif self._closed is None:
            self._say_short(f"accept failed: {error}")
            self._pause_for(PAUSE)

    def _say_short(self, sentence: str) -> None:
        if not self._short:
            self._short = True
            self._on_short(f"listener {self.name}: {sentence}")

    # -- when to look --------------------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Watch what there is to wait for: held connections go first, then the listener, else room in a box.

        Whether anything was asked of the loop but to watch, which its selector does at once.
        """
        if self._pause is not None:
            return False
        turn = bool(self._held)
        while self._held and (box := self._rotation.choose()) is not None:
            letter, fd = self._held.popleft()
            if not self._hand(letter, fd, box):
                return True
        room = not self._held and any(not box.robbed and not box.outbox.full for box in self.boxes)
        self._await_room(bool(self.boxes) and not room)
        self._watch(room)
        if self._closed is not None:
            self._loop.call_soon(self._close_step)
        return turn or self._closed is not None

    def _watch(self, wanted: bool) -> None:
        wanted = wanted and self._closed is None and self.sock.fileno() >= 0
        if wanted and not self._reading:
            if isinstance(self._loop, Loop):
                self._loop.serve(self.sock.fileno(), self._readable)
            else:
                self._loop.add_reader(self.sock, self._readable)
        elif not wanted and self._reading:
            if isinstance(self._loop, Loop):
                self._loop.leave(self.sock.fileno())
            else:
                self._loop.remove_reader(self.sock)
        self._reading = wanted

    def _await_room(self, wanted: bool) -> None:
        for fd in self._writers:
            self._loop.remove_writer(fd)
        # A robbed box holds a probe at most and would poll writable for ever; the thief tells when it works again.
        writers = [box.outbox.fileno() for box in self.boxes if not box.robbed] if wanted else []
        self._writers = [fd for fd in writers if fd >= 0]  # what is no mailbox tells by itself (``wake``)
        for fd in self._writers:
            self._loop.add_writer(fd, self._resume)

    def _pause_for(self, seconds: float) -> None:
        self._watch(False)
        self._await_room(False)
        if self._pause is None:
            self._pause = self._loop.call_later(seconds, self._unpause)

    def _unpause(self) -> None:
        self._pause = None
        self._resume()

    # -- closing -------------------------------------------------------------------------------------------------

    def close(self, hand_on: bool, done: Callable[[], None]) -> None:
        """Take no new connection; hand on what the kernel has accepted, then close the socket.

        Args:
            hand_on: false closes at once; asked while a close is under way, it hurries that.
            done: called once, from the loop.
        """
        first = self._closed is None
        if first:
            self._closed = done
            if self._inherited:  # a filter would be on theirs too, for ever
                self.sock.setblocking(False)  # in case they have undone it: to accept until empty would hang
            else:
                synfilter.refuse_new(self.sock)
            self._watch(False)
        if not hand_on:
            self._finish_close()
        elif first:
            self._loop.call_soon(self._close_step)

    def _close_step(self) -> None:
        """Accept until empty, twice: the second time for those whose handshake the first one overlapped."""
        if self.sock.fileno() < 0 or self._pause is not None:
            return
        while self._empty_seen < 2:
            if self._held or (box := self._rotation.choose()) is None:
                if not self.boxes:
                    break  # nobody is left to take them
                self._await_room(True)
                return
            try:
                accepted = sockets.accept(self.sock)
            except OSError as error:
                if error.errno not in _SHORT:
                    break
                self._pause_for(PAUSE)
                return
            if accepted is None:
                self._empty_seen += 1
                continue
            fd, address = accepted
            if not self._hand(letters.of(address, monotonic_ns()), fd, box):
                return
        self._finish_close()

    def _finish_close(self) -> None:
        if self.sock.fileno() < 0:
            return
        self._watch(False)
        self._await_room(False)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self.sock.close()
        done, self._closed = self._closed, lambda: None
        if done is not None:
            self._loop.call_soon(done)

    def discard(self) -> int:
        """At the very end: close what was accepted and could be handed to nobody; returns how many."""
        self.thief.close()
        count = len(self._held)
        while self._held:
            os.close(self._held.popleft()[1])
        return count
