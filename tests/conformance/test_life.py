"""Births and ends of workers: the events, their order, their arguments, and what is true while they are told."""

import pytest

from tests.conformance.programs import Run, conforms


@conforms(3)
def test_one_worker_from_birth_to_death(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            say("forked", worker.id, worker.state, worker.is_connected(), worker.is_dead(), list(cluster.workers))
            for name in ("fork", "online", "listening", "exit", "disconnect"):
                cluster.on(name, lambda w, *rest, name=name: say("cluster", name, w is worker, w.state))
                worker.on(name, lambda *rest, name=name: say("worker", name, worker.state))
            @worker.on("listening")
            def _(info):
                say("info", info.address, info.address_type, info.fd, 0 < info.port < 65536)
                worker.process.kill()
            @cluster.on("exit")
            def _(w, *rest):
                say("args", *rest)
            cluster.run()
        else:
            say("env", os.environ.get("NODE_UNIQUE_ID"), os.environ.get("NODE_CHANNEL_FD"))
            async def main():
                server = await cluster.create_server(Echo, "127.0.0.1", 0)
                await server.serve_forever()
            cluster.run(main())
    """)
    assert ended.of("forked") == [[1, "none", True, False, [1]]]
    assert ended.of("env") == [[None, None]]
    assert ended.of("info") == [["127.0.0.1", 4, None, True]]
    assert ended.of("args") == [[None, "SIGTERM"]]
    told = [line for line in ended.said if line[0] in ("cluster", "worker")]
    assert told == [
        ["cluster", "fork", True, "none"],
        ["worker", "online", "online"],
        ["cluster", "online", True, "online"],
        ["worker", "listening", "listening"],
        ["cluster", "listening", True, "listening"],
        ["worker", "disconnect", "disconnected"],
        ["cluster", "disconnect", True, "disconnected"],
        ["worker", "exit", "dead"],
        ["cluster", "exit", True, "dead"],
    ]


@conforms(6)
def test_killing_a_worker_that_has_disconnected_is_safe(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("disconnect")
            def _():
                say("connected", worker.is_connected())
                worker.destroy()
            worker.on("exit", lambda *how: say("exit"))
            cluster.run()
        else:
            say("connected", cluster.worker.is_connected())
            cluster.worker.disconnect()
            cluster.run()
    """)
    assert ended.said[:2] == [["connected", True], ["connected", False]]
    assert ended.words().count("exit") == 1


@conforms(9)
def test_many_ends_at_once_and_messages_that_race_with_them(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            workers = [cluster.fork() for _ in range(6)]
            ready = 0
            for worker in workers:
                worker.on("error", lambda error: say("error", type(error).__name__))
                worker.on("exit", lambda *how: say("exit", *how))
                @worker.once("online")
                def _():
                    global ready
                    ready += 1
                    if ready == len(workers):
                        for one in workers:
                            one.send("x")
                            one.disconnect()
                            one.disconnect()
                            one.send("late")
            cluster.run()
        else:
            cluster.worker.on("message", lambda *what: cluster.worker.disconnect())
            cluster.run()
    """)
    assert ended.of("exit") == [[0, None]] * 6
    assert {error for (error,) in ended.of("error")} <= {"ChannelClosed"}


@conforms(17)
def test_disconnecting_all_while_one_has_disconnected_already(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("disconnect", lambda: cluster.disconnect(lambda: say("all gone")))
            worker.on("online", lambda: worker.disconnect())
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            cluster.run()
    """)
    assert ended.of("exit") == [[0, None]]
    assert ended.of("all gone") == [[]]


