"""What a service may do and see: its users, its capabilities, its secrets, its file system."""

import json
import os
from typing import Any

from tests.real.looking import app
from tests.real.systemd.machine import Deployer, Unit

LOOKS = app(r"""
import json, os, pathlib
async def answer(path):
    if path.startswith("/write"):
        try:
            pathlib.Path(path.removeprefix("/write")).write_text("x")
        except OSError as error:
            return error.strerror
        return "written"
    if path == "/keys":
        return pathlib.Path(os.environ["KEYS"]).read_text()
    if path == "/secret":
        return os.environ["SECRET"]
    if path == "/stuck":
        import ctypes
        print("stuck from here on", flush=True)
        while True:
            ctypes.PyDLL(None).pause()
    if path == "/limits":
        import resource
        os.umask(mask := os.umask(0))
        limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in ("NOFILE", "CORE", "AS")}
        return {"umask": mask, **limits}
    if path == "/scheduling":
        return [os.sched_getscheduler(os.getppid()), os.sched_getscheduler(0)]
    if path == "/cpus":
        return sorted(os.sched_getaffinity(0))
    groups = sorted({os.getegid(), *os.getgroups()})
    return {"uid": os.getuid(), "groups": groups, "home": os.path.expanduser("~"), "pid": os.getpid()}
""")


def ask(unit: Unit, path: str = "/") -> Any:
    return json.loads(unit.get(path))


def of_main(unit: Unit, field: str) -> str:
    status = unit.machine.run("cat", f"/proc/{unit.main}/status").stdout
    return next(line for line in status.splitlines() if line.startswith(field + ":")).split(":")[1].strip()


def capabilities(unit: Unit, field: str) -> set[int]:
    bits = int(of_main(unit, field), 16)
    return {number for number in range(64) if bits >> number & 1}


def test_a_user_that_lives_with_the_service_with_no_capability_and_nowhere_to_write(deploy: Deployer) -> None:
    unit = deploy(LOOKS)
    unit.start()
    said = ask(unit)
    assert 61184 <= said["uid"] <= 65519  # systemd's range of dynamic users
    assert capabilities(unit, "CapBnd") == capabilities(unit, "CapEff") == set()
    assert of_main(unit, "NoNewPrivs") == "1"
    assert of_main(unit, "Seccomp") == "2"
    assert ask(unit, "/scheduling") == [os.SCHED_BATCH, os.SCHED_OTHER]
    assert ask(unit, "/write/srv/file") == "Read-only file system"
    assert ask(unit, "/write/etc/file") == "Read-only file system"
    assert ask(unit, "/write/home/file") != "written"
    assert ask(unit, "/write/tmp/file") == "written"  # its own /tmp
    assert not (unit.machine.root / "tmp/file").exists()


def test_pools_of_other_users_under_a_root_primary(deploy: Deployer) -> None:
    """SETUID and SETGID to become them, KILL to end one that is stuck, and no other capability."""
    unit = deploy(LOOKS, {"pools": {"web": {"user": "nobody"}}, "shutdown": {"drain_timeout": "1s"}}, workers=1)
    unit.start()
    assert of_main(unit, "Uid").split() == ["0"] * 4
    assert capabilities(unit, "CapBnd") == {5, 6, 7}  # CAP_KILL, CAP_SETGID, CAP_SETUID
    said = ask(unit)
    assert said["uid"] == 65534
    assert 0 not in said["groups"]
    client = unit.client()
    client.request("GET", "/stuck")
    unit.stop()
    client.close()
    assert unit.show("Result") == ["success"]
    unit.wait_empty(5)
    assert unit.records("worker_killed")


def test_a_privileged_port_and_anothers_socket_file_take_one_capability_each(deploy: Deployer) -> None:
    """BIND_SERVICE and CHOWN, where the primary listens and not systemd."""
    unit = deploy(
        LOOKS,
        {
            "listeners": {
                "http": {"address": "127.0.0.1:80"},
                "file": {"address": "unix:/srv/owned/file.sock", "user": "nobody", "mode": "0600"},
            }
        },
        "--no-socket",
        dropin="[Service]\nReadWritePaths=/srv/owned\n",
    )
    unit.machine.run("install", "-d", "-m", "777", "/srv/owned")
    unit.start()
    assert capabilities(unit, "CapBnd") == capabilities(unit, "CapEff") == {0, 10}  # CAP_CHOWN, CAP_NET_BIND_SERVICE
    unit.port = 80
    said = ask(unit)
    assert said["uid"] != 0
    assert (unit.machine.root / "srv/owned/file.sock").stat().st_uid == 65534
    worker = unit.machine.run("cat", f"/proc/{said['pid']}/status").stdout
    assert "CapEff:\t0000000000000000" in worker  # what the primary needs is not its workers'


