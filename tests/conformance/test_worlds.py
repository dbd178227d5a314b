"""Both worlds mixed: Node's workers under a Python primary, and Python workers under Node's own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.programs import DEADLINE, Ended, Run, environment, write
from tests.procfs import processes_marked, wait_for

pytestmark = pytest.mark.needs("node")

NODE_PRIMARY = """
const cluster = require('cluster');
const say = (...what) => console.log(JSON.stringify(what));
process.execPath = process.argv[2];
cluster.setupPrimary({exec: process.argv[3], args: process.argv.slice(4), ...JSON.parse(process.env.SETTINGS || '{}')});
"""

CALL = """
const net = require('net');
const call = (port, then) => {
  let heard = '';
  net.connect(port, '127.0.0.1').on('data', (data) => heard += data).on('end', () => then(heard));
};
"""


def under_node(directory: Path, primary: str, worker: str, python: str, settings: str = "{}") -> Ended:
    """Runs a Node primary whose workers are Python programs."""
    program = write(directory, worker)
    (directory / "primary.js").write_text(NODE_PRIMARY + CALL + primary)
    done = subprocess.run(
        [str(shutil.which("node")), "primary.js", python, str(program)],
        cwd=directory,
        env=environment(directory, {"SETTINGS": settings}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    wait_for(lambda: not processes_marked(directory), DEADLINE, "the end of all its processes")
    return Ended(done.returncode, done.stdout, done.stderr)


GREET = """
    async def greet(reader, writer):
        writer.write(b"%d" % cluster.worker.id)
        writer.close()
    async def main():
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        await server.serve_forever()
    cluster.run(main())
