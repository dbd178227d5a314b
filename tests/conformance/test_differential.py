"""The same program for Node and for Python, the same life: what happens, in which order, with which arguments.

Node's side is the real one. What is compared is every event of the primary, told in one way by both.
"""

import json
import shutil
import subprocess
from pathlib import Path

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
}
"""What is set before it is born, of the lives that this makes."""

LIVES |= dict.fromkeys(SETUPS, (NOTHING, IDLE))


@pytest.mark.parametrize("life", LIVES)
def test_a_life_is_told_as_node_tells_it(run: Run, run_dir: Path, life: str) -> None:
    (node_primary, python_primary), (node_worker, python_worker) = LIVES[life]
    node_setup, python_setup = SETUPS.get(life, NOTHING)
    node = NODE.replace("SETUP", node_setup).replace("PRIMARY", node_primary).replace("WORKER", node_worker)
    (run_dir / "life.js").write_text(node)
    theirs = subprocess.run(
        [str(shutil.which("node")), "life.js"],
        cwd=run_dir,
        env=environment(run_dir),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    python = PYTHON.replace("SETUP", python_setup).replace("PRIMARY", python_primary).replace("WORKER", python_worker)
    ours = run(python, quiet="raises" not in life)
    expected = [json.loads(line) for line in theirs.stdout.splitlines()]
    assert expected
    assert ours.said == expected
