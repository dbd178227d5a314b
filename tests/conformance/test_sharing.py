"""Servers that workers share: TCP, unix sockets, ports, errors, in turn and by the kernel."""

import ctypes
import os
import socket
from pathlib import Path

import pytest

from tests.conformance.programs import Run, conforms

SERVE = """
            async def main():
                server = await cluster.create_server(Echo, "127.0.0.1", 0)
                await server.serve_forever()
            cluster.run(main())
"""


@pytest.fixture
def privileged_port() -> int:
    """One that others than root may not have; -1 where there is none."""
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) - 1


def without_privileged_ports() -> None:
    """In the primary to be: root keeps what it is, but not this right (PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE)."""
    ctypes.CDLL(None).prctl(24, 10, 0, 0, 0)


@pytest.mark.parametrize("policy", [pytest.param("rr", marks=conforms(4)), pytest.param("none", marks=conforms(65))])
def test_a_privileged_port_is_refused_in_the_worker_that_asked(run: Run, privileged_port: int, policy: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                try:
                    await cluster.create_server(Echo, "127.0.0.1", int(sys.argv[1]))
                    say("listening")
                except OSError as error:
                    say(type(error).__name__, error.errno)
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
        """,
        str(max(0, privileged_port)),
        env={"NODE_CLUSTER_SCHED_POLICY": policy},
        before_exec=without_privileged_ports,
    )
    told = ["PermissionError", 13] if privileged_port > 0 else ["listening"]
    assert ended.said == [told, ["exit", 0, None]]


@pytest.mark.parametrize("policy", [pytest.param("rr", marks=conforms(5)), pytest.param("none", marks=conforms(64))])
def test_a_port_of_another_cluster_is_in_use(run: Run, policy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run(
            """
            if cluster.is_primary:
                cluster.fork().on("exit", lambda *how: say("exit", *how))
                cluster.run()
            else:
                async def main():
                    try:
                        await cluster.create_server(Echo, "127.0.0.1", int(sys.argv[1]))
                    except OSError as error:
                        say(error.errno, str(error))
                    cluster.worker.disconnect()
                    await never()
                cluster.run(main())
            """,
            str(port),
            env={"NODE_CLUSTER_SCHED_POLICY": policy},
        )
    (number, text), exit_ = ended.said
    assert number == 98
    assert f"bind EADDRINUSE 127.0.0.1:{port}" in text
    assert exit_ == ["exit", 0, None]


@conforms(8)
def test_port_0_again_and_again_in_one_worker(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                for _ in range(2):
                    servers = [await cluster.create_server(Echo, "127.0.0.1", 0) for _ in range(2)]
                    ports = {server.sockets[0].getsockname()[1] for server in servers}
                    say("ports", len(ports))
                    for server in servers:
                        server.close()
                        await server.wait_closed()
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["ports", 2], ["ports", 2], ["exit", 0, None]]


@conforms(25)
def test_eight_workers_with_two_servers_share_two_ports(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            async def round():
                ports, listening = set(), 0
                done = asyncio.get_running_loop().create_future()
                def heard(worker, info):
                    nonlocal listening
                    listening += 1
                    ports.add(info.port)
                    if listening == 16:
                        done.set_result(None)
                cluster.on("listening", heard)
                for _ in range(8):
                    cluster.fork()
                await done
                say("ports", len(ports))
                for port in sorted(ports):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"echo")
                    say((await reader.readexactly(4)).decode())
                    writer.close()
                gone = asyncio.get_running_loop().create_future()
                cluster.disconnect(lambda: gone.set_result(None))
                await gone
                cluster.off("listening", heard)
                say("gone", len(cluster.workers))
            async def main():
                await round()
                await round()
            cluster.run(main())
        else:
            async def main():
                for _ in range(2):
                    await cluster.create_server(Echo, "127.0.0.1", 0)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["ports", 2], ["echo"], ["echo"], ["gone", 0]] * 2


@conforms(26)
def test_a_unix_socket_that_another_serves_is_in_use(run: Run, run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(run_dir / "taken.sock"))
        other.listen()
        ended = run("""
            if cluster.is_primary:
                worker = cluster.fork()
                cluster.on("fork", lambda w: say("fork"))
                cluster.on("online", lambda w: say("online"))
                worker.on("message", lambda message, handle: say(message))
                cluster.run()
            else:
                async def main():
                    try:
                        await cluster.create_server(Echo, path="taken.sock")
                    except OSError as error:
                        cluster.worker.send(error.errno)
                    cluster.worker.disconnect()
                    await never()
                cluster.run(main())
        """)
    assert ended.said == [["fork"], ["online"], [98]]


@conforms(27)
@pytest.mark.parametrize("policy", ["rr", "none"])
def test_a_port_that_was_in_use_can_be_had_when_it_is_free(run: Run, policy: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            other = socket.create_server(("127.0.0.1", 0))
            worker = cluster.fork({"PORT": other.getsockname()[1]})
            worker.on("message", lambda *what: (other.close(), worker.send("freed")))
            cluster.run()
        else:
            async def main():
                port = int(os.environ["PORT"])
                freed = asyncio.get_running_loop().create_future()
                cluster.worker.on("message", lambda *what: freed.set_result(None))
                try:
                    await cluster.create_server(Echo, "127.0.0.1", port)
                except OSError as error:
                    say(error.errno)
                cluster.worker.send("free it")
                await freed
                server = await cluster.create_server(Echo, "127.0.0.1", port)
                say("listening", server.sockets[0].getsockname()[1] == port)
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
        """,
        env={"NODE_CLUSTER_SCHED_POLICY": policy},
    )
    assert ended.said == [[98], ["listening", True]]


