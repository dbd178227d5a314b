"""A primary of root with a pool of nobody: who zygote and workers are, and what they can see of themselves."""

import os
import pwd
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.procfs import wait_for
from tests.real import scripting, secure
from tests.real.clients import fetch
from tests.real.harness import DEADLINE, Launcher, merged
from tests.real.looking import AT_ONCE, app, ask, descriptors, fields, pids_of, start, watched, zygote
from tests.real.secure import Authority

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a pool another user")

NOBODY = pwd.getpwnam("nobody")

SOURCE = """
import os
def look():
    def readable(path):
        try:
            return len(open(path, "rb").read()) > 0
        except OSError as error:
            return error.strerror
    return {
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "environ": readable("/proc/self/environ"), "memory": readable("/proc/self/smaps_rollup"),
        "rank": open("/proc/self/oom_score_adj").read().strip(), "core": readable("/proc/self/coredump_filter"),
    }
then = look()
async def answer(path):
    return [then, look()]
"""


PASSAGE = """#!/bin/sh
exec unshare --mount sh -ec '
  mkdir "$1"; mount --bind "$2" "$1"; mount -t tmpfs -o mode=755 none "$2"; mkdir -p "$3"
  mount --bind "$1/${{3#$2/}}" "$3"; umount "$1"; shift 3; exec "$@"
' sh '{spare}' '{shut}' '{prefix}' '{python}' "$@"
"""
"""Runs Python in a mount namespace in which nothing of a closed directory is left but the Python in it."""


@pytest.fixture
def launcher(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """As everywhere, but all that a pool of nobody needs can be entered by nobody, the interpreter too."""
    folder = run_dir / "pool"
    folder.mkdir(mode=0o755)
    run_dir.chmod(0o711)
    prefix = Path(sys.base_prefix).resolve()
    shut = next((parent for parent in reversed(prefix.parents) if not parent.stat().st_mode & 0o001), None)
    if shut is not None:
        passage = run_dir / "python"
        passage.write_text(PASSAGE.format(spare=run_dir / "spare", shut=shut, prefix=prefix, python=sys.executable))
        passage.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(passage))
    launcher = Launcher(folder, run_dir)
    yield launcher
    launcher.finish()


def test_zygote_and_workers_are_the_pools_user_and_still_see_themselves(launcher: Launcher) -> None:
    """Had the user been changed after the fork, a worker could not read its own /proc, nor leave a core."""
    service = start(launcher, app(SOURCE), {"pools": {"web": {"user": "nobody"}}})
    ids = [[NOBODY.pw_uid] * 3, [NOBODY.pw_gid] * 3, [NOBODY.pw_gid]]
    then, now = ask(service)
    assert then["ids"] == now["ids"] == ids
    for seen in (then, now):
        assert (seen["environ"], seen["memory"], seen["core"]) == (True, True, True)
    assert now["rank"] == "300"
    assert ask(service)[0] == then
    for pid in [zygote(service), *pids_of(service).values()]:
        assert fields(pid)["Uid"].split() == [str(NOBODY.pw_uid)] * 4
        assert Path(f"/proc/{pid}").stat().st_uid == NOBODY.pw_uid  # dumpable: else these files would be root's
    assert fields(service.pid)["Uid"].split() == ["0"] * 4
    value = service.metrics().value("clusterd_worker_proportional_memory_bytes")
    assert value > 0 or wait_for(lambda: service.metrics().value("clusterd_worker_resident_memory_bytes"), DEADLINE)


def test_a_worker_of_another_user_is_killed_and_replaced(launcher: Launcher) -> None:
    service = start(launcher, app(SOURCE), merged(AT_ONCE, {"pools": {"web": {"user": "nobody"}}}), workers=1)
    worker, pid = next(iter(pids_of(service).items()))
    mark = service.mark()
    with watched(pid) as (process,):
        process.signal(signal.SIGKILL)
        assert service.wait_log("worker_exited", worker=worker)["signal"] == "SIGKILL"
    service.wait_log("worker_ready", after=mark)


def test_a_worker_of_another_user_outlives_the_primary_until_it_has_drained(launcher: Launcher) -> None:
    source = """
import asyncio, os
parent = os.getppid()
async def answer(path):
    parent = os.getppid()
    print("waiting", flush=True)
    while os.getppid() == parent:
        await asyncio.sleep(0.01)
    print("drained")
"""
    service = start(launcher, app(source), {"pools": {"web": {"user": "nobody"}}}, workers=1)
    with service.client() as client, watched(zygote(service), *pids_of(service).values()) as processes:
        client.request("GET", "/")
        service.wait_log(lambda record: record.get("text") == "waiting")
        service.signal(signal.SIGKILL)
        assert client.getresponse().status == 200
        for process in processes:
            process.wait_end()
    service.wait_exit()
    assert service.logged(lambda record: record.get("raw") == "drained")


def test_limits_above_what_the_user_may_have_are_one_clear_sentence(launcher: Launcher) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    pool = {"user": "nobody", "limits": {"nofile": hard + 1}, "restart": {"give_up_after": 1}}
    service = launcher.start(app(SOURCE), {"pools": {"web": pool}}, ready=False)
    assert service.wait_exit() == 1
    said = service.transcript()
    assert f"limits.nofile = {hard + 1} is above the hard limit that this process has, {hard}" in said
    assert "Traceback" not in said


def test_a_user_that_does_not_exist_is_named(launcher: Launcher) -> None:
    pool = {"user": "no-such-user", "restart": {"give_up_after": 1}}
    service = launcher.start(app(SOURCE), {"pools": {"web": pool}}, ready=False)
    assert service.wait_exit() in (1, 78)
    assert "there is no user no-such-user" in service.transcript()


def test_the_key_of_a_listener_is_root_s_and_the_workers_that_use_it_are_nobody_s(launcher: Launcher) -> None:
    """The zygote could not read the file: the primary does, and no worker holds a descriptor of it."""
    authority = Authority(launcher.folder)
    settings = {"listeners": {"http": {"tls": authority.issue()}}, "pools": {"web": {"user": "nobody"}}}
    assert (launcher.folder / "server.key").stat().st_uid == 0
    service = launcher.start(secure.APP, settings, workers=1)
    said = secure.exchange(secure.secured(service, authority.client()))
    assert said["scheme"] == "https"
    assert fields(said["pid"])["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    for pid in (said["pid"], zygote(service)):
        assert not [what for what in descriptors(pid).values() if "memfd:tls" in what or "memfd:key" in what]


def test_a_program_of_nobodys_is_given_a_privileged_port(launcher: Launcher) -> None:
    privileged = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) - 1
    if privileged <= 0:
        pytest.skip("no port is privileged here")
    host = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # nobody else's
    source = """
import asyncio, os, socket, sys
from clusterd import cluster

async def handle(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    body = f"{os.geteuid()} {alone}".encode()
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    writer.close()

where = sys.argv[1], int(sys.argv[2])
try:
    socket.create_server(where)
    alone = "had it"
except PermissionError as error:
    alone = error.errno

async def main():
    await (await asyncio.start_server(handle, *where)).serve_forever()

cluster.run(main())
"""
    service = scripting.start(launcher, "server.py", source, user="nobody", args=[host, str(privileged)])
    assert fetch(f"{host}:{privileged}", "/").text == f"{NOBODY.pw_uid} 13"
    assert service.stop() == 0
