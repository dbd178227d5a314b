"""States of primaries as each version wrote them: ``python -m tests.stored_state`` adds that of this version.

They are never written anew: the next version has to understand them (``tests/primary/test_handover.py``). Each is named
by the version of clusterd and, since the second, that of the document.
"""

from pathlib import Path

from clusterd.config.load import load
from clusterd.core import events as e
from clusterd.core.supervisor import Supervisor
from clusterd.primary import handed, handover, state
from clusterd.spawner.client import Left
from clusterd.unix import memfile
from clusterd.wire.suspended import Parcel, Suspended
from clusterd.wire.zygote import Load
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


def reloading() -> Supervisor:
    """The same, and a new generation of which the canary is ready and watched."""
    found = supervisor()
    found.handle(e.Reload(2, POLICY, frozenset({"web"})), 1010.01)
    found.handle(e.ZygoteReady("web", 2), 1010.02)
    (canary,) = (worker.id for worker in found.view().pools[0].workers if worker.generation == 2)
    found.handle(e.Spawned(canary), 1010.02)
    found.handle(e.Ready(canary), 1010.03)
    return found


def whole(version: str) -> handover.Handover:
    """A document with something of everything that this version hands on."""
    loaded = load(CONFIG, file="shop.toml", environ={})
    spoken = Load("shop", "web", 1, "shop:app", "auto", "auto", 1, None)
    zygotes = tuple(
        handover.ZygoteState("web", number, Left(number, 20 + number, 30 + number, True, False, "", "", "", spoken))
        for number in (1, 2)
    )
    parcel = Parcel(b'{"cmd":"NODE_HANDLE","type":"t","msg":{}}\n', 40, 1, sent=True)
    talk = Suspended(unread=b"{", asked=(5, 6), ahead=(6,), flying=(parcel,), waiting=(b"1\n",), window=4)
    box = handed.BoxState(-1, -1, handed=3, turn=0)
    seats = (handed.SeatState(7, box, handed.NewconnState(2, ((6, b"letter", 42),))),)
    server = handed.ServerState("k", "127.0.0.1:80", handed.SocketState(41), seats=seats)
    return handover.Handover(
        version=handover.VERSION,
        clusterd=version,
        config=loaded.config,
        loaded=loaded,
        hashes={2: loaded.sha256},
        tls={"web": {}},
        core=state.freeze(reloading()),
        children=(handover.ChildState(7, "web", 0, 1, 99, 10, 11, 12, 13, talk=talk, queues={"http": "0:http"}),),
        zygotes=zygotes,
        listeners={"http": handed.SocketState(17)},
        further={"0:http": handed.SocketState(18, name="http")},
        trials={2: handover.TrialState(loaded.config, {"web": {}}, {"http": "0:http"})},
        scripts=handover.ScriptsState({}, {"chat": (server,)}, (7,), (7,)),
        hooks={"web": handover.HookState("hooks:handle", 98, 43, 44, Suspended())},
        seq=9,
        generation=2,
    )


CONFIG = """
config_version = 1
[clusterd]
name = "shop"
run_dir = "/run/shop"
[listeners.http]
address = "127.0.0.1:0"
[pools.web]
app = "shop:app"
cwd = "/"
workers = 3
"""
"""Nothing in it is found out about the machine: any other reads the same."""


if __name__ == "__main__":
    from importlib.metadata import version

    target = STORED / f"{version('clusterd')}-{handover.VERSION}.msgpack"
    assert not target.exists(), "what a version has written is never written anew"
    STORED.mkdir(exist_ok=True)
    target.write_bytes(memfile.read(handover.write(whole(version("clusterd")))))