def test_a_unix_socket_that_nobody_serves_any_more_is_taken_over(run: Run, run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / "stale.sock"))
        dead.listen()
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("listening", lambda info: (say("listening"), worker.disconnect()))
            cluster.run()
        else:
            async def main():
                await (await cluster.create_server(Echo, path="stale.sock")).serve_forever()
            cluster.run(main())
    """)
    assert ended.said == [["listening"]]


@conforms(31)
def test_a_unix_socket_is_served(run: Run, run_dir: Path) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @cluster.on("listening")
            async def _(w, info):
                say("info", info.address == os.path.abspath("http.sock"), info.port, info.address_type, info.fd)
                reader, writer = await asyncio.open_unix_connection("http.sock")
                writer.write(b"OK")
                say((await reader.readexactly(2)).decode())
                worker.disconnect()
                writer.close()
            worker.on("exit", lambda *how: say("exit", *how, os.path.exists("http.sock")))
            cluster.run()
        else:
            async def handle(reader, writer):
                say("peer", writer.get_extra_info("peername"))
                writer.write(await reader.readexactly(2))
                await reader.read()
                writer.close()
            async def main():
                await (await asyncio.start_unix_server(handle, "http.sock")).serve_forever()
            cluster.run(main())
    """)
    assert ended.said == [["info", True, -1, -1, None], ["peer", ""], ["OK"], ["exit", 0, None, False]]


@conforms(36)
def test_everybody_may_connect_to_a_unix_socket_if_it_says_so(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            def _(info):
                say(oct(os.stat(info.address).st_mode & 0o777))
                worker.disconnect()
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, path="open.sock", readable_all=True, writable_all=True)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["0o777"]]


