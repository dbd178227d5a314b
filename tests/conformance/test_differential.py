"""The same program for Node and for Python, the same life: what happens, in which order, with which arguments.

Node's side is the real one. What is compared is every event of the primary, told in one way by both.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import components
from tests.conformance.programs import DEADLINE, Run, environment

pytestmark = pytest.mark.needs("node")

NODE = """
const cluster = require('cluster'), net = require('net');
const tell = (...what) => process.stdout.write(JSON.stringify(what) + '\\n');
if (cluster.isPrimary) {
  SETUP
  const worker = cluster.fork();
  const flag = () => worker.exitedAfterDisconnect === undefined ? null : worker.exitedAfterDisconnect;
  const is = () => [worker.id in cluster.workers, worker.isConnected(), worker.isDead()];
  const now = () => [worker.state, flag(), ...is()];
  tell('forked', ...now());
  cluster.on('setup', () => tell('cluster setup'));
  for (const name of ['fork', 'online', 'listening', 'disconnect', 'exit', 'message']) {
    cluster.on(name, (w, ...rest) => tell('cluster ' + name, w === worker, ...now(), shown(rest)));
    worker.on(name, (...rest) => tell('worker ' + name, ...now(), shown(rest)));
  }
  worker.on('error', (error) => tell('worker error', error.code));
  const shown = (rest) => rest.map((one) => one === undefined ? null : one && one.addressType ?
    [one.addressType, one.address, one.port > 0, one.fd === undefined ? null : one.fd] : one);
  PRIMARY
} else {
  WORKER
}
"""

PYTHON = """
def tell(*what):
    say(*what)

if cluster.is_primary:
SETUP
    worker = cluster.fork()
    def now():
        return [worker.state, worker.exited_after_disconnect, worker.id in cluster.workers, worker.is_connected(),
                worker.is_dead()]
    def shown(rest):
        return [[one.address_type, one.address, one.port > 0, one.fd] if isinstance(one, cluster.Listening) else one
                for one in rest]
    tell("forked", *now())
    cluster.on("setup", lambda settings: tell("cluster setup"))
    for name in ["fork", "online", "listening", "disconnect", "exit", "message"]:
        cluster.on(name, lambda w, *rest, name=name: tell("cluster " + name, w is worker, *now(), shown(rest)))
        worker.on(name, lambda *rest, name=name: tell("worker " + name, *now(), shown(rest)))
    worker.on("error", lambda error: tell("worker error", getattr(error, "code", None) or "ENOENT"))
PRIMARY
    cluster.run()
else:
WORKER
"""

LISTEN = (
    "net.createServer().listen(0, '127.0.0.1');",
    """
    async def main():
        await cluster.create_server(asyncio.Protocol, "127.0.0.1", 0)
        await never()
    cluster.run(main())
    """,
)
IDLE = ("", "    cluster.run()")

ON_LISTENING = ("worker.on('listening', () => %s);", "    worker.on('listening', lambda info: %s)")
ON_ONLINE = ("worker.on('online', () => %s);", "    worker.on('online', lambda: %s)")
NOTHING = ("", "")


def does(when: tuple[str, str], what: str) -> tuple[str, str]:
    """The primary does that then, in both languages."""
    return when[0] % what, when[1] % what


def itself(node: str, python: str) -> tuple[str, str]:
    """The worker does that, and waits for what comes of it."""
    return node, f"    {python}\n    cluster.run()"


ECHO = """    cluster.worker.on('message', lambda message, handle: cluster.worker.send(message + 1))
    cluster.worker.send(1)
    cluster.run()
