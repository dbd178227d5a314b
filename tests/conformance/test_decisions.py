"""What Node's tests show by reaching into Node: decided here, and shown by other means. And what Node does badly."""

import ast
from pathlib import Path

import pytest

from tests.conformance.decisions import NUMBERS, Decision, decisions
from tests.conformance.programs import Run, conforms


def claimed() -> dict[int, list[str]]:
    """Number to the tests that claim it by ``conforms``."""
    found: dict[int, list[str]] = {}
    here = Path(__file__).parent
    for file in [*sorted(here.glob("test_*.py")), here.parent / "real/test_scripts.py"]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "conforms":
                for argument in node.args:
                    found.setdefault(ast.literal_eval(argument), []).append(file.name)
    return found


def test_every_number_is_decided_and_what_passes_has_a_test() -> None:
    tests = claimed()
    assert set(tests) <= set(NUMBERS)
    for number, decision in decisions().items():
        has = number in tests
        assert has is (decision.kind is not Decision.NOT_APPLICABLE), f"{number}: {decision}, tests: {has}"
    assert set(decisions()) == set(NUMBERS)


@conforms(1)
def test_an_accept_that_fails_costs_no_connection(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            accept, failures = socket.socket._accept, [24, 103]
            def failing(listener):
                if failures:
                    raise OSError(failures.pop(), "injected")
                return accept(listener)
            socket.socket._accept = failing
            worker = cluster.fork()
            @worker.on("listening")
            async def _(info):
                reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                writer.write(b"served")
                say((await reader.readexactly(6)).decode(), len(failures))
                writer.close()
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            import logging
            logging.disable()
            cluster.run()
        else:
            async def main():
                await (await cluster.create_server(Echo, "127.0.0.1", 0)).serve_forever()
            cluster.run(main())
    """)
    assert ended.said == [["served", 0], ["exit", 0, None]]


@conforms(33)
def test_what_a_listener_raises_goes_to_the_loops_handler_once_and_harms_nobody(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            other = socket.create_server(("127.0.0.1", 0))
            worker = cluster.fork({"PORT": other.getsockname()[1]})
            worker.send("go")
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            @cluster.worker.on("message")
            async def _(message, handle):
                def handle_it(loop, context):
                    say("caught", type(context["exception"]).__name__)
                    cluster.worker.disconnect()
                asyncio.get_running_loop().set_exception_handler(handle_it)
                await cluster.create_server(Echo, "127.0.0.1", int(os.environ["PORT"]))
            cluster.worker.on("message", lambda *what: say("the other one"))
            cluster.run()
    """)
    assert sorted(ended.said) == [["caught", "OSError"], ["exit", 0, None], ["the other one"]]


