"""Takes the mail of blocked workers back for others, by the rule of :mod:`clusterd.core.stealing`.

While mail lies in any box somebody looks, every half ``steal_after``; a service without load costs nothing.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ..core.stealing import BoxView, Probe, Steal, is_late, steals
from ..unix import mail
from ..wire import mail as letters

if TYPE_CHECKING:
    from .box import Box
    from .dispatch import Dispatch

#: The shortest time between two looks, in seconds: at a hundred a second they cost less than one connection each.
SHORTEST = 0.005

#: Seconds that it is remembered, once or twice, how long mail had to wait.
REMEMBER = 1.0


@functools.cache
def _charge() -> int:
    """What the kernel charges a box for one message: our letters are all of the same small size class."""
    writing, reading = mail.pair()
    outbox, inbox = mail.Outbox(writing), mail.Inbox(reading)
    try:
        outbox.post(letters.pack("0000:0000:0000:0000:0000:0000:0000:0000", 65535, 0))
        return outbox.queued()
    finally:
        outbox.close()
        inbox.close()


class Thief:
    """Looks after the boxes of one listener.

    Args:
        loop: the primary's loop.
        dispatch: whose boxes; what is stolen is handed on through it.

    Attributes:
        on_steal: called with the id of the worker that had not taken it, for each connection taken back.
        late: mail is late and there was nobody to give it to.
        timer: of the next look; ``None`` while nothing was posted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatch: "Dispatch") -> None:
        self.on_steal: Callable[[int], None] = lambda worker: None
        self.late = False
        self._loop = loop
        self._dispatch = dispatch
        self.timer: asyncio.TimerHandle | None = None
        self._looked_at = 0.0
        self._waits = [0.0, 0.0]  # the longest that mail has lain that was taken: in this second, and in the last
        self._waits_since = 0.0
        self._charge = _charge()  # now: later there may be no descriptor for it

    def arm(self) -> bool:
        """Something was posted: look in a while. Whether a timer was set for it."""
        if self.timer is not None:
            return False
        pace = min((box.steal_after for box in self._dispatch.boxes if box.steal_after), default=0.0)
        if pace:
            self.timer = self._loop.call_later(max(SHORTEST, pace / 2), self._beat)
        return self.timer is not None

    def close(self) -> None:
        """Look no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _beat(self) -> None:
        self.timer = None
        self.look()
        waiting = [box.steal_after for box in self._dispatch.boxes if box.steal_after and (box.posted or box.robbed)]
        if waiting and self.timer is None:
            self.timer = self._loop.call_later(max(SHORTEST, min(waiting) / 2), self._beat)

    def look(self) -> None:
        """Move what is to be moved now.

        While there is :attr:`late` mail the dispatch asks for it before it accepts: by the clock alone, which asyncio
        turns after it has told what is readable, boxes are seen when they have just been filled, and under load late
        mail was seen to lie for 300 ms.
        """
        now = self._loop.time()
        boxes = {box.worker: box for box in self._dispatch.boxes if box.steal_after}
        if now - self._waits_since >= REMEMBER:
            self._waits, self._waits_since = [0.0, self._waits[0]], now
        self._excuse(boxes.values(), now)
        before, self._looked_at = self._looked_at, now
        for box in boxes.values():
            self._see(box, before, now)
        views = [BoxView(b.worker, tuple(b.posted), b.taken_at, b.robbed, b.steal_after) for b in boxes.values()]
        usual = max(self._waits)
        moves = steals(views, now, usual)
        late = sum(bool(view.untaken) and is_late(view, view.untaken[0], now, usual) for view in views)
        self.late = 0 < late < len(views)  # if all are, the machine is
        for move in moves:
            match move:
                case Steal(victim, taker):
                    self._steal(boxes[victim], boxes[taker])
                case Probe(worker):
                    self._probe(boxes[worker], now)

    def _excuse(self, boxes: "Collection[Box]", now: float) -> None:
        """What kept this process from looking in time kept the workers from taking: the mail is younger by that.

        A control group that is throttled stops all of them for a tenth of a second, and whoever runs first after it
        would look like one who works among the blocked.
        """
        begun = min((box.posted[0] for box in boxes if box.posted), default=now)
        pace = max(SHORTEST, min((box.steal_after for box in boxes), default=0.0) / 2)
        late = now - max(self._looked_at, begun) - pace
        if late > 0:
            for box in boxes:
                for index, posted in enumerate(box.posted):
                    box.posted[index] = min(posted + late, now)

    def _see(self, box: "Box", before: float, now: float) -> None:
        """How much of what was posted is still there, told by what the kernel charges for it.

        What has gone since ``before`` had lain at least until then: that is how long mail has to wait at present. The
        mail of one who was robbed tells nothing about the others.
        """
        untaken = -(-box.queued() // self._charge)
        if len(box.posted) > untaken:
            box.taken_at = now
            if not box.robbed:
                self._waits[0] = max(self._waits[0], before - box.posted[0])
            while len(box.posted) > untaken:
                box.posted.popleft()
            if box.robbed and not box.posted:
                box.robbed = False  # it has taken the probe: it works again
                self._dispatch.wake()

    def _steal(self, victim: "Box", taker: "Box") -> None:
        assert victim.inbox is not None
        try:
            os.close(os.dup(victim.inbox.fileno()))  # without a free descriptor the kernel would drop the connection
            got = victim.inbox.take()
        except (EOFError, OSError):
            return  # shut down by its worker, which the next post will tell; or a shortage, which the next look may not
        if got is None:
            return  # it has taken it this very moment
        if victim.posted:
            victim.posted.popleft()
        victim.robbed = True
        if got.fd is None:
            return  # a probe of ours
        if got.truncated:
            os.close(got.fd)
            return
        self.on_steal(victim.worker)
        self._dispatch.give(got, taker)

    def _probe(self, box: "Box", now: float) -> None:
        if box.outbox.post(letters.PROBE) is mail.Posted.SENT:
            box.posted.append(now)
