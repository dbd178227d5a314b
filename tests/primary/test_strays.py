"""Children that nobody announced: reaped when they have ended, ended when they have not, and never a known one."""

import os
import signal
import subprocess
import sys

import pytest

from clusterd.primary.strays import Orphans
from tests.procfs import wait_for

DEADLINE = 10.0


class Scene:
    def __init__(self) -> None:
        self.known: list[int] = []
        self.spawning = False
        self.told: list[str] = []
        self.orphans = Orphans(lambda: self.known, lambda: self.spawning, self.told.append)


def child(code: str) -> int:
    """A child that nobody waits for; it has said that it has begun."""
    process = subprocess.Popen([sys.executable, "-c", f"{code}"], stdout=subprocess.PIPE)
    process.returncode = 0  # subprocess must not reap it
    assert process.stdout
    process.stdout.read(1)
    process.stdout.close()
    return process.pid


STAYS = "import signal, os; os.write(1, b'x'); signal.pause()"
DEAF = "import signal, os; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(1, b'x'); signal.pause()"
ENDS = "import os; os.write(1, b'x'); os._exit(7)"


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_one_that_stays_is_asked_then_made_to_end_and_reaped() -> None:
    scene = Scene()
    polite, deaf = child(STAYS), child(DEAF)
    scene.orphans.look()
    assert len(scene.told) == 2
    wait_for(lambda: has_ended(polite), DEADLINE)
    assert not has_ended(deaf)
    scene.orphans.look()
    assert not exists(polite)
    wait_for(lambda: has_ended(deaf), DEADLINE)
    scene.orphans.look()
    assert not exists(deaf)
    assert len(scene.told) == 2


def test_the_end_of_the_primary_gives_no_time() -> None:
    scene = Scene()
    deaf = child(DEAF)
    scene.orphans.look(now=True)
    assert not exists(deaf)


def test_a_known_child_keeps_its_status() -> None:
    scene = Scene()
    pid = child(ENDS)
    scene.known = [pid]
    wait_for(lambda: has_ended(pid), DEADLINE)
    scene.orphans.look(now=True)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_nothing_is_touched_while_a_fork_is_on_its_way() -> None:
    scene = Scene()
    pid = child(ENDS)
    scene.spawning = True
    wait_for(lambda: has_ended(pid), DEADLINE)
    scene.orphans.look(now=True)
    assert exists(pid)
    scene.spawning = False
    scene.orphans.look()
    assert not exists(pid)


def test_one_from_before_is_let_be_and_reaped_at_its_end() -> None:
    before = child(STAYS)
    scene = Scene()
    scene.orphans.look(now=True)
    scene.orphans.look(now=True)
    assert not has_ended(before)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: has_ended(before), DEADLINE)
    scene.orphans.look()
    assert not exists(before)
    assert scene.told == []


def test_a_look_without_descriptors_is_put_off() -> None:
    import resource

    scene = Scene()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        scene.orphans.look()
    except OSError as error:
        pytest.fail(str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