@conforms(51)
def test_an_open_server_keeps_a_worker_alive_that_its_channel_does_not(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.send("serve")
            @worker.on("listening")
            async def _(info):
                await asyncio.sleep(0.3)
                say("alive", not worker.is_dead())
                worker.send("close")
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            servers = []
            @cluster.worker.on("message")
            async def _(message, handle):
                if message == "serve":
                    servers.append(await cluster.create_server(Echo, "127.0.0.1", 0))
                    cluster.process.channel.unref()
                else:
                    servers[0].close()
            cluster.run()
    """)
    assert ended.said == [["alive", True], ["exit", 0, None]]


@conforms(52, 53)
@pytest.mark.parametrize("calls", ["server.unref()", "server.unref(); server.ref(); server.close()"])
def test_a_server_may_be_told_not_to_keep_its_worker_alive(run: Run, calls: str) -> None:
    ended = run(f"""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.send("serve")
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            @cluster.worker.on("message")
            async def _(message, handle):
                server = await cluster.create_server(Echo, "127.0.0.1", 0)
                cluster.process.channel.unref()
                {calls}
            cluster.run()
    """)
    assert ended.said == [["exit", 0, None]]


@conforms(76)
def test_a_worker_that_closes_its_server_leaves_its_connections_to_others(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            ports = []
            @cluster.on("listening")
            def _(worker, info):
                ports.append(info.port)
                if len(ports) == 2:
                    cluster.workers[1].send("block and close")
            @cluster.on("message")
            async def _(worker, message, handle):
                clients = [await asyncio.open_connection("127.0.0.1", ports[0]) for _ in range(4)]
                say([int(await asyncio.wait_for(reader.read(), 20)) for reader, _ in clients])
                for _, writer in clients:
                    writer.close()
                cluster.disconnect()
            cluster.fork(), cluster.fork()
            cluster.run()
        else:
            import time
            async def greet(reader, writer):
                writer.write(b"%d" % cluster.worker.id)
                writer.close()
            async def main():
                server = await cluster.start_server(greet, "127.0.0.1", 0)
                @cluster.worker.on("message")
                def _(message, handle):
                    cluster.worker.send("blocked")
                    time.sleep(0.5)
                    server.close()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[[2, 2, 2, 2]]]


def test_the_callback_of_disconnect_waits_for_the_last_worker(run: Run) -> None:
    """Node calls it when the first has gone."""
    ended = run("""
        if cluster.is_primary:
            @cluster.on("exit")
            def _(worker, *how):
                say("exit", worker.id)
                open("one has gone", "w").close()
            cluster.fork({"WAIT": 1}), cluster.fork()
            online = 0
            @cluster.on("online")
            def _(worker):
                global online
                online += 1
                if online == 2:
                    cluster.disconnect(lambda: say("all gone"))
            cluster.run()
        else:
            async def main():
                try:
                    await never()
                finally:
                    while os.environ.get("WAIT") and not os.path.exists("one has gone"):
                        await asyncio.sleep(0.01)
            cluster.run(main())
    """)
    assert ended.said == [["exit", 2], ["exit", 1], ["all gone"]]


def test_a_worker_that_is_asked_twice_to_disconnect_ends_once(run: Run) -> None:
    """A Node worker with connections crashes of it."""
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            async def _(info):
                reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                writer.write(b"x")
                await reader.readexactly(1)
                worker.disconnect()
                worker.disconnect()
                await asyncio.sleep(0.1)
                writer.close()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                await (await cluster.create_server(Echo, "127.0.0.1", 0)).serve_forever()
            cluster.run(main())
    """)
    assert ended.said == [["exit", 0, None]]


def test_garbage_on_the_channel_ends_the_worker_and_not_the_primary(run: Run) -> None:
    """In Node a blank line is an exception that ends the process that reads it."""
    ended = run(
        """
        if cluster.is_primary:
            for number in range(3):
                worker = cluster.fork({"WHICH": number})
                worker.on("exit", lambda *how: say("exit"))
            cluster.run()
            say("the primary lives")
        else:
            junk = [b"\\n", b"\\xff\\xfe nonsense\\n", b"{" * 1000 + b"\\n"][int(os.environ["WHICH"])]
            for name in os.listdir("/proc/self/fd"):
                try:
                    with socket.socket(fileno=os.dup(int(name))) as channel:
                        if channel.family == socket.AF_UNIX and channel.type == socket.SOCK_STREAM:
                            channel.send(junk)
                except OSError:
                    continue
            cluster.run()
        """,
    )
    assert ended.said == [["exit"]] * 3 + [["the primary lives"]]


@pytest.mark.parametrize(("program", "code"), [("nowhere.py", 2), ("silent.py", 3)])
def test_a_program_that_never_imports_the_cluster_never_comes_online(
    run: Run, run_dir: Path, program: str, code: int
) -> None:
    (run_dir / "silent.py").write_text("raise SystemExit(3)")
    ended = run(
        f"""
        cluster.setup_primary(exec={program!r})
        for name in ("fork", "online", "disconnect", "exit", "error"):
            cluster.on(name, lambda worker, *what, name=name: say(name, *what))
        cluster.fork()
        cluster.run()
        """,
        quiet=False,
    )
    assert ended.said == [["fork"], ["disconnect"], ["exit", code, None]]