@conforms(37, 42)
@pytest.mark.parametrize("arguments", ["port=0", ""])
def test_a_port_that_is_free_is_told(run: Run, arguments: str) -> None:
    ended = run(f"""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            def _(info):
                say(type(info.port).__name__, info.port > 0, info.address, info.address_type)
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, {arguments})
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["int", True, None, 4], ["exit", 0, None]]


@conforms(39)
def test_the_workers_backlog_is_the_sockets(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            @worker.on("listening")
            def _(info):
                from clusterd.unix.sockets import accept_queue
                sockets = []
                for fd in os.listdir("/proc/self/fd"):
                    try:
                        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                            sockets.append(accept_queue(int(fd))[1])
                    except OSError:
                        continue
                say(127 in sockets)
                worker.disconnect()
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, "127.0.0.1", 0, backlog=127)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[True]]


@conforms(40)
def test_ipv6_takes_ipv4_too(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            infos = []
            @cluster.on("listening")
            async def _(worker, info):
                infos.append(info)
                if len(infos) == 3:
                    say(len(set(infos)), infos[0].address, infos[0].address_type)
                    for _ in range(3):
                        reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                        writer.write(b"x")
                        await reader.readexactly(1)
                        writer.close()
                    cluster.disconnect()
            for _ in range(3):
                cluster.fork()
            cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, "::", 0)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[1, "::", 6], *[["exit", 0, None]] * 3]


@pytest.mark.parametrize("policy", [pytest.param("none", marks=conforms(85)), pytest.param("rr", marks=conforms(86))])
def test_ipv6_alone_leaves_the_port_of_ipv4_free(run: Run, policy: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            infos = []
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::", 0))
                port = probe.getsockname()[1]
            @cluster.on("listening")
            def _(worker, info):
                infos.append(info)
                if len(infos) == 3:
                    say(len(set(infos)), infos[0].address, infos[0].address_type, info.port == port)
                    socket.create_server(("0.0.0.0", port)).close()
                    cluster.disconnect()
            for _ in range(3):
                cluster.fork({"PORT": port})
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, "::", int(os.environ["PORT"]), ipv6_only=True)
                await never()
            cluster.run(main())
        """,
        env={"NODE_CLUSTER_SCHED_POLICY": policy},
    )
    assert ended.said == [[1, "::", 6, True]]


@conforms(41)
def test_a_relative_path_whose_absolute_form_is_too_long(run: Run, run_dir: Path) -> None:
    ended = run("""
        if cluster.is_primary:
            deep = os.path.abspath("d" * 100)
            os.mkdir(deep)
            os.chdir(deep)
            cluster.setup_primary(exec=os.path.join("..", "program.py"))
            worker = cluster.fork()
            path = os.path.join(deep, "relative.sock")
            worker.on("listening", lambda info: (say("there", os.path.exists(path)), worker.disconnect()))
            worker.on("exit", lambda *how: say("gone", os.path.exists(path)))
            cluster.run()
        else:
            async def main():
                assert len(os.path.abspath("relative.sock")) > 107
                await cluster.create_server(Echo, path="relative.sock")
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["there", True], ["gone", False]]


@conforms(43)
def test_reuse_port_asks_nobody(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("listening", lambda info: say("must not be heard"))
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                one = await cluster.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
                port = one.sockets[0].getsockname()[1]
                two = await cluster.create_server(Echo, "127.0.0.1", port, reuse_port=True)
                say(two.sockets[0].getsockname()[1] == port)
                one.close(), two.close()
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[True], ["exit", 0, None]]


@conforms(45, 206)
def test_full_workers_take_no_more(run: Run) -> None:
    ended = run("""
        LIMITS = (0, 1, 9)
        if cluster.is_primary:
            listening = served = 0
            clients = []
            @cluster.on("listening")
            async def _(worker, info):
                global listening
                listening += 1
                if listening == len(LIMITS):
                    for _ in range(10):
                        clients.append(await asyncio.open_unix_connection("drop.sock"))
            @cluster.on("message")
            def _(worker, message, handle):
                global served
                served += 1
                if served == 10:
                    for _, writer in clients:
                        writer.close()
                    cluster.disconnect()
            for limit in LIMITS:
                cluster.fork({"LIMIT": limit})
            cluster.run()
        else:
            count = 0
            async def hold(reader, writer):
                global count
                count += 1
                cluster.worker.send("served")
                await reader.read()
                writer.close()
            cluster.worker.on("disconnect", lambda: say(limit, count))
            limit = int(os.environ["LIMIT"])
            async def main():
                await cluster.start_server(hold, path="drop.sock", max_connections=limit)
                await never()
            cluster.run(main())
    """)
    assert sorted(ended.said) == [[0, 0], [1, 1], [9, 9]]


@conforms(50)
def test_a_worker_that_its_channel_does_not_hold_ends_with_its_last_server(run: Run) -> None:
    ended = run("""
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
                say("serving", server.is_serving())
                server.close()
            cluster.run()
    """)
    assert ended.said == [["serving", True], ["exit", 0, None]]


@pytest.mark.parametrize("policy", [pytest.param("none", marks=conforms(57)), pytest.param("rr", marks=conforms(58))])
def test_a_worker_closes_its_server_and_listens_again(run: Run, policy: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            one = cluster.fork()
            @one.once("listening")
            def _(info):
                two = cluster.fork({"AGAIN": 1})
                two.on("exit", lambda *how: (say("two", *how), one.disconnect()))
            one.on("exit", lambda *how: say("one", *how))
            cluster.run()
        else:
            async def main():
                server = await cluster.create_server(Echo, "127.0.0.1", 0)
                if os.environ.get("AGAIN"):
                    server.close()
                    server = await cluster.create_server(Echo, "127.0.0.1", 0)
                    server.close()
                    cluster.process.disconnect()
                await never()
            cluster.run(main())
        """,
        env={"NODE_CLUSTER_SCHED_POLICY": policy},
    )
    assert ended.said == [["two", 0, None], ["one", 0, None]]