"""


@pytest.mark.parametrize("policy", ["SCHED_RR", "SCHED_NONE"])
def test_python_workers_serve_under_a_node_primary(run_dir: Path, python: str, policy: str) -> None:
    ended = under_node(
        run_dir,
        f"""
        cluster.schedulingPolicy = cluster.{policy};
        let listening = 0;
        cluster.on('listening', (worker, info) => {{
          if (++listening < 2) return;
          const heard = [];
          const next = () => heard.length < 6 ? call(info.port, (one) => {{ heard.push(one); next(); }}) : finish();
          const finish = () => {{
            say('heard', heard.length, heard.filter((one) => one === '1' || one === '2').length, new Set(heard).size);
            cluster.disconnect();
          }};
          next();
        }});
        cluster.on('disconnect', (worker) => say('disconnect', worker.exitedAfterDisconnect));
        cluster.on('exit', (worker, code, signal) => say('exit', code, signal));
        cluster.fork(); cluster.fork();
        """,
        GREET,
        python,
    )
    assert ended.errors == ""
    assert ended.of("heard") == [[6, 6, 2 if policy == "SCHED_RR" else ended.of("heard")[0][2]]]
    assert ended.of("disconnect") == [[True]] * 2
    assert ended.of("exit") == [[0, None]] * 2


def test_messages_and_handles_between_a_node_primary_and_a_python_worker(run_dir: Path, python: str) -> None:
    ended = under_node(
        run_dir,
        """
        const worker = cluster.fork();
        const server = net.createServer((socket) => worker.send('take', socket)).listen(0, '127.0.0.1', () =>
          call(server.address().port, (heard) => { say(heard); server.close(); worker.disconnect(); }));
        worker.on('message', (message, handle) => {
          say(message, handle instanceof net.Socket);
          handle.end(' and node');
        });
        worker.on('exit', (code, signal) => say('exit', code, signal));
        """,
        """
        @cluster.worker.on("message")
        def _(message, handle):
            handle.sendall(b"from python")
            cluster.worker.send({"back": message}, handle)
        cluster.run()
        """,
        python,
    )
    assert ended.errors == ""
    assert ended.said == [[{"back": "take"}, True], ["from python and node"], ["exit", 0, None]]


def test_a_python_worker_ends_itself_under_a_node_primary_as_a_node_worker_does(run_dir: Path, python: str) -> None:
    ended = under_node(
        run_dir,
        """
        const worker = cluster.fork();
        worker.on('disconnect', () => say('disconnect', worker.exitedAfterDisconnect));
        worker.on('exit', (code, signal) => say('exit', code, signal));
        """,
        """
        async def main():
            await cluster.create_server(Echo, "127.0.0.1", 0)
            cluster.worker.disconnect()
            await never()
        cluster.run(main())
        """,
        python,
    )
    assert ended.said == [["disconnect", True], ["exit", 0, None]]


def test_a_full_python_worker_is_passed_over_by_a_node_primary(run_dir: Path, python: str) -> None:
    ended = under_node(
        run_dir,
        """
        let listening = 0;
        cluster.on('listening', (worker, info) => {
          if (++listening < 2) return;
          const clients = [];
          let served = 0;
          cluster.on('message', (worker, message) => {
            say('served', worker.id);
            if (++served === 3) { clients.forEach((one) => one.destroy()); cluster.disconnect(); }
          });
          for (let n = 0; n < 3; n++) clients.push(net.connect(info.port, '127.0.0.1'));
        });
        cluster.fork({LIMIT: 1}); cluster.fork({LIMIT: 2});
        """,
        """
        async def hold(reader, writer):
            cluster.worker.send("served")
            await reader.read()
            writer.close()
        async def main():
            await cluster.start_server(hold, "127.0.0.1", 0, max_connections=int(os.environ["LIMIT"]))
            await never()
        cluster.run(main())
        """,
        python,
    )
    assert sorted(ended.of("served")) == [[1], [2], [2]]


def test_nodes_advanced_serialization_is_refused_with_a_sentence(run_dir: Path, python: str) -> None:
    ended = under_node(
        run_dir,
        "cluster.fork().on('exit', (code) => say('exit', code));",
        "cluster.run()",
        python,
        '{"serialization": "advanced"}',
    )
    assert ended.said == [["exit", 1]]
    assert "V8's own format" in ended.errors
    assert "Traceback" not in ended.errors


def with_node(run_dir: Path, worker: str) -> None:
    (run_dir / "worker.js").write_text(worker)


def test_node_workers_serve_under_a_python_primary_in_turn(run: Run, run_dir: Path) -> None:
    with_node(
        run_dir,
        """
        const cluster = require('cluster'), http = require('http');
        http.createServer((q, s) => s.end(`${cluster.worker.id}`)).listen(0, '127.0.0.1');
        """,
    )
    ended = run("""
        import http.client
        cluster.setup_primary(exec="worker.js")
        def fetch(port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/", headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        listening = 0
        @cluster.on("listening")
        async def _(worker, info):
            global listening
            listening += 1
            if listening == 4:
                loop = asyncio.get_running_loop()
                heard = [await loop.run_in_executor(None, fetch, info.port) for _ in range(200)]
                say([heard.count(str(number)) for number in (1, 2, 3, 4)])
                cluster.disconnect()
        for _ in range(4):
            cluster.fork()
        for name in ("fork", "online", "disconnect"):
            cluster.on(name, lambda worker, name=name: say(name))
        cluster.on("exit", lambda worker, *how: say("exit", worker.exited_after_disconnect, *how))
        cluster.run()
    """)
    assert [50, 50, 50, 50] in [line[0] for line in ended.said]
    assert ended.of("exit") == [[True, 0, None]] * 4
    assert [ended.words().count(name) for name in ("fork", "online", "disconnect")] == [4, 4, 4]


@pytest.mark.parametrize("policy", ["rr", "none"])
def test_net_dgram_and_unix_servers_of_node_under_a_python_primary(run: Run, run_dir: Path, policy: str) -> None:
    with_node(
        run_dir,
        """
        const net = require('net'), dgram = require('dgram'), fs = require('fs');
        net.createServer((socket) => socket.end('net')).listen(0, '127.0.0.1');
        net.createServer((socket) => socket.end('unix')).listen('node.sock');
        const udp = dgram.createSocket('udp4');
        udp.on('message', (data, from) => udp.send('dgram', from.port, from.address)).bind(0, '127.0.0.1');
        """,
    )
    ended = run(
        """
        cluster.setup_primary(exec="worker.js")
        infos = {}
        @cluster.on("listening")
        async def _(worker, info):
            infos[info.address_type] = info
            if len(infos) == 3:
                reader, writer = await asyncio.open_connection("127.0.0.1", infos[4].port)
                say((await reader.read()).decode())
                writer.close()
                reader, writer = await asyncio.open_unix_connection(infos[-1].address)
                say((await reader.read()).decode())
                writer.close()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                    udp.setblocking(False)
                    udp.sendto(b"?", ("127.0.0.1", infos["udp4"].port))
                    say((await asyncio.get_running_loop().sock_recv(udp, 100)).decode())
                worker.disconnect()
        worker = cluster.fork()
        worker.on("exit", lambda *how: say("exit", *how, os.path.exists("node.sock")))
        cluster.run()
        """,
        env={"NODE_CLUSTER_SCHED_POLICY": policy},
    )
    assert ended.said == [["net"], ["unix"], ["dgram"], ["exit", 0, None, False]]


def test_a_port_that_is_taken_is_an_error_event_in_the_node_worker(run: Run, run_dir: Path) -> None:
    with_node(
        run_dir,
        """
        const server = require('net').createServer().listen(Number(process.env.PORT), '127.0.0.1');
        server.on('error', (error) => { process.send([error.code, error.syscall, error.port]); process.disconnect(); });
        """,
    )
    ended = run("""
        other = socket.create_server(("127.0.0.1", 0))
        port = other.getsockname()[1]
        cluster.setup_primary(exec="worker.js")
        worker = cluster.fork({"PORT": port})
        worker.on("message", lambda message, handle: say(message == ["EADDRINUSE", "bind", port]))
        cluster.run()
    """)
    assert ended.said == [[True]]


def test_a_node_worker_that_dies_with_a_connection_on_its_way_costs_nothing(run: Run, run_dir: Path) -> None:
    """Under Node's own primary that client hangs for ever."""
    with_node(
        run_dir,
        """
        const cluster = require('cluster'), net = require('net');
        net.createServer((socket) => socket.end(`${cluster.worker.id}`)).listen(0, '127.0.0.1');
        process.on('message', () => process.send('blocked', undefined, undefined, () => { for (;;); }));
        """,
    )
    ended = run("""
        cluster.setup_primary(exec="worker.js")
        ports, blocked = [], asyncio.Event()
        @cluster.on("listening")
        async def _(worker, info):
            ports.append(info.port)
            if len(ports) == 2:
                cluster.workers[1].send("block")
        @cluster.on("message")
        async def _(worker, message, handle):
            clients = [await asyncio.open_connection("127.0.0.1", ports[0]) for _ in range(4)]
            await asyncio.sleep(0.2)
            cluster.workers[1].kill("SIGKILL")
            say([(await reader.read()).decode() for reader, _ in clients])
            for _, writer in clients:
                writer.close()
            cluster.disconnect()
        cluster.fork(), cluster.fork()
        cluster.run()
    """)
    assert ended.said == [[["2", "2", "2", "2"]]]


def test_handles_between_a_python_primary_and_a_node_worker(run: Run, run_dir: Path) -> None:
    with_node(
        run_dir,
        """
        process.on('message', (message, handle) => {
          handle.write('node has it');
          process.send([message, handle.constructor.name], handle);
        });
        """,
    )
    ended = run("""
        cluster.setup_primary(exec="worker.js")
        worker = cluster.fork()
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        worker.send("take", listener.accept()[0])
        @worker.on("message")
        async def _(message, handle):
            handle.sendall(b", python too")
            handle.close()
            reader, writer = await asyncio.open_connection(sock=client)
            say(message, (await reader.read()).decode())
            writer.close()
            worker.disconnect()
        cluster.run()
    """)
    assert ended.said == [[["take", "Socket"], "node has it, python too"]]
