"""An upgrade in place: the primary becomes what its command runs now, and nobody notices."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, IN_TURN, Launcher, Service, kill, merged
from tests.real.looking import LONG, PIDS, app, ask, children, descriptors, pids_of, start, upgraded

SLOW = app("""
import asyncio, os
async def answer(path):
    if path == "/slow":
        while not os.path.exists("end"):
            await asyncio.sleep(0.01)
    return os.getpid()
""")

PATIENT = {"pools": {"web": {"http": {"keep_alive": "120s"}}}}
"""Whatever the machine is busy with, a kept-alive connection is not closed for having been idle."""

pytestmark = pytest.mark.timeout(240)


def test_workers_connections_and_books_outlive_the_primarys_code(launcher: Launcher) -> None:
    service = start(launcher, app(PIDS), merged(PATIENT, IN_TURN))
    before = pids_of(service)
    uptime = service.status()["service"]["uptime"]
    with service.client() as client:
        client.request("GET", "/")
        assert client.getresponse().read()
        upgraded(service)
        client.request("GET", "/")
        assert client.getresponse().status == 200
    assert pids_of(service) == before
    assert {ask(service) for _ in range(4)} == set(before.values())
    assert service.status()["service"]["uptime"] > uptime
    metrics = service.metrics()
    assert metrics.value("clusterd_worker_starts_total", pool="web") == 2
    assert metrics.value("clusterd_connections_total", pool="web") == 5
    assert metrics.value("clusterd_http_requests_total", pool="web") == 6
    assert service.notified.count("READY=1") == 1


def test_a_request_in_flight_is_answered_and_a_dead_worker_replaced_afterwards(launcher: Launcher) -> None:
    service = start(launcher, SLOW)
    with service.client() as client:
        client.request("GET", "/slow")
        wait_for(lambda: service.metrics().value("clusterd_http_requests_in_flight") == 1, DEADLINE, "the request")
        upgraded(service)
        (launcher.folder / "end").touch()
        assert client.getresponse().status == 200
    victim = min(pids_of(service).values())
    mark = service.mark()
    kill(victim)
    service.wait_log("worker_exited", after=mark)
    service.wait_log("worker_ready", after=mark)
    assert victim not in pids_of(service).values()


def test_no_descriptor_and_no_process_is_left_by_many(launcher: Launcher) -> None:
    service = start(launcher, app(PIDS))
    upgraded(service)
    service.wait_log("zygote_ready", count=2)
    wait_for(lambda: len(children(service.pid)) == 3, DEADLINE, "two workers and a zygote")
    count = len(descriptors(service.pid))
    for times in (2, 3):
        upgraded(service, times)
        service.wait_log("zygote_ready", count=times + 1)
    wait_for(lambda: len(children(service.pid)) == 3, DEADLINE, "two workers and a zygote")
    wait_for(lambda: len(descriptors(service.pid)) <= count, DEADLINE, "as many descriptors as before")


def test_new_connections_are_answered_all_the_time(launcher: Launcher) -> None:
    service = start(launcher, app(PIDS))
    stop, answers, failures = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                answers.append(service.get().status)
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for times in (1, 2):
        upgraded(service, times)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(answers) == {200}
    # What the caretaker has handed on is in the books too; what was taken back and handed on again counts twice.
    wait_for(
        lambda: service.metrics().value("clusterd_connections_total", pool="web") >= len(answers),
        DEADLINE,
        f"{len(answers)} connections",
    )


def test_the_command_waits_for_it_and_tells_of_it(launcher: Launcher) -> None:
    service = start(launcher, app(PIDS))
    checked = service.cli("upgrade", "--check", timeout=LONG)
    assert (checked.returncode, checked.stdout) == (0, "the new code would take over\n")
    assert not service.logged("upgraded")
    done = service.cli("upgrade", timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert f"pid {service.pid} as before" in done.stdout
    service.wait_log("audit", action="upgrade", count=2)
    assert [record["check"] for record in service.logged("audit", action="upgrade")] == [True, False]


HELD = app("""
import asyncio, os
async def answer(path):
    if path == "/hold":
        while not os.path.exists("end"):
            await asyncio.sleep(0.01)
    return os.getpid()