@conforms(66)
def test_nothing_leaks_when_workers_leave_while_a_client_connects(run: Run) -> None:
    ended = run(
        """
        if cluster.is_primary:
            listening = 0
            @cluster.on("listening")
            async def _(worker, info):
                global listening
                listening += 1
                if listening == 2:
                    reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                    cluster.disconnect()
                    writer.close()
            cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.fork(), cluster.fork()
            cluster.run()
        else:
            async def main():
                await cluster.create_server(Echo, "127.0.0.1", 0)
                await never()
            cluster.run(main())
        """,
        env={"NODE_CLUSTER_SCHED_POLICY": "none"},
    )
    assert ended.said == [["exit", 0, None]] * 2


@conforms(71)
def test_a_worker_may_disconnect_when_it_cannot_listen(run: Run) -> None:
    ended = run(
        """
        if cluster.is_primary:
            other = socket.create_server(("127.0.0.1", 0))
            worker = cluster.fork({"PORT": other.getsockname()[1]})
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                try:
                    await cluster.create_server(Echo, "127.0.0.1", int(os.environ["PORT"]))
                except OSError:
                    cluster.worker.disconnect()
                await never()
            cluster.run(main())
        """,
        env={"NODE_CLUSTER_SCHED_POLICY": "none"},
    )
    assert ended.said == [["exit", 0, None]]


@conforms(87)
def test_a_port_is_had_by_one_after_the_other(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            one = cluster.fork({"PORT": port})
            def heard(message, handle):
                if message == "closed":
                    two = cluster.fork({"PORT": port, "SECOND": 1})
                    two.on("listening", lambda info: one.send("again"))
                else:
                    say(message)
                    cluster.disconnect()
            one.on("message", heard)
            cluster.run()
        else:
            async def main():
                port = int(os.environ["PORT"])
                server = await cluster.create_server(Echo, "127.0.0.1", port)
                if not os.environ.get("SECOND"):
                    try:
                        await cluster.create_server(Echo, "127.0.0.1", port)
                    except OSError as error:
                        say("second", error.errno)
                    server.close()
                    again = asyncio.get_running_loop().create_future()
                    cluster.worker.on("message", lambda *what: again.set_result(None))
                    cluster.worker.send("closed")
                    await again
                    await cluster.create_server(Echo, "127.0.0.1", port)
                    cluster.worker.send("shared again")
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["second", 98], ["shared again"]]


