"""Every command that talks to a running service: with one that runs, with none, with one that is frozen, of another
version, or another user's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.cli import COMMANDS
from clusterd.errors import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_OK, EXIT_REFUSED, EXIT_TIMED_OUT
from tests.ops.serving import serving_unix
from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher, Service, Settings, merged
from tests.real.looking import AT_ONCE, app, ask, start
from tests.real.playground import APP, LIVES, own_launcher, up
from tests.real.terminal import Terminal

TALKING = {
    "status": (), "list": (), "ls": (), "describe": ("web/0",), "events": ("--no-follow",), "health": (),
    "logs": (), "scale": ("web", "+0"), "stacks": ("web/0",), "shutdown": (), "top": (), "monit": (),
    "reload": (), "restart": (), "start": ("web",), "stop": ("web",), "upgrade": ("--check",),
}  # fmt: skip
"""Commands that talk to a running service, and arguments."""

LOCAL = {"run", "check", "explain", "schema", "generate", "init", "doctor", "completions"}
"""Commands that talk to none."""

NAMES = sorted(TALKING)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with own_launcher(tmp_path_factory.mktemp("service")) as launcher:
        yield up(launcher, LIVES, workers=2)


def lines(service: Service, *arguments: str, code: int = 0) -> list[str]:
    """What a command prints."""
    done = service.cli(*arguments)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_every_command_is_in_these_tests() -> None:
    assert set(TALKING) | LOCAL == set(COMMANDS)


# -- with one that runs ----------------------------------------------------------------------------------------------


def test_status_shows_a_row_a_slot_and_one_line_of_json(service: Service) -> None:
    table = lines(service, "status")
    assert table[0].startswith("test: running, ready")
    head = next(row.split() for row in table if row.startswith("pool"))
    assert head == ["pool", "slot", "worker", "pid", "state", "gen", "uptime", "restarts", "conns", "req/s", "cpu",
                    "memory", "lag"]  # fmt: skip
    assert len([row for row in table if row.startswith("web ")]) == 2
    (line,) = lines(service, "status", "--json")
    assert json.loads(line)["api"] == 1


def test_rates_are_known_after_two_seconds(service: Service) -> None:
    wait_for(lambda: all(one["cpu"] is not None for one in service.workers()), DEADLINE, "the rates")
    for _ in range(20):
        service.get("/")
    wait_for(lambda: sum(one["requests_per_second"] for one in service.workers()) > 0, DEADLINE, "requests a second")


@pytest.mark.parametrize("selector", ["web/1", "web:1", "id"])
def test_describe_takes_a_slot_or_an_id(service: Service, selector: str) -> None:
    worker = service.workers()[1]
    text = "\n".join(lines(service, "describe", str(worker["id"]) if selector == "id" else selector))
    assert f"worker {worker['id']} (web/1)" in text
    assert str(worker["pid"]) in text
    (line,) = lines(service, "describe", "--json", "web/1")
    assert json.loads(line)["worker"]["id"] == worker["id"]


def test_describe_shows_what_a_worker_has_started(launcher: Launcher) -> None:
    source = (
        "import subprocess, sys\n"
        "async def answer(path):\n"
        '    inner = \'import subprocess; subprocess.run(["sleep", "321"])\'\n'
        "    return subprocess.Popen([sys.executable, '-c', inner]).pid\n"
    )
    service = start(launcher, app(source), AT_ONCE, workers=1)
    assert "has started" not in service.cli("describe", "web").stdout
    pid = ask(service)

    def started() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(service.cli("describe", "web", "--json").stdout)["processes"]
        return found

    wait_for(lambda: len(started()) == 2, DEADLINE, "both")
    shell, sleep = started()
    assert (shell["pid"], sleep["command"]) == (pid, "sleep 321")
    assert all(isinstance(one["cpu_seconds"], float) and int(str(one["resident"])) > 0 for one in started())
    text = service.cli("describe", "web").stdout
    assert f"has started           {pid} sleeping, " in text
    assert " resident: sleep 321\n" in text


@pytest.mark.parametrize("command", ["describe", "stacks"])
@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("9999", "there is no worker '9999' now"),
        ("web/7", "there is no worker 'web/7' now"),
        ("cpu", "there is no pool 'cpu'; there are web"),
        ("web", "pool web has several workers, say which: web/0 (worker "),
        ("\x1b[2J", "there is no pool '\\x1b[2J'"),
    ],
)
def test_what_selects_nothing_is_told_with_what_there_is(
    service: Service, command: str, selector: str, says: str
) -> None:
    done = service.cli(command, selector)
    assert done.returncode == EXIT_FAILED
    assert says in done.stderr


def test_logs_are_tagged_and_chosen_by_pool_and_worker(service: Service) -> None:
    address = service.address()
    assert address
    told = {service.get("/write?stderr=1").status for _ in range(2)}
    assert told == {200}
    service.get("/flood?lines=3")
    wait_for(lambda: any("xxx" in line for line in lines(service, "logs")), DEADLINE, "the output")
    assert all(" web/" in line for line in lines(service, "logs", "--pool", "web"))
    assert lines(service, "logs", "--pool", "cpu") == []
    assert lines(service, "logs", "--lines", "0") == []
    assert len(lines(service, "logs", "--lines", "1", "--since", "1h")) == 1
    by_slot = [json.loads(line) for line in lines(service, "logs", "--json", "--worker", "web/0")]
    assert {line["slot"] for line in by_slot} <= {0}
    done = service.cli("logs", "--since", "yesterday")
    assert done.returncode == 2
    assert "expected a duration" in done.stderr


def followed(service: Service, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "clusterd", *arguments, "--run-dir", os.fspath(service.run_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_logs_are_followed_until_interrupted(service: Service) -> None:
    with followed(service, "logs", "-f", "--lines", "1") as following:
        assert following.stdout
        assert following.stdout.readline()  # it is connected
        service.get("/flood?lines=2")
        assert "xxx" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=DEADLINE)
        assert following.returncode == 0
        assert errors == ""


def test_events_tell_of_a_change_as_it_happens(service: Service) -> None:
    with followed(service, "events", "--json", "--last", "1") as following:
        assert following.stdout
        json.loads(following.stdout.readline())
        lines(service, "scale", "web", "+1")
        while (event := json.loads(following.stdout.readline()))["event"] != "scaled":
            pass
        assert (event["wanted"], event["was"]) == (3, 2)
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=DEADLINE)
        assert following.returncode == 0
    assert lines(service, "scale", "web", "-1") == ["web: 2 workers wanted, before 3"]
    wait_for(lambda: len(service.workers()) == 2, DEADLINE, "the end of the third worker")
    assert lines(service, "scale", "web", "2") == ["web: 2 workers wanted, before 2"]
    assert any("action=scale" in line for line in lines(service, "events", "--no-follow"))


@pytest.mark.parametrize(
    ("amount", "code", "says"),
    [("0", 2, "one worker at the least"), ("many", 2, "is no number of workers"), ("-9", 4, "are not possible")],
)
def test_an_impossible_scale_says_why(service: Service, amount: str, code: int, says: str) -> None:
    done = service.cli("scale", "web", amount)
    assert done.returncode == code
    assert says in done.stderr


def test_a_crash_is_told_by_logs_crash(service: Service) -> None:
    mark = service.mark()
    with pytest.raises(OSError):  # noqa: PT011  # whatever the client makes of it
        service.get("/exit?code=7")
    service.wait_log("crash_report", after=mark)
    assert any("exit code 7" in line for line in lines(service, "logs", "--crash"))
    service.wait_log("worker_ready", after=mark)


def test_stacks_show_where_a_worker_is_and_do_not_stop_it(service: Service) -> None:
    text = "\n".join(lines(service, "stacks", "web/0"))
    assert "Tasks of the event loop" in text
    assert service.get("/").status == 200


def test_a_shutdown_is_told_to_its_end(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=2)
    told = lines(service, "shutdown")
    assert told[-1] == "the service has ended, exit code 0"
    assert len([line for line in told if "worker_exited" in line]) == 2
    assert service.wait_exit() == 0


def test_a_shutdown_need_not_be_waited_for(launcher: Launcher) -> None:
    service = up(launcher, LIVES)
    assert lines(service, "shutdown", "--now", "--no-wait") == ["the service is ending"]
    assert service.wait_exit() == 0


# -- reload, restart, start, stop ------------------------------------------------------------------------------------

SLOW_CANARY: Settings = merged(LIVES, {"pools": {"web": {"reload": {"canary": "300ms"}}}})


def deploy(service: Service, launcher: Launcher, text: str) -> None:
    """Code of another length: the compiled file goes by it, and by a time stamp."""
    (launcher.folder / "app.py").write_text(text)


def test_a_reload_tells_its_stages_and_its_verdict(launcher: Launcher) -> None:
    slower = {"pools": {"web": {"reload": {"canary": "2s"}}}}  # the command asks every now and then how far it is
    service = up(launcher, merged(SLOW_CANARY, slower), workers=2)
    before = {one["id"] for one in service.workers()}
    assert lines(service, "reload", "--dry-run") == [
        "nothing changes in the configuration; the code is taken as it is now"
    ]
    done = service.cli("reload")
    assert done.returncode == 0, done
    assert done.stdout.startswith("generation 2 is promoted")
    assert "generation 2: the first new worker proves itself" in done.stderr
    wait_for(lambda: not before & {one["id"] for one in service.workers()}, DEADLINE, "the end of the old workers")
    deploy(service, launcher, APP + "\nraise RuntimeError('a bad deploy')\n")
    done = service.cli("reload", "web")
    assert done.returncode == EXIT_FAILED
    assert done.stdout.startswith("generation 3 was rolled back: ")
    assert "RuntimeError: a bad deploy" in done.stdout
    assert service.get("/").status == 200


CANARY = b"the first new worker proves itself"


def test_on_a_terminal_a_reload_has_a_bar_that_goes_away(launcher: Launcher) -> None:
    service = up(launcher, merged(LIVES, {"pools": {"web": {"reload": {"canary": "3s"}}}}))
    with Terminal(service, "reload") as terminal:
        terminal.wait_for("━".encode())
        terminal.wait_for(CANARY)
        assert terminal.ended() == 0
        assert b"generation 2 is promoted" in terminal.shown
        last = terminal.shown.rpartition(b"\x1b[2K")[2]  # the bar's line is erased, and the verdict is what stays
        assert b"promoted" in last
        assert "━".encode() not in last


def test_a_bar_is_left_by_ctrl_c_and_the_reload_goes_on(launcher: Launcher) -> None:
    service = up(launcher, merged(LIVES, {"pools": {"web": {"reload": {"canary": "60s"}}}}))
    with Terminal(service, "reload") as terminal:
        terminal.wait_for(CANARY)
        terminal.type(b"\x03")
        assert terminal.ended() == 130
        assert b"the reload goes on; `clusterd events` tells of its verdict" in terminal.shown
    assert service.status()["reload"]["stage"] == "canary"


def test_on_a_dumb_terminal_a_reload_tells_its_stages_in_lines(launcher: Launcher) -> None:
    service = up(launcher, merged(LIVES, {"pools": {"web": {"reload": {"canary": "3s"}}}}))
    with Terminal(service, "reload", kind="dumb") as terminal:
        assert terminal.ended() == 0
        assert CANARY in terminal.shown
        assert terminal.shown.count(CANARY) == 1
        assert b"generation 2 is promoted" in terminal.shown
        assert b"\x1b" not in terminal.shown


def test_a_configuration_that_is_bad_is_refused_and_told(launcher: Launcher) -> None:
    service = up(launcher, SLOW_CANARY)
    config = launcher.folder / "clusterd.toml"
    config.write_text(config.read_text() + "\n[no_such_table]\n")
    done = service.cli("reload")
    assert done.returncode == EXIT_FAILED
    assert "the reload was refused" in done.stdout
    assert "no_such_table" in done.stdout
    done = service.cli("reload", "--dry-run")
    assert done.returncode == EXIT_REFUSED
    assert "no_such_table" in done.stderr


def test_the_verdict_of_a_reload_that_a_signal_asked_for_is_waited_for(launcher: Launcher) -> None:
    service = up(launcher, SLOW_CANARY)
    done = service.cli("reload", "--verdict")
    assert done.returncode == EXIT_REFUSED
    assert "there was no reload since this primary has started" in done.stderr
    service.signal(signal.SIGHUP)
    done = service.cli("reload", "--verdict")
    assert (done.returncode, done.stdout.startswith("generation 2 is promoted")) == (0, True), done
    deploy(service, launcher, APP + "\nraise RuntimeError('a bad deploy')\n")
    service.signal(signal.SIGHUP)
    for _ in range(2):  # also when it is over
        done = service.cli("reload", "--verdict")
        assert (done.returncode, "was rolled back" in done.stdout) == (1, True), done
    service.wait_log("reload_ended", count=2)
    assert len(service.logged("reload_ended")) == 2
    assert service.cli("reload", "--verdict", "--no-wait").returncode == 2


def test_what_a_reload_would_change_is_shown(launcher: Launcher) -> None:
    settings = merged(SLOW_CANARY, {"pools": {"web": {"min_ready": 1}}})
    service = up(launcher, settings)
    launcher.configuration(settings, workers=3)
    assert lines(service, "reload", "--dry-run") == ["pools.web.workers = 3 (was 1)"]
    assert lines(service, "reload", "--no-wait") == ["generation 2 is being tried out; `clusterd events` tells of it"]
    service.wait_log("reload_ended")
    assert service.status()["pools"][0]["wanted"] == 3


def test_a_verdict_that_takes_too_long_is_not_waited_for(launcher: Launcher) -> None:
    service = up(launcher, merged(LIVES, {"pools": {"web": {"reload": {"canary": "60s"}}}}))
    done = service.cli("reload", "--timeout", "500ms")
    assert done.returncode == EXIT_TIMED_OUT
    assert "no verdict within 0.5 s; the reload goes on" in done.stderr
    assert service.cli("reload", "--timeout", "soon").returncode == 2


def test_restart_replaces_one_worker_a_pool_or_all(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=2)
    first, second = (one["id"] for one in service.workers())
    assert lines(service, "restart", "web/0") == ["1 worker replaced"]
    wait_for(lambda: [one["state"] for one in service.workers()] == ["ready", "ready"], DEADLINE, "ready workers")
    now = {one["id"] for one in service.workers()}
    assert first not in now
    assert second in now
    assert lines(service, "restart", "web") == ["2 workers replaced"]
    wait_for(lambda: [one["state"] for one in service.workers()] == ["ready", "ready"], DEADLINE, "ready workers")
    assert not now & {one["id"] for one in service.workers()}
    assert lines(service, "restart", "--no-wait") == ["2 workers to be replaced"]
    done = service.cli("restart", "web/9")
    assert done.returncode == EXIT_FAILED
    assert "there is no worker 'web/9'" in done.stderr


def test_a_pool_is_stopped_and_started(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=2)
    assert lines(service, "stop", "web") == ["web: stopped"]
    assert service.workers() == []
    assert any("pool web is stopped; `clusterd start web`" in line for line in lines(service, "status"))
    assert lines(service, "stop", "web") == ["web: stopped"]
    assert lines(service, "start", "web") == ["web: 2 of 2 workers ready"]
    assert lines(service, "start", "web") == ["web: 2 of 2 workers ready"]
    assert service.get("/").status == 200
    service.wait_log("audit", count=4)
    assert [line["action"] for line in service.logged("audit")] == ["stop", "stop", "start", "start"]


def test_a_slot_is_drained_and_held_until_it_is_started(launcher: Launcher) -> None:
    service = up(launcher, LIVES, workers=2)
    first, second = (one["id"] for one in service.workers())
    assert lines(service, "stop", "web/0") == ["web/0: held; `clusterd start web/0` fills it again"]
    assert [one["id"] for one in service.workers()] == [second]
    table = lines(service, "status")
    assert "held: web/0; `clusterd start web/0` fills it again" in table
    assert [row.split()[4] for row in table if row.startswith("web ")] == ["held", "ready"]
    assert [service.get("/").status for _ in range(4)] == [200] * 4
    assert lines(service, "reload")[0].startswith("generation 2 is promoted")

    def places() -> set[tuple[int, int]]:
        return {(one["slot"], one["generation"]) for one in service.workers()}

    wait_for(lambda: places() == {(1, 2)}, DEADLINE, "the end of the old one, which the verdict does not wait for")
    (told,) = lines(service, "start", "web/0")
    number = told.removeprefix("web/0: worker ")
    assert int(number) > second > first
    assert places() == {(0, 2), (1, 2)}
    assert lines(service, "stop", number) == ["web/0: held; `clusterd start web/0` fills it again"]
    assert lines(service, "start", "web") == ["web: 2 of 2 workers ready"]
    for command in ("stop", "start"):
        done = service.cli(command, "web/7")
        assert (done.returncode, done.stdout) == (EXIT_FAILED, "")
        assert "pool web has no slot '7'; it has 0, 1" in done.stderr
        done = service.cli(command, "cpu")
        assert "there is no pool, slot or worker 'cpu' now; expected a pool (web), POOL/SLOT" in done.stderr
    service.wait_log("audit", count=5)
    assert [line["action"] for line in service.logged("audit")] == ["hold", "reload", "release", "hold", "start"]


@pytest.mark.timeout(240)
def test_with_one_that_runs_each_command_works(launcher: Launcher) -> None:
    """All of them in turn, with the same service: whatever is new is here too, or the first test of this file fails."""
    service = up(launcher, LIVES, workers=2)
    last = ("stop", "start", "shutdown")
    for name in [*(name for name in NAMES if name not in last), *last]:
        if name in ("top", "monit"):
            with Terminal(service, name) as terminal:
                terminal.wait_for(b"web")
                terminal.type(b"q")
                assert terminal.ended() == 0
        else:
            done = service.cli(name, *TALKING[name])
            assert (done.returncode, done.stderr if name not in ("reload", "upgrade") else "") == (0, ""), (name, done)
    assert service.wait_exit() == 0


# -- with none, with one that is frozen, of another version, another user's ------------------------------------------


def command(name: str, run_dir: Path, *through: str) -> "subprocess.CompletedProcess[str]":
    start = [*through, sys.executable, "-m", "clusterd", name, *TALKING[name], "--run-dir", os.fspath(run_dir)]
    return subprocess.run(start, capture_output=True, text=True, timeout=DEADLINE * 3, check=False)


def assert_one_sentence(done: "subprocess.CompletedProcess[str]", code: int, *says: str) -> None:
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.startswith("clusterd: ")
    assert done.stderr.count("\n") == 1
    for part in says:
        assert part in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_with_none_running_each_command_says_so(name: str, run_dir: Path) -> None:
    assert_one_sentence(command(name, run_dir), EXIT_NOT_RUNNING, "no clusterd is running at", str(run_dir))


def test_with_one_that_is_frozen_each_command_times_out(launcher: Launcher) -> None:
    service = up(launcher, AT_ONCE)
    service.signal(signal.SIGSTOP)
    try:
        started = {name: followed(service, name, *TALKING[name]) for name in NAMES}
        for name, process in started.items():
            output, errors = process.communicate(timeout=DEADLINE * 3)
            assert_one_sentence(
                subprocess.CompletedProcess([name], process.returncode, output, errors),
                EXIT_TIMED_OUT,
                "did not answer",
            )
    finally:
        service.signal(signal.SIGCONT)
    assert service.stop() == 0  # the shutdown that was asked for meanwhile is the first ask: both end it cleanly


@pytest.mark.parametrize("name", NAMES)
def test_with_one_of_another_version_each_command_says_so(name: str, run_dir: Path) -> None:
    with serving_unix(str(run_dir / "control.sock"), {}):
        assert_one_sentence(command(name, run_dir), EXIT_FAILED, "its version is another")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root may")
@pytest.mark.parametrize("mode", ["0600", "0666"])
def test_with_another_users_each_command_is_refused(launcher: Launcher, mode: str) -> None:
    """By the file's mode, and where that lets it in, by what the kernel says of it."""
    place = launcher.run_dir / "open"
    place.mkdir(mode=0o755)
    for folder in (launcher.run_dir, place):
        folder.chmod(0o755)
    settings = {"control": {"socket": str(place / "control.sock"), "mode": mode}}
    service = up(launcher, settings)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    probe = subprocess.run([*nobody, sys.executable, "-c", "import click, clusterd"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("another user cannot read this Python")
    for name in NAMES:
        says = "permission denied" if mode == "0600" else "only root, the user the service runs as"
        assert_one_sentence(command(name, place, *nobody), EXIT_REFUSED, says)
    assert service.alive()
    assert not service.logged("audit", action="shutdown")
    assert command("health", place).returncode == EXIT_OK
