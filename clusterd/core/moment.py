"""One call of ``handle``: the time it is, and what comes of it.

It is made when an event comes in and returned when it has been dealt with, so that no output can wait for a later
call: a queue that outlives the call would need a law that says when to empty it.
"""

from dataclasses import dataclass, field

from .commands import Command
from .facts import Fact


@dataclass(slots=True)
class Moment:
    """What the rules are handed, and what they add to.

    Attributes:
        now: seconds on the core's clock.
        commands: what is to be done, in order.
        facts: what has become true, in order.
    """

    now: float
    commands: list[Command] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