@conforms(18)
def test_a_workers_own_disconnect_is_never_at_once(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            told = []
            cluster.worker.on("disconnect", lambda: told.append(1))
            async def main():
                assert cluster.worker.disconnect() is cluster.worker
                soon(lambda: say("next tick", len(told)))
                await never()
            cluster.run(main())
            say("at the end", len(told))
    """)
    assert ended.said == [["next tick", 0], ["at the end", 1], ["exit", 0, None]]


@conforms(19)
def test_idle_workers_end_at_once_and_fork_needs_no_object(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            fork = cluster.fork
            fork(), fork()
            cluster.disconnect(lambda: say("gone", len(cluster.workers)))
            cluster.on("exit", lambda worker, *how: say("exit", *how))
        cluster.run()
    """)
    assert ended.of("exit") == [[0, None]] * 2
    assert ended.said[-1] == ["gone", 0]


@conforms(20)
def test_disconnecting_before_the_worker_has_started(run: Run) -> None:
    ended = run("""
        cluster.scheduling_policy = cluster.SCHED_NONE
        if cluster.is_primary:
            worker = cluster.fork()
            cluster.on("exit", lambda *what: say("cluster exit"))
            worker.on("disconnect", lambda: say("disconnect"))
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.disconnect()
            cluster.run()
        else:
            async def main():
                try:
                    await (await cluster.create_server(Echo, port=0)).serve_forever()
                except OSError:
                    await never()  # it is to end, and may listen no more
            cluster.run(main())
    """)
    assert ended.said == [["disconnect"], ["exit", 0, None], ["cluster exit"]]


@conforms(21)
def test_one_is_disconnected_while_another_comes_online(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.scheduling_policy = cluster.SCHED_NONE
            one = cluster.fork()
            @one.on("listening")
            def _(info):
                two = cluster.fork()
                two.on("online", lambda: (one.disconnect(), two.disconnect()))
            cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                try:
                    await (await cluster.create_server(Echo, port=0)).serve_forever()
                except OSError:
                    await never()
            cluster.run(main())
    """)
    assert ended.said == [["exit", 0, None]] * 2


@pytest.mark.parametrize("kind", [pytest.param("tcp", marks=conforms(22)), pytest.param("udp", marks=conforms(23))])
def test_disconnecting_a_worker_that_shares_nothing(run: Run, kind: str) -> None:
    ended = run(
        """
        os.environ["NODE_CLUSTER_SCHED_POLICY"] = "none"
        if cluster.is_primary:
            unbound = cluster.fork()
            unbound.on("online", lambda: bind())
            def bind():
                bound = cluster.fork({"BOUND": "y"})
                bound.on("listening", lambda info: unbound.disconnect())
                unbound.on("disconnect", cluster.disconnect)
            cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.run()
        elif os.environ.get("BOUND"):
            async def main():
                if sys.argv[1] == "tcp":
                    await cluster.create_server(Echo, "127.0.0.1", 0)
                else:
                    await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
                await never()
            cluster.run(main())
        else:
            cluster.run()
        """,
        kind,
    )
    assert ended.said == [["exit", 0, None]] * 2


@conforms(24)
def test_disconnect_without_workers_calls_back_but_not_at_once(run: Run) -> None:
    ended = run("""
        async def main():
            cluster.disconnect(lambda: say("called"))
            say("returned")
            await asyncio.sleep(0.05)
        cluster.run(main())
    """)
    assert ended.said == [["returned"], ["called"]]


@conforms(34)
@pytest.mark.parametrize("how", ["disconnect", "kill"])
def test_what_a_worker_does_to_itself_was_meant(run: Run, how: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("disconnect", lambda: say("disconnect", worker.exited_after_disconnect))
            worker.on("exit", lambda *how: say("exit", worker.exited_after_disconnect, *how))
            cluster.run()
        else:
            getattr(cluster.worker, sys.argv[1])()
            cluster.run()
        """,
        how,
    )
    assert ended.said == [["disconnect", True], ["exit", True, 0, None]]


