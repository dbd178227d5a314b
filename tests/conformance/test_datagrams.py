"""Datagram sockets that workers share: always the socket itself, whatever the scheduling."""

import socket

import pytest

from tests.conformance.programs import Run, conforms

RECEIVE = """
            class Count(asyncio.DatagramProtocol):
                def __init__(self):
                    self.left = 10
                def connection_made(self, transport):
                    self.transport = transport
                def datagram_received(self, data, address):
                    self.left -= 1
                    if self.left == 0:
                        self.transport.close()
                        say("ten", cluster.worker.id)
                        cluster.worker.disconnect()
"""


@conforms(7)
def test_port_0_again_and_again(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                for _ in range(2):
                    made = [await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
                            for _ in range(2)]
                    say(len({transport.get_extra_info("sockname")[1] for transport, _ in made}))
                    for transport, _ in made:
                        transport.close()
                    await asyncio.sleep(0)
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[2], [2], ["exit", 0, None]]


@conforms(11)
def test_four_workers_take_their_part_of_one_port(run: Run) -> None:
    ended = run(f"""
        if cluster.is_primary:
            ports, finished = set(), 0
            @cluster.on("listening")
            async def _(worker, info):
                ports.add((info.port, info.address_type, info.fd))
                if len(ports) == 1 and worker.id == 4:
                    pass
            listening = 0
            @cluster.on("listening")
            async def _(worker, info):
                global listening
                listening += 1
                if listening < 4:
                    return
                say("ports", len(ports), info.address_type, info.fd)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    for _ in range(40):
                        sender.sendto(b"x", ("127.0.0.1", info.port))
            for _ in range(4):
                cluster.fork()
            cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.run()
        else:
            {RECEIVE}
            async def main():
                await cluster.create_datagram_endpoint(Count, ("127.0.0.1", 0))
                await never()
            cluster.run(main())
    """)
    assert ended.said[0] == ["ports", 1, "udp4", -1]
    assert sorted(ended.of("ten")) == [[1], [2], [3], [4]]
    assert ended.of("exit") == [[0, None]] * 4


@conforms(12)
def test_four_workers_send_from_one_port(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            class Sink(asyncio.DatagramProtocol):
                count = 0
                sources = set()
                def datagram_received(self, data, address):
                    self.count += 1
                    self.sources.add(address)
                    if self.count == 40:
                        say("forty", len(self.sources))
                        cluster.disconnect()
            async def main():
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Sink, ("127.0.0.1", 0))
                for _ in range(4):
                    cluster.fork({"PORT": transport.get_extra_info("sockname")[1]})
                cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.run(main())
        else:
            async def main():
                transport, _ = await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
                for _ in range(10):
                    transport.sendto(b"x", ("127.0.0.1", int(os.environ["PORT"])))
                await never()
            cluster.run(main())
    """)
    assert ended.said == [["forty", 1], *[["exit", 0, None]] * 4]


@conforms(13)
def test_a_descriptor_of_the_primary_is_shared(run: Run) -> None:
    ended = run(f"""
        if cluster.is_primary:
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind(("127.0.0.1", 0))
            listening = 0
            @cluster.on("listening")
            def _(worker, info):
                global listening
                listening += 1
                if listening == 4:
                    say("fd", info.fd == bound.fileno())
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                        for _ in range(40):
                            sender.sendto(b"x", bound.getsockname())
            for _ in range(4):
                cluster.fork({{"FD": bound.fileno()}})
            cluster.on("exit", lambda worker, *how: say("exit", *how))
            cluster.run()
        else:
            {RECEIVE}
            async def main():
                await cluster.create_datagram_endpoint(Count, fd=int(os.environ["FD"]))
                await never()
            cluster.run(main())
    """)
    assert ended.said[0] == ["fd", True]
    assert sorted(ended.of("ten")) == [[1], [2], [3], [4]]


@conforms(14)
def test_ipv6_alone_leaves_ipv4_free(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                six, _ = await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("::", 0), ipv6_only=True)
                port = six.get_extra_info("sockname")[1]
                four, _ = await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("0.0.0.0", port))
                say(four.get_extra_info("sockname")[1] == port)
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[True], ["exit", 0, None]]


@pytest.mark.parametrize(
    "how", [pytest.param("reuse_address", marks=conforms(15)), pytest.param("reuse_port", marks=conforms(16))]
)
def test_two_sockets_of_one_worker_share_a_port_if_they_say_so(run: Run, how: str) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("listening", lambda info: say("listening"))
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            async def main():
                more = {sys.argv[1]: True}
                one, _ = await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0), **more)
                address = one.get_extra_info("sockname")
                two, _ = await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, address, **more)
                two.close()
                third, _ = await cluster.create_datagram_endpoint(asyncio.DatagramProtocol, address, **more)
                say(third.get_extra_info("sockname") == address)
                cluster.worker.disconnect()
                await never()
            cluster.run(main())
        """,
        how,
    )
    assert ended.of("listening") == ([[]] * 3 if how == "reuse_address" else [])
    assert ended.said[-1] == ["exit", 0, None]
    assert [True] in ended.said


def test_a_bound_port_of_another_is_in_use_and_a_closed_one_can_be_had_again(run: Run) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        ended = run(
            """
            if cluster.is_primary:
                cluster.fork().on("exit", lambda *how: say("exit", *how))
                cluster.run()
            else:
                async def main():
                    bind = lambda port: cluster.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", port))
                    try:
                        await bind(int(sys.argv[1]))
                    except OSError as error:
                        say(error.errno)
                    one, _ = await bind(0)
                    port = one.get_extra_info("sockname")[1]
                    one.close()
                    await asyncio.sleep(0.01)
                    two, _ = await bind(port)
                    say("again")
                    cluster.worker.disconnect()
                    await never()
                cluster.run(main())
            """,
            str(other.getsockname()[1]),
        )
    assert ended.said == [[98], ["again"], ["exit", 0, None]]


@conforms(216)
def test_a_socket_that_sends_first_is_the_workers_own(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            ports = set()
            @cluster.on("message")
            def _(worker, port, handle):
                ports.add((worker.id, port))
                if len(ports) == 2:
                    say(len({port for _, port in ports}))
                    cluster.disconnect()
            cluster.fork(), cluster.fork()
            cluster.run()
        else:
            async def main():
                transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                    asyncio.DatagramProtocol, remote_addr=("127.0.0.1", 9))
                cluster.worker.send(transport.get_extra_info("sockname")[1])
                await never()
            cluster.run(main())
    """)
    assert ended.said == [[2]]
