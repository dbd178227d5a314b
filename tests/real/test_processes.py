"""The processes, for real: who is whose parent, and what a worker is born with."""

import os
import signal
from pathlib import Path

from clusterd.wire import stacks
from clusterd.worker import orphaned
from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher, kill
from tests.real.looking import app, ask, children, descriptors, fields, pids_of, start, title, upgraded, zygote


def test_workers_are_the_primarys_children_and_the_zygote_is_nobodys_parent(launcher: Launcher) -> None:
    service = start(launcher, app())
    workers = set(pids_of(service).values())
    forker = zygote(service)
    assert {*workers, forker} == set(children(service.pid))
    assert children(forker) == []
    assert len(fields(forker)["Threads"]) == 1
    assert title(service.pid) == "clusterd: test primary"
    assert title(forker) == "clusterd: test zygote web/1"
    assert sorted(title(pid) for pid in workers) == ["clusterd: test worker web/0", "clusterd: test worker web/1"]


def test_the_primary_waits_for_its_turn_and_nobody_else_does(launcher: Launcher) -> None:
    service = start(launcher, app())
    assert os.sched_getscheduler(service.pid) == os.SCHED_BATCH
    assert {os.sched_getscheduler(pid) for pid in children(service.pid)} == {os.SCHED_OTHER}
    before = pids_of(service)
    kill(min(before.values()))
    wait_for(
        lambda: len({pid for pid in pids_of(service).values() if pid} - {min(before.values())}) == 2,
        DEADLINE,
        "a successor",
    )
    upgraded(service)
    assert service.cli("reload").returncode == 0
    assert os.sched_getscheduler(service.pid) == os.SCHED_BATCH
    assert {os.sched_getscheduler(pid) for pid in children(service.pid)} == {os.SCHED_OTHER}


def test_the_primary_never_imports_the_app(launcher: Launcher) -> None:
    log = launcher.folder / "imported"
    service = start(
        launcher,
        app(f"""
import os
with open({str(log)!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
async def answer(path):
    return os.getpid()
"""),
    )
    assert [int(line) for line in log.read_text().split()] == [zygote(service)]  # once, for all workers
    assert ask(service) in pids_of(service).values()
    assert str(launcher.folder / "app.py") not in Path(f"/proc/{service.pid}/maps").read_text()


def test_the_primary_forks_from_its_main_thread_and_adopts(launcher: Launcher) -> None:
    service = start(launcher, app())
    tasks = Path(f"/proc/{service.pid}/task")
    assert [task.name for task in tasks.iterdir() if (task / "children").read_text().split()] == [str(service.pid)]


def test_a_worker_is_born_clean(launcher: Launcher) -> None:
    """Process group, signals, descriptors, memory rank, environment and randomness of a worker."""
    source = """
import os, random, signal
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
signal.signal(signal.SIGINT, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
first = random.random()
async def answer(path):
    import uuid
    return {
        "pid": os.getpid(), "group": os.getpgid(0), "random": random.random(), "inherited": first,
        "environ": dict(os.environ), "oom": open("/proc/self/oom_score_adj").read().strip(),
    }
"""
    given = {
        "LISTEN_PID": "1",
        "LISTEN_FDS": "0",
        "LISTEN_FDNAMES": "x",
        "WATCHDOG_USEC": "1000000",
        "NODE_UNIQUE_ID": "7",
        "OWN": "kept",
    }
    settings = {"pools": {"web": {"env": {"ADDED": "yes"}}}}
    service = start(launcher, app(source), settings, env=given)
    answers = [ask(service) for _ in range(4)]
    assert len({answer["pid"] for answer in answers}) == 2
    assert len({answer["random"] for answer in answers}) == 4
    assert len({answer["inherited"] for answer in answers}) == 1
    for answer in answers:
        pid, environ = answer["pid"], answer["environ"]
        assert answer["group"] == pid
        assert answer["oom"] == "300"
        assert environ["OWN"] == "kept"
        assert environ["ADDED"] == "yes"
        assert environ["CLUSTERD_RUN_DIR"] == str(service.run_dir)
        assert not [name for name in environ if name.startswith(("NOTIFY_", "LISTEN_", "WATCHDOG_", "NODE_"))]
        own = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
        assert dict(entry.split("=", 1) for entry in own).items() <= environ.items()
        status = fields(pid)
        assert int(status["SigBlk"], 16) == 0
        # Without 32 and 33: the C library keeps these for itself, nobody can set them, and one that posix_spawn(3)
        # once started may have been left with them ignored, as all its descendants then are.
        ignored = {number for number in signal.valid_signals() if int(status["SigIgn"], 16) >> (number - 1) & 1}
        assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}
        caught = {number for number in range(1, 65) if int(status["SigCgt"], 16) >> (number - 1) & 1}
        assert caught == {signal.SIGINT, signal.SIGTERM, stacks.SIGNAL, orphaned.SIGNAL, 16}  # 16 s after the primary
    assert os.getpgid(zygote(service)) == zygote(service)


