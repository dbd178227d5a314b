"""Whose turn it is: round robin over the boxes of one listener's workers, those first that have least in them."""

from collections.abc import Iterable

from .box import Box


class Rotation:
    """The boxes, in their order. The turn passes on when a box gets something, not when it is chosen.

    Attributes:
        boxes: all that are in it.
        next: the index of the one whose turn it is.
        after: what ``next`` becomes when the one that was chosen last has got something.
        least: what that one held, in what its box counts in.
    """

    __slots__ = ("after", "boxes", "least", "next")

    def __init__(self, boxes: Iterable[Box] = ()) -> None:
        self.boxes: list[Box] = [*boxes]
        self.next = self.after = self.least = 0

    def add(self, box: Box) -> None:
        """It joins, at the end."""
        self.boxes.append(box)

    def remove(self, worker: int) -> bool:
        """The worker's box leaves; false if it was not in it."""
        for index, box in enumerate(self.boxes):
            if box.worker == worker:
                del self.boxes[index]
                if index < self.next:
                    self.next -= 1
                return True
        return False

    def in_turn(self) -> list[Box]:
        """All, the one whose turn it is first."""
        return [*self.boxes[self.next :], *self.boxes[: self.next]]

    def choose(self, least: int = 0) -> Box | None:
        """The next in turn of those that hold least; nobody, if none has room.

        Args:
            least: nobody held less than that a moment ago: whoever is found to hold no more is it. In a crowd of
                connections this is one question to the kernel for each, not one for every worker.
        """
        boxes = self.boxes
        count = len(boxes)
        chosen, fewest = -1, 0
        for step in range(count):
            index = self.next + step
            if index >= count:
                index -= count
            box = boxes[index]
            if box.robbed:
                continue
            queued = 0 if box.words[box.word] == box.last_ns else box.queued()
            if queued <= least:
                chosen, fewest = index, queued
                break
            if (chosen < 0 or queued < fewest) and queued < box.outbox.limit:
                chosen, fewest = index, queued
        if chosen < 0:
            return None
        self.after = chosen + 1 if chosen + 1 < count else 0
        self.least = fewest
        return boxes[chosen]
