"""States of primaries as each version wrote them: ``python -m tests.stored_state`` adds that of this version.

They are never written anew: the next version has to understand them (``tests/primary/test_handover.py``).
"""

from pathlib import Path

from clusterd.core import events as e
from clusterd.core.supervisor import Supervisor
from clusterd.primary import handover, state
from clusterd.unix import memfile
from tests.world import pool_policy, service_policy

STORED = Path(__file__).parent / "primary" / "states"
POLICY = service_policy(pool_policy(workers=3))


def supervisor() -> Supervisor:
    """Three workers, of which the last has just crashed."""
    found = Supervisor(POLICY, "seed")
    found.handle(e.Start(), 1000.0)
    found.handle(e.ZygoteReady("web", 1), 1001.0)
    for worker in (1, 2, 3):
        found.handle(e.Spawned(worker), 1001.0)
        found.handle(e.Ready(worker), 1002.0)
    found.handle(e.Exited(3, 1, None), 1010.0)
    return found


if __name__ == "__main__":
    from importlib.metadata import version

    target = STORED / f"{version('clusterd')}.msgpack"
    assert not target.exists(), "what a version has written is never written anew"
    left = handover.Handover(clusterd=version("clusterd"), core=state.freeze(supervisor()))
    STORED.mkdir(exist_ok=True)
    target.write_bytes(memfile.read(handover.write(left)))
