"""An upgrade in place, from the running side: the new code is proven, then this process becomes it.

The trial is the same interpreter with the same arguments and a copy of the state: it makes of that what the running one
has, its configuration and rules, and ends. Only then does the primary let go: it writes itself down, leaves a caretaker
with the listeners, and executes the new code under its own pid.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from ..errors import ClusterdError, HostError, Refused
from ..ops.logs import Log
from ..primary import caretaker, doors, handover
from ..primary.handover import Handover
from ..primary.service import Primary
from ..unix import batch, pidfd, signals, spawn

TRIAL: Final = 60.0
"""Seconds that the trial may take."""

QUIET: Final = 5.0
"""Seconds in which the primary has to be quiet for a moment."""

LOOK: Final = 0.005
"""Seconds between two looks whether it is."""

ANSWERED: Final = 0.05
"""Seconds until it begins to let go: whoever has asked for it is answered first."""

TURNS: Final = 3
"""Turns of the loop in which what a signal has left for it is dealt with."""

LONGEST_REPORT: Final = 4000
"""Characters of what a failed trial printed."""


class Upgrader:
    """Upgrades one primary.

    Args:
        primary: whose code is replaced.
        log: where it is told.
        describe: makes the handover: all that there is to hand on.
        silent: called with whether nobody will hear of this process for a while.
    """

    def __init__(
        self,
        primary: Primary,
        log: Log,
        describe: Callable[[], Handover],
        silent: Callable[[bool], None],
    ) -> None:
        self._silent = silent
        self._primary = primary
        self._log = log
        self._describe = describe
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Upgrade, and tell the log alone; nothing while one is under way."""
        self._begin(self._whole)

    async def prove(self) -> None:
        """Try the new code; nothing changes.

        Raises:
            Refused: the primary cannot be replaced now.
            HostError: the new code does not work.
        """
        async with self._turn:
            self._refuse_if_not_possible()
            await self._try_out(handover.write(self._describe()))

    def go(self) -> None:
        """Become the new code, a moment from now; nothing while one is under way."""
        self._begin(self._leave)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._told(work))

    async def _told(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except ClusterdError as error:
            self._log.emit("error", "upgrade_refused", reason=str(error))

    async def _whole(self) -> None:
        await self.prove()
        await self._leave()

    def _refuse_if_not_possible(self) -> None:
        if why := self._primary.why_no_upgrade():
            raise Refused(f"no upgrade now: {why}")

    # -- the trial -----------------------------------------------------------------------------------------------

    async def _try_out(self, state: int) -> None:
        """Run it; closes ``state``."""
        said = os.memfd_create("clusterd-trial", os.MFD_CLOEXEC)
        try:
            child = spawn.spawn(
                [*words(), "--upgrade-check", str(state)], env=os.environ, pass_fds=(state,), stdout=said, stderr=said
            )
            self._primary.helpers.add(child.pid)
            try:
                status = await _ended(child.pidfd, TRIAL)
            finally:
                self._primary.helpers.discard(child.pid)
                os.close(child.pidfd)
            if status != "exit code 0":
                text = os.pread(said, LONGEST_REPORT, max(0, os.fstat(said).st_size - LONGEST_REPORT))
                report = text.decode(errors="backslashreplace").strip()
                raise HostError(
                    f"the new code does not work, so the old goes on: {status}: {report or 'it said nothing'}"
                )
        finally:
            os.close(state)
            os.close(said)

    # -- letting go ----------------------------------------------------------------------------------------------

    async def _leave(self) -> None:
        await asyncio.sleep(ANSWERED)
        loop = asyncio.get_running_loop()
        end = loop.time() + QUIET
        # A signal that comes from now on waits for the successor; one that came before is dealt with in these turns.
        blocked = signals.block(doors.SIGNALS)
        try:
            while True:
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                self._refuse_if_not_possible()
                if self._primary.quiet():
                    self._become()
                if loop.time() > end:
                    raise Refused(f"no upgrade: the primary was not quiet for a moment in {QUIET:g} s")
                await asyncio.sleep(LOOK)
        finally:
            signals.unblock(set(doors.SIGNALS) - blocked)

    def _become(self) -> NoReturn:
        """From here on nothing is awaited: the loop does not turn any more."""
        left = self._describe()
        self._log.emit("info", "upgrading", reason="the new code was tried out; this process becomes it")
        self._log.flush()
        self._silent(True)
        opened: list[int] = []
        try:
            queues = [*self._primary.listeners.open_queues(), *self._primary.children.scripts.dispatches()]
            with batch.left():
                _, left.caretaker, left.counted = caretaker.fork(queues)
            opened += (left.caretaker, left.counted)
            state = handover.write(left)
            opened.append(state)
            handover.keep_open(left, state)
            self._primary.bury()
            back = json.dumps(left.command)
            environ = os.environ | left.environment | {handover.VARIABLE: str(state), handover.BACK: back}
            with batch.left():
                os.execve(sys.executable, words(), environ)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            handover.close_again(left)
            self._silent(False)
            raise HostError(f"this process cannot become the new code: {error}") from None


async def _ended(fd: int, within: float) -> str:
    """How a child ended; it is killed if that takes longer."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(fd, tell)
    late = ""
    try:
        async with asyncio.timeout(within):
            await asyncio.shield(ended)
    except TimeoutError:
        late = f"it took longer than {within:g} s; "
        pidfd.send_signal(fd, 9)
        await ended
    finally:
        loop.remove_reader(fd)
    return f"{late}{pidfd.wait(fd)}"


def words() -> list[str]:
    """What ran this process, as it was said: the same words run what stands there now."""
    return [sys.executable, *sys.orig_argv[1:]]
