"""Quotas and groups, on trees of files laid out as the kernel does, and on this machine."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.unix import cgroup

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "22 1 0:20 / / rw - ext4 /dev/root rw\n"
    "33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 24 0:30 / /sys/fs/cgroup/cpuset rw shared:10 - cgroup cgroup rw,cpuset\n"
    "35 24 0:31 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd\n"
)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(root: Path, group: str = "/", mounts: str = V2, **quotas: str) -> Path:
    """``quotas``: the group's path with ``__`` for ``/``, to what stands in its cpu.max."""
    files = {f"sys/fs/cgroup{name.replace('__', '/')}/cpu.max": text + "\n" for name, text in quotas.items()}
    return tree(root, {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": mounts, **files})


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("100001 100000", 2),
        ("10000000 100000", 16),
        ("200000 0", 16),
        ("nonsense", 16),
        ("1 2 3", 16),
        ("", 16),
    ],
)
def test_a_quota_of_version_2_is_rounded_up_and_never_above_the_affinity(
    tmp_path: Path, quota: str, count: int
) -> None:
    assert cgroup.cpu_count(v2(tmp_path, "/a", __a=quota), affinity=16) == count


@pytest.mark.parametrize(
    ("own", "parent", "top", "count"),
    [
        ("max 100000", "300000 100000", "max 100000", 3),
        ("400000 100000", "300000 100000", "200000 100000", 2),
        ("100000 100000", "300000 100000", "200000 100000", 1),
    ],
)
def test_the_tightest_quota_of_all_parents_counts(tmp_path: Path, own: str, parent: str, top: str, count: int) -> None:
    root = v2(tmp_path, "/top/parent/own", __top__parent__own=own, __top__parent=parent, __top=top)
    assert cgroup.cpu_count(root, affinity=16) == count


def test_a_container_that_sees_only_its_own_part_of_the_hierarchy_is_placed_in_it(tmp_path: Path) -> None:
    mounts = V2.replace(" / /sys", " /docker/abc /sys")
    assert cgroup.cpu_count(v2(tmp_path / "whole", "/docker/abc", mounts, **{"": "200000 100000"}), affinity=16) == 2
    root = v2(tmp_path / "below", "/docker/abc/child", mounts, __child="100000 100000")
    assert cgroup.cpu_count(root, affinity=16) == 1


@pytest.mark.parametrize("group", ["/elsewhere", "/../outside", "/.."])
def test_a_group_outside_of_what_is_mounted_is_seen_as_the_mount_point(tmp_path: Path, group: str) -> None:
    mounts = V2.replace(" / /sys", " /docker/abc /sys") if group == "/elsewhere" else V2
    assert cgroup.cpu_count(v2(tmp_path, group, mounts, **{"": "300000 100000"}), affinity=16) == 3


def test_quotas_of_version_1_are_read_from_all_parents(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/cpu,cpuacct"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpuset:/other\n4:cpu,cpuacct:/pod/container\n1:name=systemd:/x\n",
            "proc/self/mountinfo": V1,
            f"{base}/pod/container/cpu.cfs_quota_us": "-1\n",
            f"{base}/pod/container/cpu.cfs_period_us": "100000\n",
            f"{base}/pod/cpu.cfs_quota_us": "250000\n",
            f"{base}/pod/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cgroup.cpu_count(root, affinity=16) == 3
    assert cgroup.cpu_count(root, affinity=2) == 2


def test_mount_points_with_blanks_in_their_names_are_found(tmp_path: Path) -> None:
    mounts = V2.replace("/sys/fs/cgroup", "/odd\\040place")
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts, "odd place/cpu.max": "100000 100000"},
    )
    assert cgroup.cpu_count(root, affinity=16) == 1


def test_nothing_to_read_is_the_affinity_and_no_processes(tmp_path: Path) -> None:
    assert cgroup.cpu_count(tmp_path, affinity=3) == 3
    assert cgroup.cpu_count(tmp_path, affinity=0) == 1
    assert cgroup.processes(tmp_path) == []


@given(st.text(), st.text(), st.text())
def test_no_contents_of_these_files_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, a: str, b: str, c: str
) -> None:
    root = tmp_path_factory.mktemp("tree")
    files = {"proc/self/cgroup": "0::/\n" + a, "proc/self/mountinfo": V2 + b, "sys/fs/cgroup/cpu.max": c}
    assert 1 <= cgroup.cpu_count(tree(root, files), affinity=4) <= 4


def test_the_processes_of_the_own_group_are_listed_and_not_those_of_its_parents(tmp_path: Path) -> None:
    root = v2(tmp_path, "/service/inner")
    tree(root, {"sys/fs/cgroup/service/inner/cgroup.procs": "30\n20\n0\n", "sys/fs/cgroup/service/cgroup.procs": "1\n"})
    assert cgroup.processes(root) == [20, 30]


def test_the_hierarchy_that_tells_groups_apart_is_asked_first(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "1:name=systemd:/system.slice/x.service\n0::/\n",
            "proc/self/mountinfo": V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
            "sys/fs/cgroup/unified/cgroup.procs": "1\n2\n3\n",
            "sys/fs/cgroup/systemd/system.slice/x.service/cgroup.procs": "3\n",
        },
    )
    assert cgroup.processes(root) == [3]


