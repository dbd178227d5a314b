"""Node's other tests that use cluster, and those of its channel (numbers from 201 and from 301 on)."""

import socket
from collections.abc import Iterator

import pytest

from tests.conformance.programs import Run, conforms


@conforms(201, 202, 203)
def test_a_datagram_socket_that_nobody_waits_for_any_more_is_given_back(run: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        ended = run(
            """
            if cluster.is_primary:
                cluster.fork().on("exit", lambda *how: say("exit", *how))
                cluster.run()
            else:
                def fds():
                    return len(os.listdir("/proc/self/fd"))
                async def main():
                    bind = lambda port: cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", port))
                    await asyncio.sleep(0)
                    before = fds()
                    for port in (0, int(sys.argv[1])):  # one that is granted, one that is refused
                        asked = asyncio.ensure_future(bind(port))
                        await asyncio.sleep(0)
                        asked.cancel()
                        say((await asyncio.gather(asked, return_exceptions=True))[0].__class__.__name__)
                    try:
                        await bind(int(sys.argv[1]))
                    except OSError as error:
                        say(error.errno, str(error).partition(": ")[0] != "")
                    transport, _ = await bind(0)
                    transport.close()
                    await asyncio.sleep(0)
                    say(fds() - before)
                    cluster.worker.disconnect()
                    await never()
                cluster.run(main())
            """,
            str(other.getsockname()[1]),
        )
    assert ended.said == [["CancelledError"], ["CancelledError"], [98, True], [0], ["exit", 0, None]]


@conforms(204)
def test_a_datagram_socket_may_be_closed_as_soon_as_it_listens(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            for _ in range(3):
                cluster.fork().on("exit", lambda *how: say(*how))
            cluster.run()
        else:
            class Closes(asyncio.DatagramProtocol):
                def connection_made(self, transport):
                    transport.close()
            async def main():
                await cluster.create_datagram_endpoint(Closes, ("127.0.0.1", 0))
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[0, None]] * 3


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@conforms(208)
def test_a_listening_socket_that_the_primary_inherited_is_served_by_a_worker(
    run: Run, inherited: socket.socket
) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            async def _(info):
                say(info.fd == int(sys.argv[1]))
                reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
                writer.write(b"served")
                say((await reader.readexactly(6)).decode())
                writer.close()
                worker.disconnect()
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, fd=int(sys.argv[1]))
                await never()
            cluster.run(main())
        """,
        str(inherited.fileno()),
        str(inherited.getsockname()[1]),
        pass_fds=(inherited.fileno(),),
    )
    assert ended.said == [[True], ["served"]]


@conforms(210)
def test_a_server_on_a_socket_of_its_own_asks_nobody(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("listening", lambda info: say("listening"))
            @worker.on("message")
            async def _(port, handle):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"own")
                say((await reader.readexactly(3)).decode())
                writer.close()
                worker.disconnect()
            cluster.run()
        else:
            async def main():
                server = await asyncio.start_server(own, sock=socket.create_server(("127.0.0.1", 0)))
                cluster.worker.send(server.sockets[0].getsockname()[1])
                await never()
            async def own(reader, writer):
                writer.write(await reader.read(3))
                writer.close()
            cluster.run(main())
    """)
    assert ended.said == [["own"]]


@conforms(214, 221)
@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_fixed_datagram_port_is_shared_unless_one_wants_it_alone(run: Run, kind: str) -> None:
    ended = run(
        """
        exclusive = sys.argv[1] == "exclusive"
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("message")
            def _(port, handle):
                second = cluster.fork({"PORT": port})
                second.on("message", lambda message, handle: (say(message), cluster.disconnect()))
            cluster.run()
        else:
            async def main():
                bind = lambda port: cluster.create_datagram_endpoint(
                    asyncio.DatagramProtocol, ("127.0.0.1", port), exclusive=exclusive)
                try:
                    transport, _ = await bind(int(os.environ.get("PORT", "0")))
                    if not exclusive and "PORT" not in os.environ:
                        port = transport.get_extra_info("sockname")[1]
                        transport.close()
                        await asyncio.sleep(0.01)
                        transport, _ = await bind(port)
                    port = transport.get_extra_info("sockname")[1]
                    cluster.worker.send("shared" if "PORT" in os.environ else port)
                except OSError as error:
                    cluster.worker.send(error.errno)
                await never()
            cluster.run(main())
        """,
        kind,
    )
    assert ended.said == [["shared" if kind == "shared" else 98]]


@conforms(217, 222)
def test_tcp_ports_are_shared_or_exclusive(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            first = cluster.fork()
            @first.on("message")
            def _(ports, handle):
                second = cluster.fork({"PORTS": json.dumps(ports)})
                @second.on("message")
                def _(said, handle):
                    say(said["random"] != ports["random"], said["shared"] == ports["shared"], said["fixed"])
                    cluster.disconnect()
            cluster.run()
        else:
            given = json.loads(os.environ.get("PORTS", "{}"))
            async def listen(port, exclusive):
                try:
                    server = await cluster.create_server(Echo, "127.0.0.1", port, exclusive=exclusive)
                except OSError as error:
                    return error.errno
                return server.sockets[0].getsockname()[1]
            async def main():
                said = {"random": await listen(0, True)}
                if given:
                    said["shared"] = await listen(given["shared"], False)
                    said["fixed"] = await listen(given["fixed"], True)
                else:
                    held = await cluster.create_server(Echo, "127.0.0.1", 0)
                    port = held.sockets[0].getsockname()[1]
                    held.close()
                    said["shared"] = await listen(port, False)
                    said["fixed"] = await listen(0, True)
                cluster.worker.send(said)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[True, True, 98]]


