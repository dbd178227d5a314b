"""Pools of programs that use ``cluster`` themselves: Python's, and unmodified ones of Node's."""

import json
import os
import signal
import socket
import ssl
import threading
from collections import Counter
from typing import Any

import pytest
import trustme

from tests.conformance.programs import conforms
from tests.procfs import processes_marked, wait_for
from tests.real.clients import fetch
from tests.real.harness import DEADLINE, Launcher, kill
from tests.real.scripting import Steady, each, port, reload_and_scale, said, samples, start


@each
def test_connections_go_in_turn_and_the_primarys_branch_never_runs(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, steal_after="0s")
    where = port(service)
    answers = Counter(tuple(fetch(where, "/").json()) for _ in range(20))
    assert answers == {(1, "0"): 10, (2, "1"): 10}
    states = [worker["state"] for worker in service.workers()]
    assert states == ["ready", "ready"]


@each
def test_a_stop_answers_what_is_under_way(launcher: Launcher, script: str) -> None:
    service = start(launcher, script)
    where = port(service)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(fetch(where, "/slow").json()))
    asking.start()
    wait_for(
        lambda: sum(sample.value for sample in samples(service, "clusterd_connections_total")) >= 1,
        DEADLINE,
        "the request",
    )
    assert service.stop() == 0
    asking.join(DEADLINE)
    assert len(answers) == 1
    exits = service.logged("worker_exited")
    assert [(record["code"], record["asked"]) for record in exits] == [(0, True)] * 2


@each
def test_the_only_worker_is_killed_and_the_port_stays(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, workers=1)
    where = port(service)
    assert fetch(where, "/").json() == [1, "0"]
    kill(service.workers()[0]["pid"])
    assert fetch(where, "/").json() == [2, "0"]  # it waited for the next worker
    service.wait_log("worker_ready", count=2)


@each
def test_what_it_uses_and_that_it_turns_is_seen(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, workers=1)
    fetch(port(service), "/")
    for name in ("worker_cpu_seconds_total", "worker_resident_memory_bytes", "worker_open_fds"):
        full = f"clusterd_{name}"
        wait_for(lambda full=full: any(s.value > 0 for s in samples(service, full)), DEADLINE, full)  # type: ignore[misc]
    ages = samples(service, "clusterd_worker_heartbeat_age_seconds")
    assert [sample.labels["slot"] for sample in ages] == ["0"]
    (taken,) = [s for s in samples(service, "clusterd_connections_total") if s.labels["slot"] == "0"]
    assert taken.value == 1


@pytest.mark.needs("node")
def test_a_node_worker_that_blocks_is_seen_not_to_turn(launcher: Launcher) -> None:
    service = start(launcher, "server.js", workers=1)
    where = port(service)

    def age() -> float:
        return max(sample.value for sample in samples(service, "clusterd_worker_heartbeat_age_seconds"))

    wait_for(lambda: samples(service, "clusterd_worker_heartbeat_age_seconds"), DEADLINE, "the first sign of life")
    with pytest.raises(OSError, match="timed out"):
        fetch(where, "/block", timeout=1)
    wait_for(lambda: age() > 3, DEADLINE, "an age that no worker has which turns")
    kill(service.workers()[0]["pid"])


@each
@pytest.mark.parametrize("word", ["'ready'", "{'type': 'READY'}"])
def test_programs_say_that_they_are_ready_and_hear_that_they_are_to_end(
    launcher: Launcher, script: str, word: str
) -> None:
    python = f"""
from clusterd import cluster
import sys
@cluster.worker.on("message")
def _(message, handle):
    print("heard", message, flush=True)
    sys.exit(7)
cluster.worker.send({word})
cluster.run()
"""
    node = f"process.on('message', (m) => {{ console.log('heard', m); process.exit(7); }}); process.send({word});"
    service = start(
        launcher, script, python if script.endswith(".py") else node, ready_when="message", stop_message={"t": "x"}
    )
    assert service.stop() == 0
    assert [record["code"] for record in service.logged("worker_exited")] == [7, 7]
    assert len(service.logged(lambda record: said(record).startswith("heard"))) == 2


def test_a_program_that_cannot_be_run_is_told_with_the_way_out(launcher: Launcher) -> None:
    service = start(launcher, "server.py", ready=False, interpreter="/nonexistent/python", restart={"give_up_after": 1})
    assert service.wait_exit() == 1
    text = "\n".join(map(str, service.records))
    assert "cannot run /nonexistent/python: No such file or directory; install it, or name it by interpreter" in text


def test_a_port_that_is_taken_is_an_error_in_the_worker_that_asked(launcher: Launcher) -> None:
    source = """
import asyncio, socket
from clusterd import cluster
async def main():
    taken = socket.create_server(("127.0.0.1", 0))
    try:
        await cluster.create_server(asyncio.Protocol, "127.0.0.1", taken.getsockname()[1])
    except OSError as error:
        print("refused", error.errno, flush=True)
    await (await cluster.create_server(asyncio.Protocol, "127.0.0.1", 0)).serve_forever()
cluster.run(main())
"""
    service = start(launcher, "server.py", source, workers=1)
    service.wait_log(lambda record: said(record) == "refused 98")