"""
ANSWER = (
    "worker.on('message', (m) => m === 2 ? worker.disconnect() : worker.send(m));",
    "    worker.on('message', lambda m, h: worker.disconnect() if m == 2 else worker.send(m))",
)

LIVES = {
    "the primary disconnects it": (does(ON_LISTENING, "worker.disconnect()"), LISTEN),
    "the primary kills it": (does(ON_LISTENING, "worker.kill()"), LISTEN),
    "the primary kills it by force": (does(ON_ONLINE, "worker.process.kill('SIGKILL')"), IDLE),
    "the primary closes its channel": (does(ON_ONLINE, "worker.process.disconnect()"), IDLE),
    "all are disconnected": (does(ON_LISTENING, "cluster.disconnect()"), LISTEN),
    "it disconnects": (NOTHING, itself("cluster.worker.disconnect();", "cluster.worker.disconnect()")),
    "it kills itself": (NOTHING, itself("cluster.worker.kill();", "cluster.worker.kill()")),
    "it closes its channel": (NOTHING, itself("process.disconnect();", "cluster.process.disconnect()")),
    "it exits": (NOTHING, ("process.exit(3);", "    sys.exit(3)")),
    "it raises what nobody catches": (
        NOTHING,
        ("throw new Error('on purpose');", "    raise SystemError('on purpose')"),
    ),
    "it speaks and is answered": (
        ANSWER,
        ("process.on('message', (m) => process.send(m + 1)); process.send(1);", ECHO),
    ),
}


def test_the_reference_is_the_pinned_one_and_not_the_machines() -> None:
    lock = json.loads((components.PINNED / "package-lock.json").read_text())
    pinned = {one["version"] for path, one in lock["packages"].items() if path.startswith("node_modules/node-linux-")}
    assert all("integrity" in one for path, one in lock["packages"].items() if path)
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    assert [said.strip()] == [f"v{version}" for version in pinned]


SETUPS = {
    "its directory is missing": (
        "cluster.setupPrimary({cwd: '/nonexistent'});",
        "    cluster.setup_primary(cwd='/nonexistent')",
    ),
    "its interpreter is missing": (
        "process.execPath = '/nonexistent/interpreter'; cluster.setupPrimary({});",
        "    cluster.setup_primary(exec_path='/nonexistent/interpreter')",
    ),
    "its program, which is Node's, is missing": (
        "cluster.setupPrimary({exec: '/nonexistent/program.js'});",
        "    cluster.setup_primary(exec='/nonexistent/program.js')",
    ),
}
"""What is set before it is born, of the lives that this makes."""

LIVES |= dict.fromkeys(SETUPS, (NOTHING, IDLE))


def told_by_both(
    run: Run, run_dir: Path, primary: tuple[str, str], worker: tuple[str, str], setup: tuple[str, str], quiet: bool
) -> tuple[list[Any], list[Any]]:
    """What Node's program says, and what ours does."""
    programs = [
        text.replace("SETUP", setup[of]).replace("PRIMARY", primary[of]).replace("WORKER", worker[of])
        for of, text in enumerate((NODE, PYTHON))
    ]
    (run_dir / "life.js").write_text(programs[0])
    theirs = subprocess.run(
        [str(shutil.which("node")), "life.js"],
        cwd=run_dir,
        env=environment(run_dir),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return [json.loads(line) for line in theirs.stdout.splitlines()], run(programs[1], quiet=quiet).said


@pytest.mark.parametrize("life", LIVES)
def test_a_life_is_told_as_node_tells_it(run: Run, run_dir: Path, life: str) -> None:
    primary, worker = LIVES[life]
    quiet = "raises" not in life and "Node's" not in life
    expected, ours = told_by_both(run, run_dir, primary, worker, SETUPS.get(life, NOTHING), quiet)
    assert expected
    assert ours == expected


def test_a_program_of_pythons_that_is_missing_never_gets_online(run: Run, run_dir: Path) -> None:
    """Node itself says "online" before it looks for the program; here it is the program that does."""
    setup = (
        SETUPS["its program, which is Node's, is missing"][0],
        "    cluster.setup_primary(exec='/nonexistent/program.py')",
    )
    theirs, ours = told_by_both(run, run_dir, NOTHING, IDLE, setup, False)
    assert [line[0] for line in theirs if "online" in line[0]] == ["worker online", "cluster online"]
    rest = [line for line in theirs if "online" not in line[0]]
    assert rest[-1][-1] == [1, None]
    for line in rest[-2:]:
        line[-1] = [2, None]  # as Python's interpreter ends then
    assert ours == rest


def test_the_end_with_a_handle_on_its_way_has_its_disconnect_too(run: Run, run_dir: Path) -> None:
    """Node tells of no "disconnect" then; it is told of every worker here."""
    primary = (
        """
  worker.on('message', () => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      worker.send('take it', server);
      worker.process.kill('SIGKILL');
    });
    worker.on('exit', () => server.close());
  });""",
        """
    def give(message, handle):
        worker.send("take it", socket.create_server(("127.0.0.1", 0)))
        worker.process.kill("SIGKILL")
    worker.on("message", give)""",
    )
    blocked = (
        "process.send('blocked'); for (;;);",
        """
    import time
    cluster.worker.send("blocked")
    time.sleep(600)""",
    )
    theirs, ours = told_by_both(run, run_dir, primary, blocked, NOTHING, True)

    def names(lines: list[Any]) -> list[str]:
        return [line[0] for line in lines]

    exits = ["worker exit", "cluster exit"]
    assert names(theirs)[-2:] == exits
    assert not any("disconnect" in name for name in names(theirs))
    assert names(ours)[-4:] == ["worker disconnect", "cluster disconnect", *exits]
    assert ours[:-4] == theirs[:-2]
    assert [line[-1] for line in ours[-2:]] == [line[-1] for line in theirs[-2:]] == [[None, "SIGKILL"]] * 2
