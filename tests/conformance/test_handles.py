"""Sockets that travel with messages."""

import pytest

from tests.conformance.programs import Run, conforms


@conforms(44)
def test_a_worker_sends_a_connection_to_the_primary(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("message")
            async def _(message, handle):
                reader, writer = await asyncio.open_connection(sock=handle)
                say(message, (await reader.read()).decode())
                writer.close()
            cluster.run()
        else:
            async def main():
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                say(cluster.worker.send("handle", theirs), theirs.fileno())
                await asyncio.get_running_loop().sock_sendall(ours, b"hello")
                ours.close()
                cluster.worker.disconnect()
            cluster.run(main())
    """)
    assert sorted(ended.said, key=str) == [["handle", "hello"], [True, -1]]


@conforms(54)
def test_sockets_that_cross_on_their_way_do_not_stop_each_other(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            async def serve(reader, writer):
                worker.send("take", writer)
            @worker.on("message")
            def _(message, handle):
                handle.setblocking(True)
                handle.send(b"back")
                handle.close()
            async def main():
                server = await asyncio.start_server(serve, "127.0.0.1", 0)
                clients = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(2)]
                say([(await reader.read()).decode() for reader, _ in clients])
                for _, writer in clients:
                    writer.close()
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run(main())
        else:
            cluster.worker.on("message", lambda message, handle: cluster.worker.send("give", handle))
            cluster.run()
    """)
    assert ended.said == [[["back", "back"]], ["exit", 0, None]]


@conforms(55)
def test_the_same_connection_cannot_be_sent_twice(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            handles = []
            @worker.on("message")
            def _(message, handle):
                handles.append(handle)
                if len(handles) == 2:
                    say([handle is not None for handle in handles])
                    handles[0].close()
            @worker.on("listening")
            async def _(info):
                reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                say("end", (await reader.read()).decode())
                writer.close()
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def handle(reader, writer):
                cluster.worker.send("first", writer)
                cluster.worker.send("second", writer)
            async def main():
                await (await cluster.start_server(handle, "127.0.0.1", 0)).serve_forever()
            cluster.run(main())
    """)
    assert ended.said == [[[True, False]], ["end", ""], ["exit", 0, None]]


@conforms(56)
@pytest.mark.parametrize("whose", ["cluster.create_server", "asyncio.get_running_loop().create_server"])
def test_a_server_adopts_a_connection_that_came_with_a_message(run: Run, whose: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            async def _(info):
                ours, theirs = socket.socketpair()
                worker.send("adopt", theirs)
                reader, writer = await asyncio.open_connection(sock=ours)
                writer.write(b"adopted")
                say((await reader.readexactly(7)).decode())
                writer.close()
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                server = await eval(sys.argv[1])(Echo, "127.0.0.1", 0)
                @cluster.worker.on("message")
                async def _(message, handle):
                    await cluster.adopt(handle, server)
                await never()
            cluster.run(main())
        """,
        whose,
    )
    assert ended.said == [["adopted"], ["exit", 0, None]]


@conforms(88)
def test_a_message_of_800_kilobytes_with_a_socket_there_and_back(run: Run) -> None:
    ended = run("""
        PAYLOAD = "a\\U0001f600" * 400_002
        if cluster.is_primary:
            worker = cluster.fork()
            server = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(server.getsockname())
            @worker.on("message")
            def _(message, handle):
                say(message == PAYLOAD, handle is not None and handle.getsockname() == client.getpeername())
                worker.disconnect()
            worker.send(PAYLOAD, server.accept()[0])
            cluster.run()
        else:
            cluster.worker.on("message", lambda message, handle: cluster.worker.send(message, handle))
            cluster.run()
    """)
    assert ended.said == [[True, True]]


@conforms(209, 311)
def test_listening_and_datagram_sockets_stay_with_their_sender(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            listener = socket.create_server(("127.0.0.1", 0))
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind(("127.0.0.1", 0))
            worker.send(None, listener)
            worker.send("datagrams", datagrams)
            say(listener.fileno() >= 0, datagrams.fileno() >= 0)
            @worker.on("message")
            async def _(message, handle):
                say(message == [list(listener.getsockname()), list(datagrams.getsockname())])
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                say((await reader.read()).decode())
                writer.close()
                worker.disconnect()
            cluster.run()
        else:
            names = []
            @cluster.worker.on("message")
            async def _(message, handle):
                names.append(handle.getsockname())
                if message is None:
                    async def greet(reader, writer):
                        writer.write(b"from the worker")
                        writer.close()
                    await asyncio.start_server(greet, sock=handle)
                else:
                    cluster.worker.send(names)
            cluster.run()
    """)
    assert ended.said == [[True, True], [True], ["from the worker"]]


@conforms(306)
def test_a_connection_that_is_kept_open_is_both_processes(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            ours, theirs = socket.socketpair()
            @worker.on("message")
            def _(message, handle):
                theirs.setblocking(True)
                theirs.sendall(b" and primary")
                theirs.close()
                ours.setblocking(True)
                say(ours.recv(100).decode())
                worker.disconnect()
            say(worker.send("keep", theirs, keep_open=True), theirs.fileno() >= 0)
            cluster.run()
        else:
            @cluster.worker.on("message")
            def _(message, handle):
                handle.sendall(b"worker")
                handle.close()
                cluster.worker.send("done")
            cluster.run()
    """)
    assert ended.said == [[True, True], ["worker and primary"]]


