"""A worker that the kernel kills for want of memory is one worker's end, and not the service's.

The manager's control groups are without a memory controller here: where version 1 has it, version 2 cannot have it too.
So the limit is of a group of version 1, which the service enters before it begins: kernel, kill and counter are real.
What is not seen is what the manager would do of a kill that it hears of; that is what it says of the unit, and no more.
"""

import json
import os
from collections.abc import Iterator

import pytest

from tests.real.looking import app
from tests.real.systemd.machine import UNITS, Deployer, Machine, Unit

LIMIT = 200 * 1024 * 1024
GROUP = f"/run/memory/clusterd-test-{os.getpid()}"

HUNGRY = app("""
import os
async def answer(path):
    if path == "/eat":
        eaten = []
        while True:
            eaten.append(b"x" * 2**20)
    return os.getpid()
""")


@pytest.fixture
def limited(machine: Machine) -> Iterator[Machine]:
    """A machine with a group whose memory has a limit, which everybody may enter."""
    machine.run("mkdir", "-p", "/run/memory")
    if machine.run("mount", "-t", "cgroup", "-o", "memory", "memory", "/run/memory", check=False).returncode:
        pytest.skip("needs version 1 of the memory controller, which this kernel does not have")
    machine.run("mkdir", "-p", GROUP)
    machine.run("sh", "-c", f"echo {LIMIT} >{GROUP}/memory.limit_in_bytes && chmod 666 {GROUP}/cgroup.procs")
    yield machine
    machine.run("rmdir", GROUP)
    machine.run("umount", "/run/memory")


def in_group_from_the_start(unit: Unit) -> None:
    text = (unit.machine.root / UNITS / unit.service).read_text()
    (command,) = (line.removeprefix("ExecStart=") for line in text.splitlines() if line.startswith("ExecStart="))
    enter = f"""/bin/sh -c 'echo $$$$ >{GROUP}/cgroup.procs && exec "$$@"' sh {command}"""
    unit.dropin(f"[Service]\nExecStart=\nExecStart={enter}\nReadWritePaths=/run/memory\n")


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills_for_memory_is_told_as_such_and_replaced(
    limited: Machine, deploy: Deployer
) -> None:
    unit = deploy(HUNGRY, {"memory": {"guard": False}})
    in_group_from_the_start(unit)
    unit.start()
    unit.wait_status("2/2 ready")
    before = unit.main
    assert unit.show("OOMPolicy") == ["continue"]
    client = unit.client()
    client.request("GET", "/eat")
    (ended,) = unit.wait(lambda unit: unit.records("worker_exited"), "the end of the worker")
    assert (ended["signal"], ended["reason"]) == ("SIGKILL", "oom")
    with pytest.raises(OSError, match=r"."):
        client.getresponse()
    client.close()
    unit.wait(lambda unit: len(unit.records("worker_ready")) == 3, "a worker in its place")
    assert unit.wait_status("2/2 ready") == "2/2 ready, generation 1"
    assert unit.get().isdigit()
    assert unit.show("MainPID", "ActiveState", "SubState", "NRestarts", "Result") == [
        str(before), "active", "running", "0", "success",
    ]  # fmt: skip
    status = json.loads(unit.clusterd("status", "--json").stdout)
    assert "oom" in [slot["last_reason"] for slot in status["pools"][0]["slots"]]