""")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("restart",), "2 workers replaced\n"),
        (("restart", "web/0"), "1 worker replaced\n"),
        (("stop", "web"), "web: stopped\n"),
        (("stop", "web/0"), "web/0: held; `clusterd start web/0` fills it again\n"),
    ],
    ids=["restart", "restart of one", "stop", "stop of one"],
)
def test_who_waits_for_an_end_is_told_by_the_successor(launcher: Launcher, command: tuple[str, ...], said: str) -> None:
    """Two upgrades while a request keeps its worker from going; the command waits on, and tells what has come of it."""
    service = start(launcher, HELD, merged(PATIENT, {"shutdown": {"drain_timeout": "120s"}}))
    with service.client() as client:
        client.request("GET", "/hold")
        victim, slot = wait_for(lambda: busy(service), DEADLINE, "a worker with a request")
        words = [word.replace("web/0", f"web/{slot}") for word in command]
        told: list[subprocess.CompletedProcess[str]] = []
        waiting = threading.Thread(target=lambda: told.append(service.cli(*words, timeout=2 * LONG)))
        waiting.start()
        wait_for(lambda: service.logged("audit", action=named(command)), LONG, "the order")
        wait_for(lambda: any(one["state"] == "draining" for one in service.workers()), LONG, "a worker that drains")
        for times in (1, 2):
            upgraded(service, times)
        assert waiting.is_alive()
        (launcher.folder / "end").touch()
        assert client.getresponse().status == 200
    waiting.join()
    (done,) = told
    assert (done.returncode, done.stdout) == (0, said.replace("web/0", f"web/{slot}")), done.stderr
    assert victim not in pids_of(service).values()


def named(command: tuple[str, ...]) -> str:
    """The action in the log's audit."""
    return "hold" if command == ("stop", "web/0") else command[0]


def busy(service: Service) -> tuple[int, int] | None:
    """Pid and slot of a worker with a request."""
    return next(((one["pid"], one["slot"]) for one in service.workers() if one["in_flight"]), None)


@pytest.mark.parametrize("target", ["web", "web/1"])
def test_who_waits_for_a_start_is_told_by_the_successor(launcher: Launcher, target: str) -> None:
    """The pool's new worker takes its time to be ready, and meanwhile the primary becomes other code."""
    service = start(launcher, SLOW_START)
    assert service.cli("stop", target, timeout=LONG).returncode == 0
    (launcher.folder / "slow").touch()
    told: list[subprocess.CompletedProcess[str]] = []
    waiting = threading.Thread(target=lambda: told.append(service.cli("start", target, timeout=2 * LONG)))
    waiting.start()
    wait_for(lambda: any(one["state"] == "booting" for one in service.workers()), LONG, "a worker that starts")
    for times in (1, 2):
        upgraded(service, times)
    assert waiting.is_alive()
    (launcher.folder / "slow").unlink()
    waiting.join()
    (done,) = told
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{target}: ")
    assert service.status()["pools"][0]["ready"] == 2


SLOW_START = (
    app(PIDS)
    + """
async def app(scope, receive, send, served=app):
    import asyncio, os
    while scope["type"] == "lifespan" and os.path.exists("slow"):
        await asyncio.sleep(0.01)
    await served(scope, receive, send)
"""
)


MOOD = app("""
import os
async def answer(path):
    return [os.getpid(), os.environ["MOOD"]]
""")