def test_limits_and_umask_of_a_pool_are_in_force_in_the_sandbox(deploy: Deployer) -> None:
    limits = {"nofile": 3_000, "core": "1MiB", "memory": "4GiB"}
    unit = deploy(LOOKS, {"pools": {"web": {"limits": limits, "umask": "0027"}}}, workers=1)
    unit.start()
    said = ask(unit, "/limits")
    assert said == {"umask": 0o027, "NOFILE": 3_000, "CORE": 1 << 20, "AS": 4 << 30}


def test_workers_of_another_user_are_found_after_the_primarys_death(deploy: Deployer) -> None:
    unit = deploy(LOOKS, {"pools": {"web": {"user": "nobody"}}, "shutdown": {"drain_timeout": "3s"}}, workers=1)
    unit.start()
    before = unit.main
    client = unit.client()
    client.request("GET", "/stuck")
    unit.wait(lambda unit: any("stuck from here" in line for line in unit.journal()), "a worker that is stuck")
    unit.kill("KILL")
    unit.wait(lambda unit: unit.main not in (0, before) and unit.status.startswith("1/1"), "a new primary")
    assert unit.records("leftovers")
    unit.wait(lambda unit: not json.loads(unit.clusterd("status", "--json").stdout)["leftovers"], "no leftovers")
    client.close()


def test_a_capability_that_lacks_is_named(deploy: Deployer) -> None:
    unit = deploy(LOOKS, {"pools": {"web": {"user": "nobody"}}})
    unit.dropin("[Service]\nCapabilityBoundingSet=\nCapabilityBoundingSet=CAP_KILL CAP_SETGID\nRestart=no\n")
    unit.start(check=False)
    unit.wait_state("failed")
    assert any("CAP_SETUID" in line for line in unit.journal()), unit.journal()


def test_credentials_reach_the_application_and_nobody_else(deploy: Deployer) -> None:
    secret = "correct-horse-battery"
    refers = {"KEYS": "${CREDENTIALS_DIRECTORY}/keys", "SECRET": "${TOKEN}"}
    unit = deploy(LOOKS, {"pools": {"web": {"env": refers}}}, env={"TOKEN": secret})
    unit.machine.write("/etc/clusterd/credentials/keys", "the keys", 0o600)
    unit.machine.write(f"/etc/clusterd/{unit.name}.env", f"TOKEN={secret}\n", 0o600)
    unit.start()
    assert ask(unit, "/keys") == "the keys"
    assert ask(unit, "/secret") == secret
    unit.kill("USR1")  # logs the status
    told = unit.clusterd("status", "--json").stdout + unit.clusterd("status").stdout
    told += unit.machine.inside(fetch_metrics)
    titles = unit.machine.run("ps", "axww", "-o", "args").stdout
    unit.wait(lambda unit: unit.records("status"), "the status in the log")
    journal = "\n".join(unit.journal())
    for place in (told, titles, journal, unit.status):
        assert secret not in place
        assert "the keys" not in place


def fetch_metrics() -> str:
    from tests.real.clients import fetch

    return fetch("127.0.0.1:9190", "/metrics").text


def test_workers_are_bound_to_cpus_in_a_unit_that_allows_it_and_in_another_that_is_said(deploy: Deployer) -> None:
    bound = {"pools": {"web": {"cpu_affinity": "auto"}}}
    unit = deploy(LOOKS, bound, workers=1)
    unit.start()
    assert ask(unit, "/cpus") == sorted(os.sched_getaffinity(0))[:1]
    unit.stop()
    unit = deploy(LOOKS)
    unit.configure(bound)
    unit.start(check=False)
    sentence = "pools.web.cpu_affinity: processes here may not choose their CPUs"
    unit.wait(lambda unit: any(sentence in line for line in unit.journal()), "a sentence that says why")
    assert "generate systemd" in next(line for line in unit.journal() if sentence in line)