def test_what_the_kernel_counts_of_the_own_group_is_read_and_not_of_its_parents(tmp_path: Path) -> None:
    root = tree(
        v2(tmp_path, "/service/inner"),
        {
            "sys/fs/cgroup/service/inner/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000\n",
            "sys/fs/cgroup/service/inner/memory.events": "low 0\noom 2\noom_kill 1\n",
            "sys/fs/cgroup/service/memory.events": "oom_kill 7\n",
        },
    )
    counters = cgroup.Counters(root)
    assert (counters.throttled_seconds(), counters.oom_kills()) == (2.5, 1)
    (root / "sys/fs/cgroup/service/inner/cpu.stat").write_text("throttled_usec 3000000\n")
    assert counters.throttled_seconds() == 3


def test_what_version_1_counts_is_read(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/pod\n4:cpu,cpuacct:/pod\n",
            "proc/self/mountinfo": V1 + "36 24 0:32 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.stat": "nr_periods 1\nthrottled_time 1500000000\n",
            "sys/fs/cgroup/memory/pod/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        },
    )
    counters = cgroup.Counters(root)
    assert (counters.throttled_seconds(), counters.oom_kills()) == (1.5, 4)


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill -1\n", "oom_kill x\nthrottled_usec \n", "\0"])
def test_what_the_kernel_does_not_count_is_unknown(tmp_path: Path, text: str) -> None:
    root = tree(v2(tmp_path), {"sys/fs/cgroup/cpu.stat": text, "sys/fs/cgroup/memory.events": text})
    counters = cgroup.Counters(root)
    assert (counters.throttled_seconds(), counters.oom_kills()) == (None, None)


def test_this_machine_has_a_number_of_processors_and_knows_this_process() -> None:
    assert 1 <= cgroup.cpu_count() <= len(os.sched_getaffinity(0))
    assert os.getpid() in (cgroup.processes() or [os.getpid()])


# -- memory -----------------------------------------------------------------------------------------------------------

GIB = 2**30
V1_MEMORY = V1 + "36 24 0:32 / /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory\n"


def memory_v2(root: Path, groups: dict[str, tuple[str, str, str]], group: str = "/pod/own") -> Path:
    """Group to memory.max, memory.current and inactive_file."""
    files = {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2}
    for name, (most, current, inactive) in groups.items():
        folder = f"sys/fs/cgroup{name}"
        files[f"{folder}/memory.max"] = f"{most}\n"
        files[f"{folder}/memory.current"] = f"{current}\n"
        files[f"{folder}/memory.stat"] = f"anon 1\nfile 2\ninactive_anon 3\ninactive_file {inactive}\nslab 4\n"
    return tree(root, files)


def test_pages_of_files_that_nobody_reads_count_as_free(tmp_path: Path) -> None:
    root = memory_v2(tmp_path, {"/pod/own": (str(GIB), str(900 * 2**20), str(400 * 2**20))})
    assert cgroup.Memory(root).usage() == (500 * 2**20, GIB)


def test_the_group_that_is_nearest_to_its_limit_counts(tmp_path: Path) -> None:
    groups = {"/pod/own": ("max", "300", "0"), "/pod": ("1000", "900", "0"), "": ("2000", "1000", "0")}
    assert cgroup.Memory(memory_v2(tmp_path, groups)).usage() == (900, 1000)


def test_a_limit_that_is_changed_in_place_counts_from_then_on(tmp_path: Path) -> None:
    memory = cgroup.Memory(memory_v2(tmp_path, {"/pod/own": ("max", "300", "0")}))
    assert memory.usage() is None
    (tmp_path / "sys/fs/cgroup/pod/own/memory.max").write_text("400\n")
    assert memory.usage() == (300, 400)


def test_version_1_has_the_same_facts_under_other_names(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/docker/abc"
    files = {
        "proc/self/cgroup": "5:memory:/docker/abc\n",
        "proc/self/mountinfo": V1_MEMORY,
        f"{folder}/memory.limit_in_bytes": "1000\n",
        f"{folder}/memory.usage_in_bytes": "800\n",
        f"{folder}/memory.stat": "cache 5\ninactive_file 7\ntotal_inactive_file 300\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "9999999\n",
    }
    assert cgroup.Memory(tree(tmp_path, files)).usage() == (500, 1000)


@given(
    most=st.sampled_from(["max", "0", "-1", "", "x", "9" * 40, "1000"]),
    current=st.sampled_from(["", "-5", "y", "7" * 30]),
)
def test_what_is_no_number_is_no_limit(tmp_path_factory: pytest.TempPathFactory, most: str, current: str) -> None:
    root = memory_v2(tmp_path_factory.mktemp("memory"), {"/pod/own": (most, current, "z")})
    assert cgroup.Memory(root).usage() is None


def test_this_machine_has_an_answer() -> None:
    usage = cgroup.Memory().usage()
    assert usage is None or 0 <= usage.used <= usage.limit * 2