def test_it_is_no_reload_whatever_has_become_of_the_file(launcher: Launcher) -> None:
    """A new environment, more workers, another format of the log; then something that is no TOML at all."""
    service = start(launcher, MOOD, {"pools": {"web": {"env": {"MOOD": "calm"}}}})
    path = launcher.folder / "clusterd.toml"
    before = path.read_text()
    path.write_text(before.replace("calm", "wild").replace("workers = 2", "workers = 3"))
    assert path.read_text().count("wild") == path.read_text().count("workers = 3") == 1
    upgraded(service)
    changed = path.read_text()
    path.write_text("pools = nothing of that\n")
    upgraded(service, 2)
    mark = service.mark()
    victim = min(pids_of(service).values())
    kill(victim)
    service.wait_log("worker_ready", after=mark)
    assert len(pids_of(service)) == 2
    assert {ask(service)[1] for _ in range(8)} == {"calm"}
    # What the file says is what a reload takes, as before.
    service.signal(signal.SIGHUP)
    assert service.wait_log("reload_ended", after=mark)["verdict"] == "refused"
    path.write_text(changed)
    mark = service.mark()
    service.signal(signal.SIGHUP)
    assert service.wait_log("reload_ended", after=mark)["verdict"] == "promoted"
    wait_for(lambda: len(pids_of(service)) == 3, DEADLINE, "a third worker")
    assert {ask(service)[1] for _ in range(8)} == {"wild"}


def test_new_code_that_does_not_work_is_found_out_before(launcher: Launcher) -> None:
    """The environment that runs it is broken meanwhile: as by a package that was half unpacked."""
    folder = launcher.folder / "broken"
    (folder / "clusterd").mkdir(parents=True)
    service = start(launcher, app(PIDS), env={"PYTHONPATH": os.fspath(folder)})
    before = pids_of(service)
    (folder / "clusterd" / "__init__.py").write_text("raise ImportError('half unpacked')\n")
    refused = service.cli("upgrade", timeout=LONG)
    assert refused.returncode == 4
    assert "half unpacked" in refused.stderr
    assert pids_of(service) == before
    assert service.get().status == 200
    (folder / "clusterd" / "__init__.py").unlink()
    (folder / "clusterd").rmdir()


IN_EARNEST = """
import os
if "CLUSTERD_UPGRADE" in os.environ:
"""
FAILS = {
    "when imported": "    import sys; sys.modules['clusterd.primary.bequest'] = None",
    "when it takes over": """
    def fail(*arguments):
        raise RuntimeError("it does not fit")
    import clusterd.primary.bequest
    clusterd.primary.bequest.adopt = fail
""",
}


@pytest.mark.parametrize("fails", FAILS.values(), ids=FAILS)
def test_code_that_fails_only_in_earnest_is_left_for_the_old(launcher: Launcher, tmp_path: Path, fails: str) -> None:
    """`current` is a link to an installation; the next one passes its trial and fails when it matters."""
    old, new, current = (tmp_path / name for name in ("old", "new", "current"))
    for place in (old, new):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", os.fspath(place)], check=True)
        site = next((place / "lib").glob("python*/site-packages"))
        (site / "here.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    root = Path(__file__).parents[2]
    site = next((new / "lib").glob("python*/site-packages"))
    (site / "sitecustomize.py").write_text(IN_EARNEST + fails)
    current.symlink_to(old)
    (launcher.folder / "app.py").write_text(app(PIDS))
    config = launcher.configuration()
    service = launcher.run(
        "--config", os.fspath(config), env={"PYTHONPATH": os.fspath(root)}, python=os.fspath(current / "bin/python")
    ).wait_ready()
    before = pids_of(service)
    current.unlink()
    current.symlink_to(new)
    service.signal(signal.SIGUSR2)
    service.wait_log("upgrade_failed", LONG)
    assert pids_of(service) == before
    assert ask(service) in before.values()
    assert service.status()["service"]["upgrades"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_it_is_kept(launcher: Launcher, number: signal.Signals) -> None:
    service = start(launcher, app(PIDS))
    service.signal(signal.SIGUSR2)
    service.wait_log("upgrading", LONG)
    service.signal(number)
    service.wait_log("upgraded", LONG)
    if number is signal.SIGTERM:
        assert service.wait_exit() == 0
    else:
        service.wait_log("reload_ended")