def test_order_is_kept_and_thousands_arrive(run: Run) -> None:
    ended = run("""
        COUNT = 2000
        if cluster.is_primary:
            worker = cluster.fork()
            listener = socket.create_server(("127.0.0.1", 0))
            heard = []
            @worker.on("message")
            def _(message, handle):
                heard.append((message, handle is not None))
                if handle is not None:
                    handle.close()
                if len(heard) == COUNT:
                    say(heard == [(number, number % 2 == 0) for number in range(COUNT)])
                    worker.disconnect()
            for number in range(COUNT):
                worker.send(number, listener if number % 2 == 0 else None)
            cluster.run()
        else:
            @cluster.worker.on("message")
            def _(message, handle):
                cluster.worker.send(message, handle)
                if handle is not None:
                    handle.close()
            cluster.run()
    """)
    assert ended.said == [[True]]


@conforms(307)
@pytest.mark.parametrize("handle", ["'text'", "object()", "7"])
def test_what_is_no_socket_is_refused_at_once(run: Run, handle: str) -> None:
    ended = run(f"""
        if cluster.is_primary:
            worker = cluster.fork()
            try:
                worker.send("x", {handle})
            except TypeError as error:
                say("refused")
            worker.kill("SIGKILL")
        cluster.run()
    """)
    assert ended.said == [["refused"]]


@conforms(304)
def test_sending_on_a_closed_channel_is_an_error_of_the_callback_or_an_event(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("disconnect")
            def _():
                worker.on("error", lambda error: say("event", error.code))
                say(worker.send("late"), worker.send("late", callback=lambda error: say("callback", error.code)))
                worker.process.disconnect()
                say("not at once")
            worker.on("online", lambda: worker.disconnect())
        cluster.run()
    """)
    assert ended.said == [
        [False, False],
        ["not at once"],
        ["event", "ERR_IPC_CHANNEL_CLOSED"],
        ["callback", "ERR_IPC_CHANNEL_CLOSED"],
        ["event", "ERR_IPC_DISCONNECTED"],
    ]


@conforms(301)
def test_send_says_slow_down_and_the_message_goes_all_the_same(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            answers = [worker.send("x" * 50_000) for _ in range(20)]
            say(answers[0], answers[-1])
            worker.on("message", lambda count, handle: (say(count), worker.disconnect()))
            cluster.run()
        else:
            count = 0
            @cluster.worker.on("message")
            def _(message, handle):
                global count
                count += 1
                if count == 20:
                    cluster.worker.send(count)
            cluster.run()
    """)
    assert ended.said == [[True, False], [20]]


def test_thousands_under_way_both_ways_come_in_order_with_their_sockets(run: Run) -> None:
    ended = run("""
        COUNT = 2000
        if cluster.is_primary:
            worker = cluster.fork()
            heard = []
            @worker.on("message")
            def _(message, handle):
                heard.append((message, handle is not None))
                if handle is not None:
                    handle.close()
                if len(heard) == COUNT + 1:
                    say(heard == [(number, number % 10 != 0) for number in range(COUNT + 1)])
                    worker.disconnect()
            @worker.on("online")
            def _():
                with socket.create_server(("127.0.0.1", 0)) as server:
                    for number in range(COUNT + 1):
                        worker.send(number, server if number % 10 else None)
            cluster.run()
        else:
            @cluster.worker.on("message")
            def _(message, handle):
                cluster.worker.send(message, handle)
                if handle is not None:
                    handle.close()
            cluster.run()
    """)
    assert ended.said == [[True]]


def test_a_worker_with_few_numbers_left_gets_them_all_in_order(run: Run) -> None:
    ended = run("""
        import resource
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("message")
            def _(message, handle):
                if message == "ready":
                    with socket.create_server(("127.0.0.1", 0)) as server:
                        for number in range(200):
                            worker.send(number, server)
                else:
                    say(message == list(range(200)))
                    worker.disconnect()
            cluster.run()
        else:
            heard = []
            @cluster.worker.on("message")
            def _(message, handle):
                handle.close()
                heard.append(message)
                if len(heard) == 200:
                    cluster.worker.send(heard)
            async def main():
                first = os.dup(0)
                os.close(first)
                resource.setrlimit(resource.RLIMIT_NOFILE, (first + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                cluster.worker.send("ready")
                await asyncio.Event().wait()
            cluster.run(main())
    """)
    assert ended.said == [[True]]
