"""`cpu_affinity`: where workers run, as the kernel says; they ask it themselves, before the app is imported too."""

import json
import os
from typing import Any

import pytest

from clusterd.unix import cpus
from tests.procfs import wait_for
from tests.real import scripting
from tests.real.harness import DEADLINE, Launcher, Service, kill
from tests.real.looking import LONG, app, ask, pids_of, start, upgraded

MINE = sorted(os.sched_getaffinity(0))
SOURCE = app("""
import os
THEN = sorted(os.sched_getaffinity(0))
async def answer(path):
    return [os.environ["CLUSTERD_SLOT"], THEN, sorted(os.sched_getaffinity(0))]
""")
two = pytest.mark.skipif(len(MINE) < 2, reason="needs two CPUs")

pytestmark = pytest.mark.timeout(240)


def with_affinity(value: Any, **pool: Any) -> dict[str, Any]:
    return {"pools": {"web": {"cpu_affinity": value, **pool}}}


def where(service: Service) -> dict[int, list[int]]:
    """Slot to the CPUs of its worker."""
    return {worker["slot"]: sorted(os.sched_getaffinity(worker["pid"])) for worker in service.workers()}


def in_turn(slots: int) -> dict[int, list[int]]:
    return {slot: [MINE[slot % len(MINE)]] for slot in range(slots)}


@two
def test_a_list_is_for_all_workers_and_for_the_import_and_a_reload_changes_it(launcher: Launcher) -> None:
    service = start(launcher, SOURCE, with_affinity(MINE[:1], reload={"canary": "0s"}))
    assert where(service) == {0: MINE[:1], 1: MINE[:1]}
    assert ask(service)[1:] == [MINE[:1], MINE[:1]]
    assert sorted(os.sched_getaffinity(service.pid)) == MINE, "the primary runs where it ran"
    worker = service.workers()[0]
    assert service.cli("describe", str(worker["id"])).stdout.count(f"may run on            CPU {MINE[0]}\n") == 1
    launcher.configuration(with_affinity(MINE[1:2], reload={"canary": "0s"}))
    done = service.cli("reload", timeout=LONG)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: len(service.workers()) == 2, DEADLINE, "the end of the old ones")
    assert where(service) == {0: MINE[1:2], 1: MINE[1:2]}
    assert ask(service)[1:] == [MINE[1:2], MINE[1:2]]


def test_auto_is_one_cpu_a_slot_in_turn_also_for_who_follows_and_after_an_upgrade(launcher: Launcher) -> None:
    service = start(launcher, SOURCE, with_affinity("auto"), workers=3)
    assert where(service) == in_turn(3)
    slot, then, now = ask(service)
    assert (then, now) == (MINE, in_turn(3)[int(slot)]), "the import may use all of them"
    upgraded(service)
    service.wait_log("zygote_ready", count=2)
    mark = service.mark()
    kill(min(pids_of(service).values()))
    service.wait_log("worker_ready", after=mark)
    assert where(service) == in_turn(3)


def test_a_spare_may_run_anywhere_until_it_has_a_slot(launcher: Launcher) -> None:
    service = start(launcher, SOURCE, with_affinity("auto", spares=1), workers=2)
    wait_for(lambda: len(service.workers()) == 3, DEADLINE, "a spare")
    (spare,) = (one["pid"] for one in service.workers() if one["slot"] < 0)
    assert sorted(os.sched_getaffinity(spare)) == MINE
    victim = next(one for one in service.workers() if one["slot"] == 1)
    kill(victim["pid"])
    service.wait_log("spare_admitted")
    wait_for(lambda: sorted(os.sched_getaffinity(spare)) == in_turn(2)[1], DEADLINE, "a spare that is where slot 1 is")


@pytest.mark.parametrize("value", ["auto", MINE[:1]])
def test_programs_run_there_from_their_first_instruction(launcher: Launcher, value: Any) -> None:
    source = "import os, sys\nsys.stderr.write(f'at {sorted(os.sched_getaffinity(0))}\\n')\n" + scripting.PYTHON
    service = scripting.start(launcher, "server.py", source, cpu_affinity=value)
    expected = in_turn(2) if value == "auto" else {0: MINE[:1], 1: MINE[:1]}
    assert where(service) == expected
    for slot, found in expected.items():
        service.wait_log("output", text=f"at {found}", slot=slot)


def test_as_many_workers_as_cpus_of_the_list(launcher: Launcher) -> None:
    service = launcher.start(SOURCE, with_affinity(MINE[:1], workers="auto"))
    assert service.status()["pools"][0]["wanted"] == 1


NOT_THERE = f"pools.web.cpu_affinity: there is no CPU 8190 for this process, which may run on {cpus.ranges(MINE)}"


def test_a_cpu_that_is_not_there_is_one_clear_sentence(launcher: Launcher) -> None:
    service = launcher.start(SOURCE, with_affinity([8190]), ready=False)
    assert service.wait_exit() == 1
    assert NOT_THERE in service.transcript()
    assert "Traceback" not in service.transcript()


def test_a_reload_to_a_cpu_that_is_not_there_is_refused(launcher: Launcher) -> None:
    service = start(launcher, SOURCE)
    before = pids_of(service)
    launcher.configuration(with_affinity([MINE[0], 8190]))
    done = service.cli("reload", timeout=LONG)
    assert done.returncode == 1
    assert NOT_THERE in done.stdout
    assert pids_of(service) == before


def test_the_api_says_where_a_worker_may_run(launcher: Launcher) -> None:
    service = start(launcher, SOURCE, with_affinity("auto"))
    for worker in service.workers():
        found = json.loads(service.cli("describe", str(worker["id"]), "--json").stdout)
        assert found["cpus"] == in_turn(2)[worker["slot"]]


@two
@pytest.mark.parametrize(("value", "most"), [("auto", len(MINE)), (MINE[:1], 1)])
def test_the_number_of_workers_follows_the_services_own_while_it_runs(
    launcher: Launcher, value: Any, most: int
) -> None:
    """As by `taskset -p` of the primary: never more than there are CPUs for them, with a list no more than it has."""
    service = launcher.start(SOURCE, with_affinity(value, workers="auto"))
    assert service.status()["pools"][0]["wanted"] == most
    for cpus_of_the_service, wanted in ((MINE[:1], 1), (MINE, most)):
        mark = service.mark()
        os.sched_setaffinity(service.pid, cpus_of_the_service)
        service.wait_log("cpus_changed", LONG, after=mark, cpus=len(cpus_of_the_service))
        wait_for(lambda: service.status()["pools"][0]["wanted"] == wanted, DEADLINE, f"{wanted} workers")  # noqa: B023