@conforms(35)
def test_a_worker_in_an_endless_loop_dies_of_a_signal(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("online", lambda: worker.process.kill())
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            while True:
                pass
    """)
    assert ended.said == [["exit", None, "SIGTERM"]]


@conforms(46)
def test_workers_die_with_a_primary_that_fails(run: Run) -> None:
    ended = run(
        """
        if cluster.is_primary:
            async def main():
                listening = asyncio.get_running_loop().create_future()
                for _ in range(2):
                    cluster.fork()
                cluster.on("listening", lambda worker, info: worker.id == 2 and listening.set_result(None))
                await listening
                raise Exception("on purpose")
            cluster.run(main())
        else:
            async def main():
                await (await cluster.create_server(Echo, "127.0.0.1", 0)).serve_forever()
            cluster.run(main())
        """,
        code=1,
        quiet=False,
    )
    assert "on purpose" in ended.errors


@conforms(47)
def test_a_worker_dies_with_a_primary_that_exits(run: Run) -> None:
    run("""
        if cluster.is_primary:
            cluster.fork()
            cluster.on("listening", lambda *what: sys.exit(0))
            cluster.run()
        else:
            async def main():
                await (await cluster.create_server(Echo, "127.0.0.1", 0)).serve_forever()
            cluster.run(main())
    """)


@conforms(48)
def test_a_worker_that_closes_its_channel_ends_with_0(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("exit", lambda *how: say("exit", worker.exited_after_disconnect, *how))
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, "127.0.0.1", 0)
                cluster.process.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["exit", False, 0, None]]


@conforms(69)
def test_a_worker_that_exits_by_itself_tells_its_code(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("exit", lambda *how: say("worker", *how))
            cluster.on("exit", lambda w, *how: say("cluster", w is worker, *how))
            cluster.run()
        else:
            sys.exit(42)
    """)
    assert ended.said == [["worker", 42, None], ["cluster", True, 42, None]]


@conforms(70)
def test_a_worker_may_destroy_itself_before_and_after_it_disconnects(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            for number in (1, 2):
                worker = cluster.fork({"WHICH": number})
                worker.on("disconnect", lambda: say("disconnect"))
                worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            if os.environ["WHICH"] == "1":
                cluster.worker.once("disconnect", lambda: cluster.worker.destroy())
                assert cluster.worker.disconnect() is cluster.worker
            else:
                cluster.worker.destroy()
            cluster.run()
    """)
    assert sorted(ended.words()) == ["disconnect", "disconnect", "exit", "exit"]
    assert ended.of("exit") == [[0, None]] * 2


@conforms(72)
def test_the_primary_disconnects_a_worker(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            def _(info):
                say("returns it", worker.disconnect() is worker, len(cluster.workers))
            worker.on("disconnect", lambda: say("worker", worker.state, worker.exited_after_disconnect))
            cluster.on("disconnect", lambda w: say("cluster", w is worker))
            worker.on("exit", lambda *how: say("exit", *how, os.path.exists(f"/proc/{worker.process.pid}")))
            cluster.run()
        else:
            cluster.worker.on("disconnect", lambda: sys.exit(42))
            async def main():
                await cluster.create_server(Echo, "127.0.0.1", 0)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [
        ["returns it", True, 0],
        ["worker", "disconnected", True],
        ["cluster", True],
        ["exit", 42, None, False],
    ]


@conforms(74)
def test_an_end_that_was_not_meant(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("disconnect", lambda: say("disconnect", worker.state, worker.exited_after_disconnect))
            worker.on("exit", lambda *how: say("exit", worker.state, worker.exited_after_disconnect, *how))
            cluster.on("disconnect", lambda w: say("cluster disconnect"))
            cluster.on("exit", lambda w, *how: say("cluster exit", *how))
            worker.on("online", lambda: worker.send("go"))
            cluster.run()
        else:
            cluster.worker.on("message", lambda *what: sys.exit(42))
            cluster.run()
    """)
    assert ended.said == [
        ["disconnect", "disconnected", False],
        ["cluster disconnect"],
        ["exit", "dead", False, 42, None],
        ["cluster exit", 42, None],
    ]