def test_a_worker_has_no_descriptors_but_its_own(launcher: Launcher) -> None:
    """Channel, scoreboard, stacks, mailbox, the end of the lifeline, output with its reading ends, the service's; and
    what its loop opens."""
    service = start(launcher, app())
    of_service = descriptors(service.pid)
    one, other = (descriptors(pid) for pid in pids_of(service).values())
    for found in (one, other):
        assert found[0] == "/dev/null"
        assert sorted(what for what in found.values() if "memfd" in what) == [
            "/memfd:scoreboard (deleted)",
            "/memfd:stacks (deleted)",
        ]
        assert not [what for what in found.values() if "pidfd" in what]
        # The mailbox's reading end is one socket that the primary holds too; nothing else is.
        assert len({what for what in found.values() if what.startswith("socket:")} & set(of_service.values())) == 1
        for fd in (1, 2):
            assert list(found.values()).count(found[fd]) == 2  # its own reading end is held too
            assert found[fd] in of_service.values()
        kinds = {what.partition(":")[0] for what in found.values()}
        assert kinds - {"socket", "pipe", "anon_inode", "/memfd", "/dev/null"} <= {
            what for what in found.values() if what.endswith("/statm")
        }
    shared = {what for what in set(one.values()) & set(other.values()) if what.startswith(("socket:", "pipe:"))}
    assert shared > {of_service[1], of_service[2]}
    (lifeline,) = shared - {of_service[1], of_service[2]}
    assert list(of_service.values()).count(lifeline) == 1


def test_a_file_and_a_listening_socket_opened_at_import_stay_usable(launcher: Launcher) -> None:
    source = """
import socket
file = open(__file__)
listener = socket.create_server(("127.0.0.1", 0))
async def answer(path):
    file.seek(0)
    with socket.create_connection(listener.getsockname()) as client:
        accepted, address = listener.accept()
        accepted.close()
        return [file.read(7), address == client.getsockname()]
"""
    service = start(launcher, app(source), workers=1)
    assert ask(service) == ["\nimport", True]
    assert service.wait_log("zygote_ready")["preloaded"] is True


def test_the_pools_own_world_is_in_force_from_the_first_instruction(launcher: Launcher) -> None:
    """Environment, directory, umask and limits, in the zygote when it imports and in the worker when it serves."""
    place = launcher.folder / "place"
    place.mkdir()
    source = """
import os, resource
def look():
    mask = os.umask(0)
    os.umask(mask)
    limits = [resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("NOFILE", "CORE", "AS")]
    return [os.getcwd(), oct(mask), os.environ["MODE"], *limits]
then = look()
async def answer(path):
    return [then, look()]
"""
    (place / "app.py").write_text(app(source))
    pool = {
        "cwd": str(place),
        "umask": "027",
        "env": {"MODE": "test"},
        "limits": {"nofile": 500, "core": 0, "memory": "4GiB"},
    }
    service = start(launcher, "raise AssertionError('the wrong one')", {"pools": {"web": pool}})
    expected = [str(place), "0o27", "test", [500, 500], [0, 0], [4 << 30, 4 << 30]]
    assert ask(service) == [expected, expected]