@each
def test_arguments_and_surroundings_reach_the_program(launcher: Launcher, script: str) -> None:
    python = """
import os, sys
from clusterd import cluster
print("got", sys.argv[1:], os.environ["CLUSTERD_SLOT"], os.environ["MINE"], os.getpgid(0) == os.getpid(), flush=True)
cluster.worker.send("ready")
cluster.run()
"""
    node = """
const {argv, env} = process;
const shown = JSON.stringify(argv.slice(2)).replace(/"/g, "'").replace(',', ', ');
console.log('got', shown, env.CLUSTERD_SLOT, env.MINE, 'True');
process.send('ready');
"""
    service = start(
        launcher, script, python if script.endswith(".py") else node, workers=1, args=["-v", "x"], env={"MINE": "yes"}
    )
    service.wait_log(lambda record: said(record) == "got ['-v', 'x'] 0 yes True")


def test_the_death_of_the_primary_ends_the_programs(launcher: Launcher) -> None:
    service = start(launcher, "server.py")
    os.kill(service.pid, signal.SIGKILL)
    service.wait_exit()
    wait_for(lambda: not processes_marked(service.run_dir), DEADLINE, "the end of the programs")
    launcher.services.remove(service)
    service.destroy()


@each
def test_reload_and_scale_under_load_lose_nothing(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, reload={"canary": "0s"})
    with Steady(port(service)) as load:
        reload_and_scale(service)
    assert load.failures == []
    assert len({worker for worker, _ in load.answers}) >= 4


@each
def test_a_worker_killed_under_load_costs_what_it_had_taken_and_no_more(launcher: Launcher, script: str) -> None:
    service = start(launcher, script)
    with Steady(port(service)) as load:
        load.goes_on()
        kill(service.workers()[0]["pid"])
        service.wait_log("worker_ready", count=3)
        load.goes_on()
    assert len(load.failures) <= 1  # of one client one connection, if the worker had taken it


HOOKS = """
import asyncio, os
from collections import Counter

said = Counter()

async def handle(worker, message):
    if message == "fail":
        raise ValueError("on purpose")
    if message == "die":
        asyncio.get_running_loop().call_later(0.2, os._exit, 9)
    said[worker.pool] += 1
    worker.send({"count": said[worker.pool], "slot": worker.slot, "pid": os.getpid(), "parent": os.getppid()})
"""

SPEAKS = """
from clusterd import cluster
@cluster.worker.on("message")
def _(message, handle):
    print("told", message["count"], message["slot"], message["pid"] != os.getpid(), message["parent"], flush=True)
import os
cluster.worker.send("READY?")
cluster.worker.send("ready")
cluster.run()
"""


def test_messages_reach_a_function_in_a_process_of_its_own(launcher: Launcher) -> None:
    (launcher.folder / "hooks.py").write_text(HOOKS)
    service = start(launcher, "server.py", SPEAKS, on_message="hooks:handle", ready_when="message")
    for count in (1, 2, 3, 4):
        line = service.wait_log(lambda record, count=count: said(record).startswith(f"told {count} "))  # type: ignore[misc]
        assert said(line).split()[3:] == ["True", str(service.pid)]


def test_a_hook_that_fails_is_told_and_one_that_dies_is_started_again(launcher: Launcher) -> None:
    (launcher.folder / "hooks.py").write_text(HOOKS)
    source = SPEAKS.replace(
        "cluster.run()",
        """
async def main():
    import asyncio
    cluster.worker.send("fail")
    cluster.worker.send("die")
    while True:
        await asyncio.sleep(0.2)
        cluster.worker.send("again")
cluster.run(main())
""",
    )
    service = start(launcher, "server.py", source, workers=1, on_message="hooks:handle", ready_when="message")
    service.wait_log("on_message", level="warning")
    service.wait_log(lambda record: said(record).startswith("told 1 "), count=2)
    text = "\n".join(map(str, service.records))
    assert "on purpose" in text
    assert "ended with exit code 9" in text


@each
def test_stacks_are_shown_by_python_programs_and_cost_no_other_its_life(launcher: Launcher, script: str) -> None:
    service = start(launcher, script, workers=1)
    shown = service.cli("stacks", "web/0")
    assert ("server.py" in shown.stdout) is (script == "server.py")
    assert fetch(port(service), "/").json() == [1, "0"]


@pytest.mark.needs("node")
def test_a_node_worker_that_hangs_is_replaced(launcher: Launcher) -> None:
    service = start(launcher, "server.js", workers=1, health={"heartbeat_timeout": "4s"})
    where = port(service)
    wait_for(lambda: samples(service, "clusterd_worker_heartbeat_age_seconds"), DEADLINE, "the first sign of life")
    with pytest.raises(OSError, match="timed out"):
        fetch(where, "/block", timeout=1)
    service.wait_log("worker_exited", deadline=60)
    assert fetch(where, "/").json() == [2, "0"]


@conforms(211)
@pytest.mark.needs("node")
def test_tls_sessions_are_resumed_across_node_workers(launcher: Launcher) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(launcher.folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(launcher.folder / "cert.pem"))
    source = """
const https = require('https'), fs = require('fs'), cluster = require('cluster');
const options = {key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'), maxVersion: 'TLSv1.2'};
https.createServer(options, (q, s) => s.end(JSON.stringify([cluster.worker.id, q.socket.isSessionReused()])))
  .listen(0, '127.0.0.1', function () { console.log('port', this.address().port); });
"""
    service = start(launcher, "server.js", source, workers=3)
    host, number = port(service).split(":")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    session, answers = None, []
    for _ in range(6):
        with context.wrap_socket(
            socket.create_connection((host, int(number)), DEADLINE), server_hostname="localhost", session=session
        ) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := client.recv(65536):
                answer += part
            session = session or client.session
            answers.append(json.loads(answer.partition(b"\r\n\r\n")[2].splitlines()[-1]))
    assert [reused for _, reused in answers] == [False] + [True] * 5
    assert {worker for worker, _ in answers} == {1, 2, 3}