@conforms(75)
@pytest.mark.parametrize(("forced", "code"), [("no", 42), ("yes", 0)])
def test_who_decides_the_exit_code_of_a_worker_that_loses_its_channel(run: Run, forced: str, code: int) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("online", lambda: worker.process.disconnect() if sys.argv[1] == "yes" else worker.disconnect())
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                left = asyncio.get_running_loop().create_future()
                cluster.process.on("disconnect", lambda: left.set_result(None))
                try:
                    await left
                except asyncio.CancelledError:
                    pass
                if left.done() and not left.cancelled():
                    sys.exit(42)
            cluster.run(main())
            sys.exit(42)
        """,
        forced,
    )
    assert ended.said == [["exit", code, None]]


@conforms(78)
def test_connected_is_true_until_the_channel_closes_on_both_sides(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            say("primary", worker.is_connected())
            worker.on("disconnect", lambda: say("primary", worker.is_connected()))
            worker.on("online", lambda: worker.disconnect())
            cluster.run()
        else:
            say("worker", cluster.worker.is_connected())
            cluster.worker.on("disconnect", lambda: say("worker", cluster.worker.is_connected()))
            cluster.run()
    """)
    assert ended.of("primary") == ended.of("worker") == [[True], [False]]


@conforms(79)
def test_dead_is_who_has_exited(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            say(worker.is_dead())
            worker.on("exit", lambda *how: say(worker.is_dead()))
            cluster.run()
        else:
            assert not cluster.worker.is_dead()
    """)
    assert ended.said == [[False], [True]]


@pytest.mark.parametrize(
    "how", [pytest.param("worker", marks=conforms(80)), pytest.param("process", marks=conforms(81))]
)
def test_a_worker_that_is_killed(run: Run, how: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            kill = worker.kill if sys.argv[1] == "worker" else worker.process.kill
            worker.on("listening", lambda info: kill("SIGKILL"))
            worker.on("disconnect", lambda: say("disconnect", worker.state, worker.exited_after_disconnect))
            worker.on("exit", lambda *how: say("exit", worker.exited_after_disconnect, *how, len(cluster.workers)))
            cluster.run()
        else:
            async def main():
                await (await cluster.create_server(Echo, "127.0.0.1", 0)).serve_forever()
            cluster.run(main())
        """,
        how,
    )
    assert ended.said == [["disconnect", "disconnected", False], ["exit", False, None, "SIGKILL", 0]]


@conforms(82)
def test_a_worker_that_has_disconnected_may_finish_what_it_does(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            async def main():
                gone = asyncio.get_running_loop().create_future()
                async def hold(reader, writer):
                    await gone
                    say("let go")
                    writer.close()
                server = await asyncio.start_server(hold, "127.0.0.1", 0)
                worker = cluster.fork({"PORT": server.sockets[0].getsockname()[1]})
                worker.on("message", lambda *what: worker.disconnect())
                worker.on("disconnect", lambda: (say("disconnect", worker.is_dead()), gone.set_result(None)))
                worker.on("exit", lambda *how: say("exit", *how))
            cluster.run(main())
        else:
            async def main():
                reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["PORT"]))
                cluster.worker.send("connected")
                try:
                    await reader.read()
                except asyncio.CancelledError:
                    await reader.read()
                    writer.close()
            cluster.run(main())
    """)
    assert ended.said == [["disconnect", False], ["let go"], ["exit", 0, None]]


@conforms(83)
def test_the_channel_closes_after_the_servers(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            async def _(info):
                reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                writer.write(b"x")
                await reader.readexactly(1)
                worker.disconnect()
                await asyncio.sleep(0.1)
                say("still connected", worker.is_connected())
                writer.close()
            cluster.run()
        else:
            async def main():
                server = await cluster.create_server(Echo, "127.0.0.1", 0)
                cluster.worker.on("disconnect", lambda: say("disconnect"))
                await server.wait_closed()
                say("closed")
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["still connected", True], ["closed"], ["disconnect"]]