@conforms(218, 219)
def test_a_listen_that_is_called_off_is_given_back(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("listening", lambda info: say("listening"))
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                asked = asyncio.ensure_future(cluster.create_server(Echo, "127.0.0.1", 0))
                await asyncio.sleep(0)
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                await cluster.create_server(Echo, "127.0.0.1", 0)  # answered after the first
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["listening"], ["exit", 0, None]]


@conforms(215)
def test_a_worker_that_exits_on_the_first_of_many_handles_hurts_nobody(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("error", lambda error: say("error", getattr(error, "code", "") or error.errno))
            worker.on("exit", lambda *how: say("exit", *how))
            listener = socket.create_server(("127.0.0.1", 0))
            for number in range(50):
                worker.send(number, listener)
            cluster.run()
        else:
            cluster.worker.on("message", lambda message, handle: os._exit(0))
            cluster.run()
    """)
    assert ended.of("exit") == [[0, None]]
    assert {line[0] for line in ended.of("error")} <= {"EPIPE", "ECONNRESET", "ERR_IPC_CHANNEL_CLOSED", 32, 104}


@conforms(225)
def test_a_connection_that_comes_after_the_last_worker_is_closed(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            async def _(info):
                os.kill(worker.process.pid, signal.SIGSTOP)
                clients = [await asyncio.open_connection("127.0.0.1", info.port) for _ in range(3)]
                worker.process.kill("SIGKILL")
                for reader, writer in clients:
                    try:
                        say((await reader.read()).decode())
                    except ConnectionResetError:
                        say("")
                    writer.close()
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, "127.0.0.1", 0)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[""]] * 3


@conforms(302, 305)
def test_of_three_messages_the_second_has_the_handle(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            listener = socket.create_server(("127.0.0.1", 0))
            for number, handle in enumerate([None, listener, None]):
                worker.send(number, handle, callback=lambda error, number=number: say("sent", number, error))
            worker.on("message", lambda message, handle: (say("heard", message), worker.disconnect()))
            cluster.run()
        else:
            heard = []
            @cluster.worker.on("message")
            def _(message, handle):
                heard.append([message, handle is not None])
                if len(heard) == 3:
                    cluster.worker.send(heard)
            cluster.run()
    """)
    assert ended.of("heard") == [[[[0, False], [1, True], [2, False]]]]
    assert ended.of("sent") == [[0, None], [1, None], [2, None]]


@conforms(303)
def test_a_channel_is_closed_once_and_not_at_once(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("disconnect", lambda: say("disconnect", worker.process.connected))
            worker.on("error", lambda error: say("error", error.code))
            @worker.on("online")
            def _():
                worker.process.disconnect()
                say("after", worker.process.connected)
                worker.process.disconnect()
        cluster.run()
    """)
    assert ended.of("after") == [[False]]
    assert ended.of("disconnect") == [[False]]
    assert ended.of("error") == [["ERR_IPC_DISCONNECTED"]]
    assert ended.words().index("after") < ended.words().index("disconnect")


@conforms(308)
def test_characters_of_many_bytes_are_not_split(run: Run) -> None:
    ended = run("""
        TEXT = "\\u00e4\\u20ac\\U0001f600" * 130_000
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("message", lambda message, handle: (say(message == TEXT), worker.disconnect()))
            worker.send(TEXT)
            cluster.run()
        else:
            cluster.worker.on("message", lambda message, handle: cluster.worker.send(message))
            cluster.run()
    """)
    assert ended.said == [[True]]


@conforms(309)
def test_accepted_connections_are_spread_over_three_workers(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            workers = [cluster.fork() for _ in range(3)]
            listener = socket.create_server(("127.0.0.1", 0))
            clients = []
            for number in range(12):
                clients.append(socket.create_connection(listener.getsockname()))
                workers[number % 3].send("take", listener.accept()[0])
            ended = set()
            @cluster.on("message")
            def _(worker, message, handle):
                ended.add(worker.id)
                if len(ended) == 3:
                    heard = []
                    for client in clients:
                        client.setblocking(True)
                        heard.append(client.recv(10).decode())
                        client.close()
                    say(heard == ["1", "2", "3"] * 4)
                    cluster.disconnect()
            cluster.run()
        else:
            taken = []
            @cluster.worker.on("message")
            def _(message, handle):
                handle.sendall(b"%d" % cluster.worker.id)
                taken.append(handle)
                if len(taken) == 4:
                    cluster.worker.send("all")
            cluster.run()
    """)
    assert ended.said == [[True]]


@conforms(313)
def test_connections_of_twenty_workers_arrive_with_their_data(run: Run) -> None:
    ended = run("""
        COUNT = 20
        if cluster.is_primary:
            heard = set()
            @cluster.on("message")
            def _(worker, message, handle):
                handle.setblocking(True)
                heard.add((worker.id, int(handle.recv(10))))
                handle.close()
                if len(heard) == COUNT:
                    say(heard == {(number, number) for number in range(1, COUNT + 1)})
                    cluster.disconnect()
            for _ in range(COUNT):
                cluster.fork()
            cluster.run()
        else:
            ours, theirs = socket.socketpair()
            ours.sendall(b"%d" % cluster.worker.id)
            cluster.worker.send("take", theirs)
            cluster.run()
    """)
    assert ended.said == [[True]]


@conforms(314)
def test_what_a_listener_raises_loses_no_later_message(run: Run) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("message")
            def _(message, handle):
                say(message)
                if message == 9:
                    worker.disconnect()
                raise ValueError(f"on purpose {message}")
            cluster.run()
        else:
            for number in range(10):
                cluster.worker.send(number)
            cluster.run()
        """,
        quiet=False,
    )
    assert ended.said == [[number] for number in range(10)]
    assert all(f"on purpose {number}" in ended.errors for number in range(10))
