"""How the service ends: its phases, and when one follows another. They only go forward.

An ordinary stop is: lame duck (not ready any more, still taking work), closing (what the kernel has accepted is handed
on), draining (workers finish what they have). Asked twice, or told to end now, it ends by force.
"""

from dataclasses import dataclass
from enum import StrEnum

from . import commands as c
from . import facts as f
from .moment import Moment
from .policy import StopPolicy


class Phase(StrEnum):
    """Where the service is in its life."""

    RUNNING = "running"
    LAME_DUCK = "lame_duck"
    CLOSING = "closing"
    DRAINING = "draining"
    ENDING = "ending"  # by force
    ENDED = "ended"


@dataclass(slots=True)
class Shutdown:
    """The service's phase, and how it is to end. Times in seconds on the core's clock.

    Attributes:
        until: when the present phase ends at the latest; ``None`` where that is not for the clock to say.
        drain_deadline: when workers that still run are killed; ``None`` before the drain is dated, and for never.
        code: the exit code.
        reason: one sentence for people.
        asked: an operator wants the end; else it is the service that fails.
        handing_on: ``CloseListeners`` is out, and with leave to hand on; ``None`` if it is not out.
        closed: the listeners are closed.
    """

    policy: StopPolicy
    phase: Phase = Phase.RUNNING
    until: float | None = None
    drain_deadline: float | None = None
    code: int = 0
    reason: str = ""
    asked: bool = False
    handing_on: bool | None = None
    closed: bool = False

    @property
    def workers_wanted(self) -> bool:
        """Ends are still made good: somebody must take what arrives."""
        return self.phase in (Phase.RUNNING, Phase.LAME_DUCK, Phase.CLOSING)

    def drain_by(self, now: float) -> float | None:
        """When a worker that is told to go at ``now`` will be killed: with the service's drain, where one is dated."""
        return self.drain_deadline if self.drain_deadline is not None else self.policy.drain_deadline(now)

    def postpone(self, late: float, least: float) -> None:
        """The primary was late itself: a dated drain ends later by so much, and not before ``least``."""
        if self.drain_deadline is not None:
            self.drain_deadline = max(self.drain_deadline + late, least)
            if self.phase is Phase.CLOSING:
                self.until = self.drain_deadline

    def ask(self, at_once: bool, serving: bool, moment: Moment) -> None:
        """An operator asks for the end, or for haste.

        Args:
            at_once: without a drain.
            serving: some worker is ready.
        """
        if self.phase is Phase.RUNNING:
            self.asked = True
            self._begin(0, "asked to stop", at_once, serving, moment)
        elif self.phase is not Phase.ENDING and (at_once or self.asked):
            moment.facts.append(f.StopBegan(True, self.reason))
            self._force(moment)
        else:
            self.asked = True  # the service was failing by itself; the operator joins in and asks for no haste

    def fail(self, reason: str, serving: bool, moment: Moment) -> None:
        """The service cannot go on. Workers that are ready still finish what they have."""
        if self.phase is Phase.RUNNING:
            self._begin(1, reason, False, serving, moment)

    def proceed(self, serving: bool, hopeless: bool, moment: Moment) -> None:
        """Go on to the phase that is due.

        Args:
            serving: some worker is ready.
            hopeless: none is, and none will be.
        """
        over = self.until is not None and self.until <= moment.now
        if self.phase is Phase.LAME_DUCK and over:
            self._close(serving, moment)
        elif self.phase is Phase.CLOSING and (self.closed or over or hopeless):
            self._drop_listeners(moment)
            self._enter(Phase.DRAINING, None, moment)

    def _begin(self, code: int, reason: str, at_once: bool, serving: bool, moment: Moment) -> None:
        self.code, self.reason = code, reason
        moment.facts.append(f.StopBegan(at_once, reason))
        if at_once:
            self._force(moment)
        elif self.policy.lame_duck and serving:
            self._enter(Phase.LAME_DUCK, moment.now + self.policy.lame_duck, moment)
        else:
            self._close(serving, moment)

    def _close(self, serving: bool, moment: Moment) -> None:
        self.drain_deadline = self.policy.drain_deadline(moment.now)
        if serving:
            self._enter(Phase.CLOSING, self.drain_deadline, moment)
            self.handing_on = True
            moment.commands.append(c.CloseListeners(hand_on=True))
        else:
            self._drop_listeners(moment)
            self._enter(Phase.DRAINING, None, moment)

    def _force(self, moment: Moment) -> None:
        self._enter(Phase.ENDING, None, moment)
        self._drop_listeners(moment)

    def _drop_listeners(self, moment: Moment) -> None:
        """Close them without handing on, unless they are closed already or that is under way."""
        if not self.closed and self.handing_on is not False:
            self.handing_on = False
            moment.commands.append(c.CloseListeners(hand_on=False))

    def _enter(self, phase: Phase, until: float | None, moment: Moment) -> None:
        self.phase, self.until = phase, until
        moment.facts.append(f.PhaseChanged(phase.value))