@conforms(89)
def test_the_second_listen_on_a_workers_own_port_is_refused_and_it_lives_on(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                one = await cluster.create_server(Echo, "127.0.0.1", 0)
                port = one.sockets[0].getsockname()[1]
                one.close()
                one = await cluster.create_server(Echo, "127.0.0.1", port)
                try:
                    await cluster.create_server(Echo, "127.0.0.1", port)
                except OSError as error:
                    say(error.errno)
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[98], ["exit", 0, None]]


def test_connections_go_to_the_workers_in_turn(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            listening = 0
            @cluster.on("listening")
            async def _(worker, info):
                global listening
                listening += 1
                if listening == 3:
                    answers = []
                    for _ in range(9):
                        reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
                        answers.append(int(await reader.read()))
                        writer.close()
                    say([answers.count(number) for number in (1, 2, 3)], len(set(answers[:3])))
                    cluster.disconnect()
            cluster.setup_primary(steal_after=0)
            for _ in range(3):
                cluster.fork()
            cluster.run()
        else:
            async def handle(reader, writer):
                writer.write(b"%d" % cluster.worker.id)
                writer.close()
            async def main():
                await cluster.start_server(handle, "127.0.0.1", 0)
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[[3, 3, 3], 3]]


def test_what_a_killed_worker_had_not_taken_is_served_by_another(run: Run) -> None:
    """Node leaves such a client hanging for ever."""
    ended = run("""
        if cluster.is_primary:
            listening = 0
            @cluster.on("listening")
            async def _(worker, info):
                global listening
                listening += 1
                if listening == 2:
                    cluster.workers[1].send("sleep")
            @cluster.on("message")
            async def _(worker, port, handle):
                clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
                cluster.workers[1].kill("SIGKILL")
                say([int(await reader.read()) for reader, _ in clients])
                for _, writer in clients:
                    writer.close()
                cluster.disconnect()
            cluster.fork(), cluster.fork()
            cluster.run()
        else:
            async def handle(reader, writer):
                writer.write(b"%d" % cluster.worker.id)
                writer.close()
            async def main():
                server = await cluster.start_server(handle, "127.0.0.1", 0)
                @cluster.worker.on("message")
                def _(message, handle):
                    cluster.worker.send(server.sockets[0].getsockname()[1])
                    signal.pause()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[[2, 2, 2, 2]]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has the right that it gives up")
@pytest.mark.parametrize("policy", ["rr", "none"])
def test_a_privileged_port_is_the_primarys_to_take_and_not_its_workers(
    run: Run, privileged_port: int, policy: str
) -> None:
    """In its worker the right is gone (capset(2), CAP_NET_BIND_SERVICE)."""
    if privileged_port <= 0:
        pytest.skip("no port is privileged here")
    host = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"  # nobody else's
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            async def ask():
                listening = asyncio.get_running_loop().create_future()
                worker.on("listening", listening.set_result)
                info = await listening
                reader, writer = await asyncio.open_connection(info.address, info.port)
                writer.write(b"through")
                say("answered", (await reader.read(100)).decode())
                writer.close()
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run(ask())
        else:
            import ctypes, struct
            header, data = struct.pack("II", 0x20080522, 0), ctypes.create_string_buffer(24)
            ctypes.CDLL(None).capget(header, data)
            rights = [word & ~(1 << 10) if n < 3 else word for n, word in enumerate(struct.unpack("6I", data.raw))]
            ctypes.CDLL(None).capset(header, struct.pack("6I", *rights))
            async def main():
                host, port = sys.argv[1], int(sys.argv[2])
                try:
                    socket.create_server((host, port))
                except OSError as error:
                    say("by itself", error.errno)
                await cluster.create_server(Echo, host, port)
                await never()
            cluster.run(main())
        """,
        host,
        str(privileged_port),
        env={"NODE_CLUSTER_SCHED_POLICY": policy},
    )
    assert ended.said == [["by itself", 13], ["answered", "through"], ["exit", 0, None]]
