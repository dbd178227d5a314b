"""The worker's end of its channel, on a real socket pair with the primary's half played by hand."""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from clusterd.wire import messages
from clusterd.wire.channel import Channel, Received
from clusterd.worker.link import Link

pytestmark = pytest.mark.usefixtures("no_fd_leak")

DEADLINE = 5.0


class Primary:
    """The other end."""

    def __init__(self, early: list[Received] | None = None) -> None:
        near, self.socket = socket.socketpair()
        self.socket.settimeout(DEADLINE)
        loop = asyncio.get_running_loop()
        self.link = Link(loop, near, Channel(), early or [], worker=7, slot=2, pool="web", generation=3)
        self.gone: list[bool] = []
        self.link.on_primary_gone(lambda: self.gone.append(True))

    def heard(self) -> list[Any]:
        """What has been written so far."""
        self.socket.setblocking(False)
        data = b""
        try:
            while piece := self.socket.recv(65536):
                data += piece
        except BlockingIOError:
            pass
        return [json.loads(line) for line in data.splitlines()]

    def acts(self) -> list[str]:
        return [message["act"] for message in self.heard()]


def play(scene: Callable[[Primary], Any], early: list[Received] | None = None) -> None:
    async def main() -> None:
        primary = Primary(early)
        try:
            await asyncio.wait_for(scene(primary), DEADLINE)
        finally:
            primary.link.close()
            primary.socket.close()

    asyncio.run(main())


def test_it_knows_who_it_is_and_tells_its_life_in_nodes_words() -> None:
    async def scene(primary: Primary) -> None:
        link = primary.link
        assert (link.id, link.slot, link.pool, link.generation) == (7, 2, "web", 3)
        link.online()
        link.listening("127.0.0.1", 80, 4)
        link.ready()
        link.failed("lifespan", "why")
        told = primary.heard()
        assert [message["act"] for message in told] == ["online", "listening", "ready", "failed"]
        assert {message["cmd"] for message in told} == {"NODE_CLUSTER"}
        assert [message["seq"] for message in told] == [0, 1, 2, 3]

    play(scene)


def test_disconnect_and_end_of_file_both_mean_drain_but_only_one_means_death() -> None:
    async def asked(primary: Primary) -> None:
        primary.socket.send(json.dumps(messages.disconnect()).encode() + b"\n")
        await primary.link.draining.wait()
        assert not primary.link.primary_gone
        assert primary.gone == []

    async def dead(primary: Primary) -> None:
        primary.socket.shutdown(socket.SHUT_RDWR)
        await primary.link.draining.wait()
        assert primary.link.primary_gone
        assert primary.gone == [True]

    play(asked)
    play(dead)


def test_disconnect_that_came_with_go_is_heard() -> None:
    async def scene(primary: Primary) -> None:
        assert primary.link.draining.is_set()

    play(scene, [Received(messages.disconnect(), None, True)])


def test_a_primary_that_speaks_garbage_counts_as_dead() -> None:
    async def scene(primary: Primary) -> None:
        primary.socket.send(b"no JSON\n")
        await primary.link.draining.wait()
        assert primary.gone == [True]

    play(scene)


def test_acts_of_a_later_version_are_passed_over() -> None:
    async def scene(primary: Primary) -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        primary.link.on_message(lambda message, fd, kind: heard.put_nowait(message))
        primary.socket.send(b'{"cmd":"NODE_CLUSTER","act":"sing"}\n{"cmd":"NODE_CLUSTER","act":7}\n"of the app"\n')
        assert await heard.get() == "of the app"
        assert not primary.link.draining.is_set()

    play(scene)


def test_messages_of_the_app_travel_with_their_descriptors() -> None:
    async def scene(primary: Primary) -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        primary.link.on_message(lambda message, fd, kind: heard.put_nowait((message, fd)))
        reading, writing = os.pipe()
        envelope = json.dumps({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {"hello": 1}}).encode()
        socket.send_fds(primary.socket, [envelope + b"\n"], [reading])
        os.close(reading)
        message, fd = await heard.get()
        assert message == {"hello": 1}
        os.write(writing, b"x")
        assert os.read(fd, 1) == b"x"
        os.close(fd)
        os.close(writing)
        assert [answer["cmd"] for answer in primary.heard()] == ["NODE_HANDLE_ACK"]

    play(scene)


def test_leaving_is_said_once() -> None:
    async def scene(primary: Primary) -> None:
        primary.link.leave()
        primary.link.leave()
        assert primary.acts() == ["exitedAfterDisconnect"]
        assert primary.link.draining.is_set()
        assert primary.link.exited_after_disconnect

    play(scene)


def test_after_close_nothing_is_said_and_the_end_is_no_death() -> None:
    async def scene(primary: Primary) -> None:
        primary.link.close()
        primary.link.ready()
        assert primary.heard() == []
        assert primary.socket.recv(1) == b""
        assert not primary.link.primary_gone

    play(scene)
