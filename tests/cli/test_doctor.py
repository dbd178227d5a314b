"""``clusterd doctor``: each thing that bites is found on a host that has it, and on none that has not."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterd.cli import cli
from clusterd.cli.host import BAD, LEVELS, NOTE, OK, WARNING, Finding, Host, Wanted, examine

WANTED = Wanted({"http": 2048}, {"http": 8000}, 4, "/tmp", True)

WELL = {
    "proc/self/status": "Seccomp:\t0\n",
    "proc/self/mounts": "proc /proc proc rw,nosuid 0 0\n",
    "proc/self/cgroup": "0::/system.slice/shop.service\n",
    "proc/sys/net/core/somaxconn": "4096\n",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "proc/sys/net/ipv4/tcp_abort_on_overflow": "0\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "proc/sys/user/max_user_namespaces": "1000\n",
    "proc/sys/kernel/yama/ptrace_scope": "0\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/fs/cgroup/system.slice/shop.service/memory.max": "536870912\n",
    "sys/fs/cgroup/system.slice/memory.max": "max\n",
}


def found(
    root: Path, changes: dict[str, str | None], wanted: Wanted = WANTED, release: str = "6.1.0", limit: int = 100_000
) -> list[Finding]:
    for name, text in {**WELL, **changes}.items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return examine(Host(root, release, uid=1000, limits=lambda _: (limit, limit)), wanted)


def test_a_host_that_is_well_has_nothing_that_bites(tmp_path: Path) -> None:
    findings = found(tmp_path, {})
    assert [finding for finding in findings if finding.level not in (OK, NOTE)] == []
    assert {finding.level for finding in findings} <= set(LEVELS)
    assert Finding(OK, "memory", "the cgroup's limit is 512 MiB") in findings


BITES: list[tuple[dict[str, str | None], str, str, str]] = [
    ({"proc/sys/net/core/somaxconn": "128"}, WARNING, "backlog", "a backlog of 2048 is cut to it"),
    ({"proc/sys/net/ipv4/tcp_abort_on_overflow": "1"}, WARNING, "backlog", "resets clients"),
    ({"proc/sys/vm/overcommit_memory": "2"}, WARNING, "memory", "workers may not start"),
    ({"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never"}, NOTE, "memory", "2 MiB"),
    ({"sys/fs/cgroup/system.slice/shop.service/memory.max": "max"}, NOTE, "memory", "no limit"),
    ({"sys/fs/cgroup/system.slice/shop.service/pids.max": "64"}, WARNING, "processes", "at most 64"),
    ({"sys/fs/cgroup/system.slice/cpu.max": "50000 100000"}, NOTE, "processors", "quota is 0.5"),
    (
        {"proc/self/cgroup": "5:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "25000"},
        NOTE,
        "processors",
        "0.25",
    ),
    ({"proc/sys/user/max_user_namespaces": "0"}, NOTE, "user namespaces", "off"),
    ({"proc/self/status": "Seccomp:\t2\n"}, NOTE, "system calls", "seccomp"),
    ({"proc/self/status": None}, BAD, "/proc", "not mounted"),
    ({"proc/self/mounts": "proc /proc proc rw,hidepid=2 0 0"}, NOTE, "/proc", "hidepid=2"),
    ({"proc/sys/net/ipv4/ip_local_port_range": "1024 65000"}, WARNING, "ports", "ip_local_reserved_ports"),
    ({"proc/sys/net/ipv4/ip_unprivileged_port_start": "9000"}, WARNING, "ports", "CAP_NET_BIND_SERVICE"),
]


@pytest.mark.parametrize(("changes", "level", "subject", "says"), BITES, ids=[says for *_, says in BITES])
def test_what_bites_is_found(
    changes: dict[str, str | None], level: str, subject: str, says: str, tmp_path: Path
) -> None:
    def told(findings: list[Finding]) -> bool:
        return any(one.level == level and one.subject == subject and says in one.says for one in findings)

    for name in ("well", "bitten"):
        (tmp_path / name).mkdir()
    assert not told(found(tmp_path / "well", {}))
    assert told(found(tmp_path / "bitten", changes))


def test_an_old_kernel_and_a_run_directory_that_cannot_be_made_are_bad(tmp_path: Path) -> None:
    wanted = Wanted({}, {}, 1, "/proc/self/none/shop", True)
    bad = {finding.subject for finding in found(tmp_path, {}, wanted, "4.19.0-generic") if finding.level == BAD}
    assert bad >= {"kernel"}
    if os.getuid() != 0:  # who may write everywhere
        assert bad == {"kernel", "run directory"}


def test_low_limits_are_found(tmp_path: Path) -> None:
    warned = {finding.subject for finding in found(tmp_path, {}, limit=100) if finding.level == WARNING}
    assert warned == {"open files", "processes"}


def test_root_without_a_user_of_the_pools_own_is_warned() -> None:
    subjects = [finding.subject for finding in examine(Host(uid=0), None)]
    assert "user" in subjects
    assert "user" not in [finding.subject for finding in examine(Host(uid=0), WANTED)]


def test_the_command_tells_of_this_host_and_a_configuration(tmp_path: Path) -> None:
    config = tmp_path / "clusterd.toml"
    config.write_text('config_version = 1\n[listeners.http]\naddress = ":8000"\n[pools.web]\napp = "a:b"\n')
    result = CliRunner().invoke(cli, ["doctor", "--config", str(config)])
    assert "kernel: Linux" in result.stdout
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert {"level", "subject", "says"} == set(json.loads(result.stdout.splitlines()[0]))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_what_the_shell_asks_for(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completions", shell])
    assert result.exit_code == 0
    assert "_CLUSTERD_COMPLETE" in result.stdout
