"""A group of processes whose memory the test bounds when it wants to, in whichever version of cgroups has it here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.procfs import wait_for
from tests.real.harness import DEADLINE

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")

Files = dict[str, str]


class Group:
    """The group.

    Attributes:
        through: what goes before a command that is to be in it.
    """

    def __init__(self, path: Path, old: bool) -> None:
        self.path = path
        self.through = ["sh", "-ec", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(path)]
        self._limit, self._used, self._none = ("memory.max", "memory.current", "max")
        if old:
            self._limit, self._used, self._none = ("memory.limit_in_bytes", "memory.usage_in_bytes", "-1")
        # Where there is swap it is not to be used: what is too much is too much at once.
        for name, value in {"memory.swappiness": "0", "memory.swap.max": "0"}.items():
            if (path / name).exists():
                (path / name).write_text(value)

    @contextmanager
    def bounded(self, room: int) -> Iterator[None]:
        """Meanwhile it may have ``room`` bytes more than it has now, and the kernel kills for what is above."""
        (self.path / self._limit).write_text(str(int((self.path / self._used).read_text()) + room))
        try:
            yield
        finally:
            (self.path / self._limit).write_text(self._none)


@contextmanager
def group() -> Iterator[Group]:
    """A group of its own, which ends when its last process has."""
    old = V1.is_dir()
    made = Group(_make(V1 if old else V2), old)
    try:
        yield made
    finally:
        wait_for(lambda: not (made.path / "cgroup.procs").read_text(), DEADLINE, "the end of all in the group")
        made.path.rmdir()


def _make(root: Path) -> Path:
    controllers = root / "cgroup.subtree_control"
    if controllers.exists() and "memory" not in controllers.read_text().split():
        controllers.write_text("+memory")
    path = root / f"clusterd-test-{os.getpid()}"
    path.mkdir()
    return path
